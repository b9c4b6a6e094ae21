"""Rows of labelled files and of TFDS datasets."""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bert_jax.data.tasks.bad_rows import BadRows
from bert_jax.data.tasks.tables import Row, column, number_value, read_lines, read_rows, text_value
from bert_jax.errors import UserError
from tests.fixtures.damage import damaged
from tests.fixtures.tfds import build_dataset


def read(path: Path, content: str | bytes, *, header: bool = True) -> list[tuple[str, Row]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return rows_of(str(path), header=header)


def rows_of(source: str, *, header: bool = True) -> list[tuple[str, Row]]:
    bad = BadRows(source, skip=False)
    rows = list(read_rows(source, header=header, bad=bad))
    bad.close(1, "rows")
    return rows


def refusal(function: Callable, *args: object, **how: object) -> str:
    with pytest.raises(UserError) as caught:
        list(function(*args, **how))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Separated files and JSON lines


def test_every_format_reads_the_same(tmp_path: Path) -> None:
    rows = [("one, two", "yes"), ('say "no"', "no"), ("thr\u2028\u00e9e\x0b", "yes")]
    tsv = "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows)
    csv = 'text,label\n"one, two",yes\r\n"say ""no""",no\nthr\u2028\u00e9e\x0b,yes'
    jsonl = "\n".join(json.dumps({"text": text, "label": label}) for text, label in rows)
    bare = tsv.removeprefix("text\tlabel\n").replace("\n", "\r\n").removesuffix("\r\n")
    expected = [{"text": text, "label": label} for text, label in rows]
    for name, content in (
        ("a.tsv", tsv),
        ("a.tsv", b"\xef\xbb\xbf" + tsv.encode()),
        ("a.tsv", tsv.replace("\n", "\r\n\r\n")),
        ("a.csv", csv),
        ("a.csv", b"\xef\xbb\xbf" + csv.encode()),
        ("a.jsonl", jsonl),
        ("a.jsonl", "\ufeff" + jsonl.replace("\n", "\r\n \r\n")),
    ):
        assert [row for _, row in read(tmp_path / name, content)] == expected
    numbered = [{"0": text, "1": label} for text, label in rows]
    for name, content in (("b.tsv", bare), ("b.csv", csv.removeprefix("text,label\n"))):
        assert [row for _, row in read(tmp_path / name, content, header=False)] == numbered


def test_a_place_is_the_line_where_a_row_begins(tmp_path: Path) -> None:
    def lines(name: str, content: str, *, header: bool = True) -> list[str]:
        rows = read(tmp_path / name, content, header=header)
        return [location.removeprefix(f"{tmp_path / name}:") for location, _ in rows]

    assert lines("a.tsv", "a\n\nb\nc") == ["3", "4"]
    assert lines("a.tsv", "a\n\nb\nc", header=False) == ["1", "3", "4"]
    assert lines("a.csv", 'a,b\n"1\n\n2",3\n\n4,5\n') == ["2", "6"]
    assert lines("a.jsonl", "{}\n\n{}") == ["1", "3"]


def test_values_keep_their_kind(tmp_path: Path) -> None:
    ((_, row),) = read(tmp_path / "a.csv", 'a,b,c\n"1\r\n2", x ,\n')
    assert row == {"a": "1\n2", "b": " x ", "c": ""}
    ((_, row),) = read(tmp_path / "a.tsv", "a\tb\t\t\n\"\t x \t'\t\n")  # two without a name
    assert row == {"a": '"', "b": " x ", "": ""}
    content = r'{"a": 1.0, "b": null, "c": [true, {"d": "\ud83d\ude00"}]}'
    ((_, row),) = read(tmp_path / "a.jsonl", content)
    assert row == {"a": 1.0, "b": None, "c": [True, {"d": "\U0001f600"}]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "a\tb\n1\t2\n3\n", "a.tsv:3 has 1 columns, but the first line has 2: write"),
        ("a.csv", "a,b\n1,2,3\n", "a.csv:2 has 3 columns, but the first line has 2: write"),
        ("a.tsv", "a\tb\ta\n", "a.tsv:1 names the column 'a' twice: rename one of them"),
        ("a.tsv", b"a\n" + b"b\n" * 9000 + b"c\xff\n", "a.tsv is not UTF-8 at byte 18003 in line "),
        (
            "a.csv",
            b"a\xc3\xa9\n\n\xff\n",
            "a.csv is not UTF-8 at byte 5 in line 3: convert the file",
        ),
        ("a.jsonl", b"{}\n\xff", "a.jsonl is not UTF-8 at byte 3 in line 2: convert the file"),
        ("a.csv", 'a,b\n1,2\n"3,4\n', "a.csv:3 is not CSV (unexpected end of data): put values"),
        ("a.csv", 'a\n"1"2\n', "a.csv:2 is not CSV (',' expected after '\"'): put values into"),
        ("a.csv", "a\rb\n", "a.csv:1 is not CSV (new-line character seen in unquoted field"),
        ("a.jsonl", "{}\n[1]\n", "a.jsonl:2 is not a JSON object: write {...} in every line"),
        ("a.jsonl", '{}\n{"a": 1\n', "a.jsonl:2 is not JSON (Expecting ',' delimiter: line 1"),
        ("a.jsonl", '{"a": ' + "9" * 5000 + "}", "a.jsonl:1 is not JSON (Exceeds the limit"),
        ("a.jsonl", "[" * 100_000, "a.jsonl:1 is not JSON (maximum recursion depth exceeded"),
        (
            "a.jsonl",
            r'{"a": "\uD800"}',
            "a.jsonl:1 has half of a surrogate pair: write both halves",
        ),
        ("a.tsv", "ab\tc\n".encode("utf-16-le"), "a.tsv is UTF-16 or UTF-32: convert the file to"),
        ("a.csv", "ab,c\n".encode("utf-16-be"), "a.csv is UTF-16 or UTF-32: convert the file to"),
        ("a.csv", "ab,c\n".encode("utf-16"), "a.csv is not UTF-8 at byte 0 in line 1: convert"),
        ("a.xml", "x", "a.xml: the name must end in .tsv, .txt, .csv, .jsonl, or be tfds:NAME"),
    ],
)
def test_a_wrong_file_is_named(
    name: str, content: str | bytes, message: str, tmp_path: Path
) -> None:
    assert message in refusal(read, tmp_path / name, content)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for suffix in (".tsv", ".csv", ".jsonl"):
        message = refusal(rows_of, f"{tmp_path}/a{suffix}", header=True)
        assert message == f"cannot read {tmp_path}/a{suffix}: No such file or directory"


