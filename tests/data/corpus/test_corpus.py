"""The corpus on disk: what is written comes back, and damage is told in one line."""

import json
import pathlib

import numpy as np
import pytest

from bert_jax.config import PretrainDataConfig
from bert_jax.data.corpus import corpus as corpora
from bert_jax.data.corpus import shards as writing
from bert_jax.data.pretraining.phases import with_length
from bert_jax.data.pretraining.plan import check_corpus
from bert_jax.data.pretraining.rows import held_out_rows, row_format
from bert_jax.errors import UserError
from tests.fixtures.data import SPECIAL, Documents, add_documents, make_documents, write_corpus

DOCUMENTS = make_documents(23, seed=1)
TRAIN_FILES = [
    f"train/{shard:05d}.{kind}.npy"
    for shard in range(2)
    for kind in ("tokens", "sentence_ends", "document_ends")
]


def one_line(error: pytest.ExceptionInfo[UserError], *parts: str) -> None:
    """Checks that a message is one line, names these things and says what to do."""
    message = str(error.value)
    assert "\n" not in message
    for part in (*parts, "prepare"):
        assert part in message


def edit_manifest(directory: pathlib.Path, change) -> None:
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def first_shard(manifest: dict) -> dict:
    return manifest["splits"]["train"]["shards"][0]


# --- written and read back


@pytest.mark.parametrize("most", [10_000, 100])
def test_tokens_are_counted_by_id(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, most: int
):
    """Those of a large corpus by the first part of each shard."""
    documents = [
        [[token % 7 for token in sentence] for sentence in document] for document in DOCUMENTS
    ]
    corpus = write_corpus(tmp_path / "corpus", documents, shards=3, dtype=np.uint16)
    monkeypatch.setattr(corpora, "_COUNTED_AT_ONCE", 9)
    monkeypatch.setattr(corpora, "_COUNTED_TOKENS", most)
    share = min(1, most / corpus.tokens)
    parts = [shard["tokens"] for shard in corpus.shards]
    read = np.concatenate([part[: int(np.ceil(share * len(part)))] for part in parts])
    assert (len(read) == corpus.tokens) == (most == 10_000)
    np.testing.assert_array_equal(corpus.token_counts(8), [(read == id).sum() for id in range(8)])


def read_back(corpus: corpora.Corpus) -> Documents:
    """Reads everything through the look-ups, a sentence at a time."""
    documents = []
    for document in range(corpus.documents):
        here = np.array([document])
        begin, end = int(corpus.document_begins(here)[0]), int(corpus.document_ends(here)[0])
        sentences = np.arange(begin, end)
        bounds = zip(
            corpus.sentence_begins(sentences), corpus.sentence_ends(sentences), strict=True
        )
        documents.append([corpus.token_ids(np.arange(*bound)).tolist() for bound in bounds])
    return documents


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("shards", [1, 2, 5, 23, 40])
def test_what_is_written_is_read_back(tmp_path, shards, dtype):
    corpus = write_corpus(tmp_path / "c", DOCUMENTS, shards=shards, dtype=dtype)
    assert len(corpus.shards) == min(shards, len(DOCUMENTS))  # empty shards are not written
    assert {shard["tokens"].dtype for shard in corpus.shards} == {np.dtype(dtype)}
    assert read_back(corpus) == DOCUMENTS


def test_ids_above_16_bits_are_read_back(tmp_path):
    documents = [[[2**16, 2**31 - 1], [7]], [[2**16 + 1]]]
    assert read_back(write_corpus(tmp_path / "c", documents)) == documents


@pytest.mark.parametrize(
    ("vocab_size", "dtype"),
    [(5, np.uint16), (2**16, np.uint16), (2**16 + 1, np.uint32)],
)
def test_the_token_type_holds_every_id(vocab_size, dtype):
    assert writing.token_dtype(vocab_size) == dtype
    assert np.iinfo(writing.token_dtype(vocab_size)).max >= vocab_size - 1


