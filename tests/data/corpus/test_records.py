"""Parquet files and TFDS datasets as sources of documents."""

import itertools
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tensorflow_datasets as tfds
from pyarrow import parquet

from bert_jax.data.corpus import documents
from bert_jax.data.corpus.documents import Document, Source
from bert_jax.data.corpus.sources import open_source
from bert_jax.errors import UserError
from tests.fixtures.tfds import build_dataset


def _read(source: Source) -> list[Document]:
    return list(itertools.chain.from_iterable(map(source.read, source.pieces)))


def _refusal(spec: str) -> str:
    with pytest.raises(UserError) as caught:
        _read(open_source(spec))
    message = str(caught.value)
    assert "\n" not in message
    return message


# Parquet


def _write_parquet(path: Path, values: list, kind: pa.DataType | None = None, **how) -> Path:
    column = pa.array(values, kind or pa.string())
    table = pa.table({"id": pa.array(range(len(values))), "text": column})
    parquet.write_table(table, path, **how)
    return path


def _texts(count: int) -> list[str]:
    return [f"Row {n}.\n\n Second é\u2028line. " if n % 7 else " \n" for n in range(count)]


def _lines(n: int) -> list[str]:
    return [f"Row {n}.", "Second é line."] if n % 7 else []


def test_parquet_is_read_by_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bert_jax.data.corpus.records._BATCH_ROWS", 4)
    a = _write_parquet(tmp_path / "a.parquet", _texts(50), row_group_size=10)
    b = _write_parquet(tmp_path / "b.parquet", _texts(3))
    source = open_source(f"parquet:{tmp_path}/*.parquet#text")
    expected = [Document(f"{a} row {n}", _lines(n)) for n in range(50)]
    expected += [Document(f"{b} row {n}", _lines(n)) for n in range(3)]
    assert len(source.pieces) == 1 and [len(p.spans) for p in source.pieces] == [2]
    assert _read(source) == expected

    metadata = parquet.read_metadata(a)
    sizes = [metadata.row_group(group).total_byte_size for group in range(5)]
    monkeypatch.setattr(documents, "PIECE_BYTES", max(sizes) * 5 // 2)
    source = pickle.loads(pickle.dumps(open_source(f"parquet:{tmp_path}#text")))
    spans = [[(span.begin, span.end) for span in piece.spans] for piece in source.pieces]
    assert spans == [[(0, 2)], [(2, 4)], [(4, 5), (0, 1)]]
    assert source.pieces[0].size == sizes[0] + sizes[1]
    assert _read(source) == expected


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_columns_of_text_may_be_stored_in_any_way(tmp_path: Path, kind: pa.DataType) -> None:
    path = _write_parquet(tmp_path / "a", ["One.", "Two.", "One."], kind)
    documents = _read(open_source(f"parquet:{path}#text"))
    assert [document.lines for document in documents] == [["One."], ["Two."], ["One."]]


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([1, 2], pa.int64(), ": column 'text' is int64: write strings"),
        ([b"a"], pa.binary(), ": column 'text' is binary: write strings"),
        ([["a"]], pa.list_(pa.string()), ": column 'text' is list<"),
        (["a", None], None, " row 1: field 'text' is null: write text"),
        (["a", "b\0"], None, " row 1 has a NUL character"),
        (["a" * 20], None, " row 0: the document that begins here has more than"),
        ([], None, " has no rows: leave it out"),
        (["", " \n"], None, " has no text: leave it out"),
    ],
)
def test_faulty_columns_are_refused_by_place(
    values: list,
    kind: pa.DataType | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 20)
    path = _write_parquet(tmp_path / "a.parquet", values, kind)
    assert f"{path}{message}" in _refusal(f"parquet:{path}#text")


def test_a_column_is_one_by_its_name(tmp_path: Path) -> None:
    path = _write_parquet(tmp_path / "a.parquet", ["One."])
    assert f"{path} has 0 columns 'body', not one: its columns are id, text" in _refusal(
        f"parquet:{path}#body"
    )
    twice = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    parquet.write_table(twice, path)
    assert f"{path} has 2 columns 'text'" in _refusal(f"parquet:{path}#text")


def test_parquet_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    column = pa.array([b"One.", b"Tw\xe9."], pa.binary()).view(pa.string())
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": column}), path)
    assert f"{path} row 1: field 'text' is not UTF-8" in _refusal(f"parquet:{path}#text")