def test_lines_end_in_line_feeds_only(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes("\ufeffa\rb\x85\u2028\x0c\r\n\r\n\ufeffc\r\r\n\n".encode())
    assert list(read_lines(str(path))) == [
        (f"{path}:1", "a\rb\x85\u2028\x0c"),
        (f"{path}:2", ""),
        (f"{path}:3", "\ufeffc\r"),
        (f"{path}:4", ""),
    ]


# Columns


def test_a_column_is_the_first_alternative_that_the_row_has() -> None:
    row: Row = {"3": "c", "sentence": "s"}
    assert column(row, "sentence|3", "f:1", "text_column") == "s"
    assert column(row, "text|3|sentence", "f:1", "text_column") == "c"
    assert column({"a": None}, "a", "f:1", "text_column") is None
    message = refusal(column, row, "text|4", "f:7", "text_column")
    assert message == (
        "f:7 has no column 'text' or '4': it has '3', 'sentence'; set --config.data.text_column"
    )
    assert "f:1 has no column 'a': it has none; set" in refusal(column, {}, "a", "f:1", "x")


@pytest.mark.parametrize(
    ("value", "text"),
    [(" a\u00a0b\n", "a\u00a0b"), (1, "1"), (-2.50, "-2.5"), (True, "true"), (0, "0")],
)
def test_texts_are_stripped_and_numbers_written_as_json(value: object, text: str) -> None:
    assert text_value({"a": "b", "c": value}, "x|c", "f:1", "text_column") == text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "f:3 has an empty 'c': fill it in, or remove the row"),
        (" \u2003\n", "f:3 has an empty 'c': fill it in"),
        (None, "f:3 has an empty 'c': fill it in"),
        (["a"], "f:3 has ['a'] in 'c': write text"),
        ({"a\n": 1}, "f:3 has {'a\\n': 1} in 'c': write text"),
        (b"\xff", "f:3 has b'\\xff' in 'c': write text"),
        (float("nan"), "f:3 has an empty 'c': fill it in"),
        (float("inf"), "f:3 has inf in 'c': write text"),
        (["a" * 100], "f:3 has ['" + "a" * 58 + "... in 'c': write text"),
    ],
)
def test_what_is_no_text_is_refused(value: object, message: str) -> None:
    assert message in refusal(text_value, {"c": value}, "x|c", "f:3", "text_column")