@pytest.mark.parametrize("shards", [1, 2, 5, 23])
def test_look_ups_agree_with_lists(tmp_path, shards):
    corpus = write_corpus(tmp_path / "c", DOCUMENTS, shards=shards)
    sentences = [sentence for document in DOCUMENTS for sentence in document]
    tokens = [token for sentence in sentences for token in sentence]
    assert corpus.documents == len(DOCUMENTS)
    assert corpus.sentences == len(sentences)
    assert corpus.tokens == len(tokens)

    def bounds(runs: list) -> tuple[np.ndarray, np.ndarray]:
        ends = np.cumsum([len(run) for run in runs])
        return np.concatenate([[0], ends[:-1]]), ends

    rng = np.random.default_rng(0)
    some = rng.integers(0, len(DOCUMENTS), 100)  # in no order, some twice
    begins, ends = bounds(DOCUMENTS)
    np.testing.assert_array_equal(corpus.document_begins(some), begins[some])
    np.testing.assert_array_equal(corpus.document_ends(some), ends[some])
    some = rng.integers(0, len(sentences), 300)
    begins, ends = bounds(sentences)
    np.testing.assert_array_equal(corpus.sentence_begins(some), begins[some])
    np.testing.assert_array_equal(corpus.sentence_ends(some), ends[some])
    some = rng.integers(0, len(tokens), 1000)
    np.testing.assert_array_equal(corpus.token_ids(some), np.array(tokens)[some])
    owner = np.repeat(np.arange(len(sentences)), [len(sentence) for sentence in sentences])
    np.testing.assert_array_equal(corpus.sentence_at(some), owner[some])
    np.testing.assert_array_equal(corpus.sentence_at(np.arange(len(tokens))), owner)
    assert corpus.token_ids(np.array([], np.int64)).shape == (0,)


def test_the_manifest_counts_and_carries_facts(tmp_path):
    metadata = []
    for number, documents in enumerate([[[[5, 6], [7]], [[8]]], [], [[[9, 9, 9]]]]):
        writer = writing.ShardWriter(np.dtype(np.uint16))
        for document in documents:  # one at a time is as good as all at once
            add_documents(writer, [document], words=3)
        metadata.append(writer.write(tmp_path, f"{number}"))
    assert metadata.pop(1) is None  # nothing was added
    train = writing.split_metadata(tmp_path, metadata, np.array([True, True, False]))
    written = writing.write_manifest(tmp_path, {"train": train}, {"source": "here"})
    manifest = corpora.read_manifest(tmp_path)
    assert manifest == written
    assert manifest["source"] == "here"
    train = manifest["splits"]["train"]
    assert (train["documents"], train["duplicates"]) == (2, 1)
    assert (train["sentences"], train["tokens"]) == (4, 7)
    assert (train["words"], train["text_bytes"]) == (9, 45)
    assert [shard["tokens"] for shard in train["shards"]] == [4, 3]
    assert [shard["documents"] for shard in train["shards"]] == [2, 1]
    assert [shard["max_token_id"] for shard in train["shards"]] == [8, 9]
    kinds = ("tokens", "sentence_ends", "document_ends")
    arrays = {f"{number}.{kind}.npy" for number in (0, 2) for kind in kinds}
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {*arrays, "index.npy", "manifest.json"}  # nothing half-made stays


@pytest.mark.parametrize("shards", [1, 5, 23])
def test_copies_have_no_number(tmp_path, shards):
    copies = [3, 4, 9, 22]
    corpus = write_corpus(tmp_path / "c", DOCUMENTS, shards=shards, copies=copies)
    assert corpus.documents == len(DOCUMENTS) - len(copies)
    assert read_back(corpus) == [d for n, d in enumerate(DOCUMENTS) if n not in copies]
    # The arrays hold them still.
    assert corpus.tokens == sum(len(ids) for document in DOCUMENTS for ids in document)