def test_what_is_not_parquet_is_refused(tmp_path: Path) -> None:
    path = _write_parquet(tmp_path / "a.parquet", _texts(50))
    source = open_source(f"parquet:{path}#text")
    content = path.read_bytes()
    for damaged in (b"Plain text.", content[:-1], content[: len(content) // 2], content[8:]):
        path.write_bytes(damaged)
        assert f"{path} is not Parquet, damaged or incomplete (" in _refusal(f"parquet:{path}#text")
    path.unlink()
    with pytest.raises(UserError, match=f"cannot read {path}: No such file"):
        _read(source)


# TFDS


class Animals(tfds.core.GeneratorBasedBuilder):
    """A dataset of this test: the records of two splits."""

    VERSION = tfds.core.Version("1.2.3")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("en", "fr")]

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        features = {"text": text, "names": tfds.features.Sequence(text), "label": np.int64}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, _: object) -> dict[str, Iterator]:
        return {"train": self._generate_examples(50), "dev": self._generate_examples(11)}

    def _generate_examples(self, count: int) -> Iterator[tuple[int, dict]]:
        for number, text in enumerate(_texts(count)):
            yield number, {"text": text, "names": ["a", "b"], "label": number}


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a prepared dataset, three to a split."""
    build_dataset(Animals, tmp_path, monkeypatch, config="en", shards=3)
    return tmp_path / "animals" / "en" / "1.2.3"


@pytest.mark.parametrize("size", [1 << 24, 1 << 14])
def test_tfds_records_are_documents(
    size: int, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "PIECE_BYTES", size)
    monkeypatch.setattr("bert_jax.data.corpus.records._BATCH_ROWS", 4)
    everything = tfds.builder_from_directory(dataset).as_data_source("train")
    order = [int(record["label"]) for record in everything]
    assert sorted(order) == list(range(50)) and order != sorted(order)  # TFDS shuffles once

    for spec, expected in (
        ("animals/en:train", order),
        ("animals/en:1.2.3:train", order),
        ("animals:train", order),
        ("animals/en:train[5:40]", order[5:40]),
        ("animals/en:train[:3]+train[30:]", order[:3] + order[30:]),
    ):
        source = pickle.loads(pickle.dumps(open_source(f"tfds:{spec}#text")))
        assert len(source.pieces) > 5 or size == 1 << 24
        assert [document.lines for document in _read(source)] == [_lines(n) for n in expected]
    shard = dataset / "animals-train.array_record-00000-of-00003"
    assert _read(open_source("tfds:animals/en:train[5:40]#text"))[0].name == f"{shard} record 5"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "animals/fr:train#text",
            "'animals/fr' is not prepared in {0}: run `tfds build animals/fr",
        ),
        ("animals/en:1.2.4:train#text", "'animals/en:1.2.4' is not prepared in {0}"),
        ("plants:train#text", "--file_format=array_record`, or set the"),
        ("animals/en:test#text", "has no records in a split 'test': choose one of train, dev"),
        ("animals/en:train[:x]#text", "has no records in a split 'train[:x]'"),
        ("animals/en:train[:0]#text", "has no records in a split 'train[:0]'"),
        ("animals/en:train#body", "has no feature 'body': choose one of label, names, text"),
        (
            "animals/en:train#label",
            "feature 'label' is Tensor(shape=(), dtype=int64): choose a text feature",
        ),
        (
            "animals/en:train#names",
            "feature 'names' is Sequence(Text(shape=(), dtype=string)): choose",
        ),
        ("animals/en#text", "does not name a dataset, a split and a field: write tfds:NAME"),
        ("animals/en:train", "does not name a dataset, a split and a field: write tfds:NAME"),
        ("../animals:train#text", "does not name a dataset"),
    ],
)
def test_what_tfds_does_not_have_is_refused(spec: str, message: str, dataset: Path) -> None:
    assert message.format(dataset.parents[2]) in _refusal(f"tfds:{spec}")


def test_tfds_in_another_format_is_refused(dataset: Path) -> None:
    # Without TensorFlow none can be written: the names of the files are all that is looked at.
    info = json.loads((dataset / "dataset_info.json").read_text())
    (dataset / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    for path in dataset.glob("*.array_record-*"):
        path.rename(str(path).replace("array_record", "tfrecord"))
    refusal = _refusal("tfds:animals/en:train#text")
    assert f"{dataset} is stored as tfrecord, not as array_record: run `tfds build" in refusal
    assert f"`tfds convert_format --dataset_version_dir={dataset} --out_file" in refusal


def test_damaged_tfds_files_are_refused(dataset: Path) -> None:
    path = dataset / "animals-train.array_record-00001-of-00003"
    content = path.read_bytes()
    middle = len(content) // 2
    for damaged in (b"", content[:middle], b"\0" * len(content), content[:-1]):
        path.write_bytes(damaged)
        assert f"{path} is damaged or incomplete (" in _refusal("tfds:animals/en:train#text")
    path.unlink()
    assert f"cannot read {path}: No such file" in _refusal("tfds:animals/en:train#text")
    for name in ("features.json", "dataset_info.json"):
        content = (dataset / name).read_bytes()
        (dataset / name).write_bytes(content[: len(content) // 2])
        assert "'animals/en' is damaged or incomplete (" in _refusal("tfds:animals/en:dev#text")
        (dataset / name).write_bytes(content)


def test_large_libraries_are_imported_only_where_they_read(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One.")
    program = """
import sys
from bert_jax.data.corpus.sources import open_source
large = ("pyarrow", "tensorflow_datasets", "tensorflow", "jax")
for spec in sys.argv[1:]:
    for piece in (source := open_source(spec)).pieces:
        list(source.read(piece))
    print(*[name for name in large if name in sys.modules])
"""
    specs = [f"text:{tmp_path}/a.txt", "tfds:animals/en:train#text"]
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *specs],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"TFDS_DATA_DIR": str(tmp_path)},
    )
    assert not process.stderr
    first, second = process.stdout.splitlines()
    assert first == "" and "tensorflow_datasets" in second.split()
    assert not {"tensorflow", "jax"} & set(second.split())