@pytest.mark.parametrize(
    ("value", "number"),
    [(" 3.5\n", 3.5), ("-7", -7), ("+.5e-3", 0.0005), ("4.", 4), (2, 2), (0.0, 0), (1e300, 1e300)],
)
def test_numbers_are_read_from_text_too(value: object, number: float) -> None:
    found = number_value({"c": value}, "x|c", "f:1", "label_column")
    assert isinstance(found, float) and found == number


@pytest.mark.parametrize(
    "value",
    ["abc", "1,5", "1_000", "nan", "inf", "\u0663", "1 2", "1e999", "9" * 400, "0x1", "."]
    + [True, float("inf"), 10**400, [1], {}],
)
def test_what_is_no_number_is_refused(value: object) -> None:
    message = refusal(number_value, {"c": value}, "x|c", "f:3", "label_column")
    assert message.startswith("f:3 has ") and " in 'c': write a number" in message
    assert len(message) < 140
    for missing in ("", " ", None, float("nan")):
        message = refusal(number_value, {"c": missing}, "x|c", "f:3", "label_column")
        assert message.startswith(f"f:3 has no gold label ({missing!r} in 'c')")
    assert "no column 'd'" in refusal(number_value, {"c": 1}, "d", "f:3", "label_column")


# Damage


def _tsv_rows(content: bytes) -> list[dict[str, str]] | None:
    """Reads a .tsv file in another way; None where it is wrong."""
    try:
        text = content.decode("utf-8-sig" if content.startswith(b"\xef\xbb\xbf") else "utf-8")
    except UnicodeDecodeError:
        return None
    lines = [line.removesuffix("\r").split("\t") for line in text.split("\n")]
    if "\0" in text[:4].partition("\n")[0]:  # taken for UTF-16
        return None
    names, *rows = [line for line in lines if line != [""]] or [[]]
    named = [name for name in names if name]
    if any(len(row) != len(names) for row in rows) or len(named) > len(set(named)):
        return None
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_damaged_tables_are_read_in_full_or_refused(tmp_path: Path) -> None:
    rng = random.Random(14)
    texts = ["one \u00e9", "two, \u2028", "\U0001f600 three", "four", ""]
    rows = [{"text": text, "n": str(number)} for number, text in enumerate(texts * 3)]
    lines = ["text\tn", *("\t".join(row.values()) for row in rows)]
    contents = {
        "tsv": "\ufeff" + "\r\n".join(lines),
        "csv": "text,n\n"
        + "\n".join(f'"{text} ""x"" \n{text}",{n}' for n, text in enumerate(texts)),
        "jsonl": "\n".join(map(json.dumps, rows)),
    }
    for suffix, content in contents.items():
        path, results = tmp_path / f"a.{suffix}", Counter()
        for _ in range(500):
            stored = damaged(content.encode(), rng)
            try:
                found = [row for _, row in read(path, stored)]
            except UserError as error:
                assert "\n" not in str(error)
                found = None
            if suffix == "tsv":
                assert found == _tsv_rows(stored)
            results[found is None] += 1
        assert min(results.values()) > 30 and len(results) == 2


# TFDS


class Reviews(tfds.core.GeneratorBasedBuilder):
    """A dataset of this test, with values of every kind."""

    VERSION = tfds.core.Version("1.2.3")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="en")]

    def _info(self) -> tfds.core.DatasetInfo:
        feature = tfds.features
        moods = feature.ClassLabel(names=["bad", "so so", "good"])
        features = {
            "number": np.int64,
            "text": feature.Text(),
            "mood": moods,
            "moods": feature.Sequence(moods),
            "grade": feature.ClassLabel(num_classes=7),
            "share": np.float32,
            "sure": np.bool_,
            "answers": feature.Sequence({"text": feature.Text(), "mood": moods, "at": np.int32}),
            "inner": {"words": feature.Sequence(feature.Text()), "mood": moods},
            "matrix": feature.Tensor(shape=(2, 3), dtype=np.int64),
            "bytes": feature.Tensor(shape=(2,), dtype=np.object_),
        }
        return tfds.core.DatasetInfo(builder=self, features=feature.FeaturesDict(features))

    def _split_generators(self, _: object) -> dict[str, Iterator]:
        return {"train": self._generate_examples(11), "dev": self._generate_examples(3)}

    def _generate_examples(self, count: int) -> Iterator[tuple[int, dict]]:
        for number in range(count):
            words = ["\u00e9", "b", "c"][: number % 4]
            yield (
                number,
                {
                    "number": number,
                    "text": f" \u00e9 {number}\n",
                    "mood": number % 4 - 1,
                    "moods": [2, 0, 1][: number % 4],
                    "grade": number % 7,
                    "share": 0.25 * number,
                    "sure": number % 2 == 0,
                    "answers": {
                        "text": words,
                        "mood": [1, 1, 0][: number % 4],
                        "at": words and [7] * len(words),
                    },
                    "inner": {"words": words, "mood": 2},
                    "matrix": [[1, 2, 3], [4, 5, number]],
                    "bytes": [b"a", b"\xff"],
                },
            )