def test_the_index_has_room_for_every_number(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_INDEX_CHUNK", 4)
    is_listed = np.array([True, False, True, True, False, False, True, True, False, True])
    metadata = writing.split_metadata(tmp_path, [], is_listed)
    index = np.load(tmp_path / "index.npy")
    assert index.tolist() == [0, 2, 3, 6, 7, 9] and index.dtype == np.uint32
    assert metadata["documents"] == 6


def test_checksums_are_of_the_files_and_differ(tmp_path):
    def checksums(name: str, documents: Documents) -> dict:
        write_corpus(tmp_path / name, documents)
        return first_shard(corpora.read_manifest(tmp_path / name))["checksums"]

    one, same = checksums("a", DOCUMENTS), checksums("b", DOCUMENTS)
    other = checksums("c", [[[6, *DOCUMENTS[0][0][1:]], *DOCUMENTS[0][1:]], *DOCUMENTS[1:]])
    assert one == same
    assert [kind for kind in one if one[kind] != other[kind]] == ["tokens"]


# --- what a writer refuses


@pytest.mark.parametrize("document", [[], [[5], []]])
def test_empty_documents_and_sentences_are_refused(document):
    writer = writing.ShardWriter(np.dtype(np.uint16))
    with pytest.raises(ValueError, match="without"):
        add_documents(writer, [document])


def test_a_shard_beyond_32_bits_is_refused():
    assert writing._ends(np.array([2**31, 2**31 - 1])).tolist() == [2**31, 2**32 - 1]
    with pytest.raises(ValueError, match="4294967296 tokens"):
        writing._ends(np.array([2**31, 2**31]))


# --- damage


@pytest.fixture
def damaged(tmp_path) -> pathlib.Path:
    """A corpus of two shards, whole as yet."""
    write_corpus(tmp_path / "c", DOCUMENTS, shards=2, heldout=make_documents(3))
    return tmp_path / "c"


def test_a_directory_without_manifest_is_no_corpus(damaged):
    (damaged / "manifest.json").unlink()
    with pytest.raises(UserError) as error:
        corpora.open_corpus(damaged, "train")
    one_line(error, str(damaged), "manifest.json")
    with pytest.raises(UserError, match="is not a corpus"):
        corpora.open_corpus(damaged / "nowhere", "train")
    with pytest.raises(UserError, match="is not a corpus"):
        corpora.open_corpus(damaged / TRAIN_FILES[0], "train")


@pytest.mark.parametrize("text", ["", "{", '{"format": 1', "\x00\xff"])
def test_a_broken_manifest_is_told(damaged, text):
    (damaged / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as error:
        corpora.open_corpus(damaged, "train")
    one_line(error, "manifest.json", "cannot be read")


def test_a_manifest_that_is_a_directory_is_told(damaged):
    (damaged / "manifest.json").unlink()
    (damaged / "manifest.json").mkdir()
    with pytest.raises(UserError) as error:
        corpora.open_corpus(damaged, "train")
    one_line(error, "manifest.json", "cannot be read")


@pytest.mark.parametrize(
    "version", [corpora.CORPUS_FORMAT + 1, corpora.CORPUS_FORMAT - 1, None, "2"]
)
def test_another_format_is_told(damaged, version):
    edit_manifest(damaged, lambda manifest: manifest.update(format=version))
    with pytest.raises(UserError) as error:
        corpora.open_corpus(damaged, "train")
    one_line(error, repr(version), f"reads {corpora.CORPUS_FORMAT}")


@pytest.mark.parametrize("text", ["[]", "null", "7", '"text"'])
def test_a_manifest_of_something_else_is_told(damaged, text):
    (damaged / "manifest.json").write_text(text)
    with pytest.raises(UserError) as error:
        corpora.open_corpus(damaged, "train")
    one_line(error, "format None")


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("splits"),
        lambda manifest: manifest["splits"].pop("train"),
        lambda manifest: manifest["splits"].update(train=None),
        lambda manifest: manifest.pop("tokenizer"),
        lambda manifest: first_shard(manifest).pop("tokens"),
        lambda manifest: first_shard(manifest).pop("max_token_id"),
        lambda manifest: manifest["splits"]["train"].update(shards=[1]),
    ],
)
def test_an_incomplete_manifest_is_told(damaged, change):
    edit_manifest(damaged, change)
    with pytest.raises(UserError) as error:
        corpora.open_corpus(damaged, "train")
    one_line(error, "manifest.json", "'train'")


@pytest.mark.parametrize("count", ["documents", "sentences", "tokens"])
def test_edited_counts_are_told(damaged, count):
    edit_manifest(damaged, lambda manifest: first_shard(manifest).update({count: 3}))
    with pytest.raises(UserError) as error:
        corpora.open_corpus(damaged, "train")
    one_line(error, "train/00000", "manifest says")