def _expected(number: int) -> Row:
    count = number % 4
    words = ["\u00e9", "b", "c"][:count]
    return {
        "number": number,
        "text": f" \u00e9 {number}\n",
        "mood": [None, "bad", "so so", "good"][count],
        "moods": ["good", "bad", "so so"][:count],
        "grade": str(number % 7),
        "share": 0.25 * number,
        "sure": number % 2 == 0,
        "answers": {"text": words, "mood": ["so so", "so so", "bad"][:count], "at": [7] * count},
        "inner": {"words": words, "mood": "good"},
        "matrix": [[1, 2, 3], [4, 5, number]],
        "bytes": ["a", b"\xff"],
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The files of a prepared dataset, where TFDS looks for them."""
    path = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as monkeypatch:
        build_dataset(Reviews, path, monkeypatch, config="en")
        yield path / "reviews" / "en" / "1.2.3"


def _kinds(value: object) -> object:
    """Replaces values by their types: 1, True and NumPy's 1 are equal."""
    if isinstance(value, dict):
        return {name: _kinds(each) for name, each in value.items()}
    return [_kinds(each) for each in value] if isinstance(value, list) else type(value)


def test_tfds_records_are_rows(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bert_jax.data.corpus.records._BATCH_ROWS", 4)
    order = [
        record["number"] for record in tfds.builder_from_directory(dataset).as_data_source("train")
    ]
    assert sorted(order) == list(range(11)) and order != sorted(order)  # TFDS shuffles once
    for spec, expected in (
        ("reviews/en:train", order),
        ("reviews:train", order),
        ("reviews/en:1.2.3:train[2:9]", order[2:9]),
    ):
        rows = rows_of(f"tfds:{spec}", header=False)
        assert [row for _, row in rows] == [_expected(number) for number in expected]
        assert [_kinds(row) for _, row in rows] == [_kinds(_expected(n)) for n in expected]
        locations = [f"tfds:{spec} record {number}" for number in range(len(expected))]
        assert [location for location, _ in rows] == locations


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("reviews/en", "'tfds:reviews/en' does not name a dataset and a split: write tfds:NAME"),
        ("../reviews:train", "does not name a dataset and a split"),
        ("reviews/fr:train", "'reviews/fr' is not prepared in {0}: run `tfds build reviews/fr"),
        ("reviews/en:test", "has no records in a split 'test': choose one of train, dev"),
        ("reviews/en:train[:0]", "has no records in a split 'train[:0]'"),
    ],
)
def test_what_tfds_does_not_have_is_refused(spec: str, message: str, dataset: Path) -> None:
    place = dataset.parents[2]
    found = refusal(rows_of, f"tfds:{spec}", header=True)
    assert message.format(place) in found and "damaged" not in found


def test_damaged_tfds_files_are_read_or_refused(dataset: Path) -> None:
    rng, results = random.Random(15), Counter()
    kept = {path: path.read_bytes() for path in sorted(dataset.iterdir())}
    for number in range(48):
        path = list(kept)[number % len(kept)]
        path.write_bytes(damaged(kept[path], rng))
        try:
            rows_of("tfds:reviews:dev")
            results["read"] += 1
        except UserError as error:
            assert "\n" not in str(error)
            results["refused"] += 1
        path.write_bytes(kept[path])
    assert min(results.values()) > 5 and len(results) == 2
    shard = dataset / "reviews-dev.array_record-00000-of-00001"
    shard.unlink()
    message = refusal(rows_of, "tfds:reviews:dev", header=True)
    shard.write_bytes(kept[shard])
    assert f"{dataset} is damaged or incomplete (" in message


@pytest.mark.parametrize(
    "name", ["tfds:glue:train.tsv", "~a.tsv", "a,b [1]*.tsv", "é\n.tsv", "~/a.tsv"]
)
def test_the_name_of_a_file_is_taken_as_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / name.removeprefix("~/")).write_text("text\tlabel\na film\tgood\n")
    assert [row for _, row in rows_of(name)] == [{"text": "a film", "label": "good"}]