def test_an_id_outside_the_vocabulary_is_told(damaged):
    last = DOCUMENTS[-1][-1][-1]
    edit_manifest(damaged, lambda manifest: manifest["tokenizer"].update(vocab_size=last))
    with pytest.raises(UserError) as error:
        corpora.open_corpus(damaged, "train")
    one_line(error, "train/00001.tokens.npy", f"the token id {last}", f"has {last} pieces")
    edit_manifest(damaged, lambda manifest: manifest["tokenizer"].update(vocab_size=last + 1))
    assert corpora.open_corpus(damaged, "train").documents == len(DOCUMENTS)


@pytest.mark.parametrize("index", [[0, 1], [*range(22), 23]])
def test_an_index_of_something_else_is_told(damaged, index):
    np.save(damaged / "train/index.npy", np.array(index, np.uint32))
    with pytest.raises(UserError) as error:
        corpora.open_corpus(damaged, "train")
    one_line(error, "train/index.npy", "manifest says 23")


@pytest.mark.parametrize("name", TRAIN_FILES)
def test_a_missing_shard_file_is_told(damaged, name):
    (damaged / name).unlink()
    with pytest.raises(UserError) as error:
        corpora.open_corpus(damaged, "train")
    one_line(error, name)


@pytest.mark.parametrize("name", TRAIN_FILES)
@pytest.mark.parametrize("left", [0, 5, 60, -1])
def test_a_truncated_shard_file_is_told(damaged, name, left):
    path = damaged / name
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(UserError) as error:
        corpora.open_corpus(damaged, "train")
    one_line(error, name)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(3),
        np.zeros((3, 2), np.uint32),
        np.uint32(3),
        np.zeros(3, np.int64),
        np.zeros(0, np.uint32),
        np.zeros(3, np.uint32),
    ],
)
@pytest.mark.parametrize("name", TRAIN_FILES)
def test_an_array_of_something_else_is_told(damaged, name, array):
    np.save(damaged / name, array)
    with pytest.raises(UserError) as error:
        corpora.open_corpus(damaged, "train")
    one_line(error, "train/0000")


@pytest.mark.parametrize("dtype", [np.int64, np.float32, ">u4"])
@pytest.mark.parametrize("name", TRAIN_FILES)
def test_the_right_numbers_of_another_type_are_told(damaged, name, dtype):
    np.save(damaged / name, np.load(damaged / name).astype(dtype))
    with pytest.raises(UserError) as error:
        corpora.open_corpus(damaged, "train")
    one_line(error, name, "uint16 or uint32")


def test_a_reason_of_several_lines_is_told_in_one(damaged):
    # NumPy explains at length why it does not read so long a header.
    (damaged / TRAIN_FILES[0]).write_bytes(b"\x93NUMPY\x01\x00\x20\x4e" + b" " * 20_000)
    with pytest.raises(UserError) as error:
        corpora.open_corpus(damaged, "train")
    one_line(error, TRAIN_FILES[0], "20000")


def test_pickles_are_not_run(damaged):
    class Trap:
        def __reduce__(self):
            return pathlib.Path.touch, (damaged / "trapped",)

    np.save(damaged / TRAIN_FILES[0], np.array([Trap()]), allow_pickle=True)
    with pytest.raises(UserError) as error:
        corpora.open_corpus(damaged, "train")
    one_line(error, TRAIN_FILES[0])
    assert not (damaged / "trapped").exists()


@pytest.mark.parametrize("kind", ["document_ends", "sentence_ends"])
def test_ends_that_do_not_reach_the_end_are_told(damaged, kind):
    path = damaged / f"train/00001.{kind}.npy"
    ends = np.load(path)
    np.save(path, ends - 1)
    with pytest.raises(UserError) as error:
        corpora.open_corpus(damaged, "train")
    one_line(error, "train/00001")


def test_an_empty_heldout_split_is_told(tmp_path):
    write_corpus(tmp_path / "c", DOCUMENTS)
    heldout = corpora.open_corpus(tmp_path / "c", "heldout")
    assert heldout.documents == 0
    with pytest.raises(UserError) as error:
        check_corpus(heldout, PretrainDataConfig(), "the held-out split of c")
    one_line(error, "the held-out split of c has no documents", "--heldout_rate")


def test_the_heldout_split_is_other_documents(damaged):
    heldout = corpora.open_corpus(damaged, "heldout")
    assert heldout.documents == 3
    config = with_length(PretrainDataConfig(), 16)
    batch = held_out_rows(heldout, config, row_format(config, SPECIAL), rows=2)
    assert len(batch["token_ids"]) == 2
