import importlib.metadata
import json
import os
import pathlib
import signal

import pytest

from bert_jax import files
from bert_jax.data.corpus.corpus import open_corpus, read_manifest
from bert_jax.text.tokenizer import load_tokenizer
from tests.fixtures.corpora import content, documents_of, messages, tokens_of
from tests.fixtures.drivers import Drivers, prepare_flags, small_disk, write_text

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def test_the_corpus_is_the_text(text: pathlib.Path, corpus: pathlib.Path) -> None:
    tokenizer = load_tokenizer(corpus / "tokenizer")
    documents = [document.splitlines() for document in text.read_text().strip().split("\n\n")]
    ids = [[tuple(tokenizer.encode(line).tolist()) for line in document] for document in documents]
    found = {name: documents_of(corpus, name) for name in ("train", "heldout")}
    # Each document is whole, in one split, in the order of the text.
    assert sorted(found["train"] + found["heldout"]) == sorted(ids)
    assert found["train"] == [document for document in ids if document in found["train"]]
    assert found["train"] and found["heldout"]

    manifest = read_manifest(corpus)
    for name, split in found.items():
        counts = manifest["splits"][name]
        assert counts["documents"] == len(split)
        assert counts["sentences"] == sum(map(len, split))
        assert counts["tokens"] == sum(len(s) for document in split for s in document)
    assert manifest["source"] == f"text:{text}"
    assert manifest["skipped"] == {"no_text": 0, "no_tokens": 0}
    assert manifest["tokenizer"]["vocab_size"] == 40
    release = importlib.metadata.version("sentencepiece")
    assert manifest["tokenizer"]["trainer"] == f"sentencepiece {release}"


def test_the_same_text_gives_the_same_bytes(
    drivers: Drivers, text: pathlib.Path, corpus: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    result = drivers.run("prepare", *prepare_flags(text, tmp_path / "again"))
    assert result.status == 0 and not messages(result.err)
    assert f"wrote {tmp_path / 'again'}" in result.out
    assert content(tmp_path / "again") == content(corpus)


def test_copies_of_a_document_are_in_one_split(drivers: Drivers, tmp_path: pathlib.Path) -> None:
    write_text(tmp_path / "a.txt", 40)
    (tmp_path / "b.txt").write_text((tmp_path / "a.txt").read_text())
    flags = prepare_flags(tmp_path / "*.txt", tmp_path / "corpus")
    assert drivers.run("prepare", *flags).status == 0
    splits = [documents_of(tmp_path / "corpus", name) for name in ("train", "heldout")]
    assert all(len(split) % 2 == 0 and split for split in splits)


def test_nothing_is_held_out_where_nothing_should_be(
    drivers: Drivers, text: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    flags = [*prepare_flags(text, tmp_path / "corpus"), "--heldout_rate=0"]
    assert drivers.run("prepare", *flags).status == 0
    splits = read_manifest(tmp_path / "corpus")["splits"]
    assert [splits[name]["documents"] for name in ("train", "heldout")] == [60, 0]


@pytest.mark.parametrize("kind", ["sentencepiece", "wordpiece"])
def test_special_pieces_in_the_text_are_text(
    kind: str, drivers: Drivers, corpus: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    tokenizer = str(corpus / "tokenizer")
    if kind == "wordpiece":
        pieces = [*SPECIAL, "[", "]", "mask", "sep", "cls", "pad", "un", "##k", "a", "b", "."]
        tokenizer = str(tmp_path / "vocab.txt")
        pathlib.Path(tokenizer).write_text("\n".join(pieces) + "\n")
    sentences = [f"a {piece} b {piece}." for piece in SPECIAL]
    (tmp_path / "text.jsonl").write_text(
        "".join(json.dumps({"id": n, "body": s}) + "\n" for n, s in enumerate(sentences))
    )
    output = tmp_path / "corpus"
    source = f"--source=jsonl:{tmp_path / 'text.jsonl'}#body"
    flags = (source, f"--tokenizer={tokenizer}", f"--output={output}", "--heldout_rate=0")
    assert drivers.run("prepare", *flags).status == 0
    made = load_tokenizer(output / "tokenizer")
    assert made.kind == kind
    about = read_manifest(output)["tokenizer"]
    assert about["fingerprint"] == made.fingerprint and "trainer" not in about
    assert read_manifest(output)["splits"]["train"]["documents"] == len(SPECIAL)
    found, special = set(tokens_of(output).tolist()), made.special
    assert len(found) > 3
    assert not found & {special.pad, special.cls, special.sep, special.mask}


def test_documents_without_tokens_are_counted(
    drivers: Drivers, corpus: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "text.txt").write_text("red blue\n\n\u200b\n\nblue\n\u200b\nred\n")
    flags = [
        f"--source=text:{tmp_path / 'text.txt'}",
        f"--tokenizer={corpus / 'tokenizer'}",
        f"--output={tmp_path / 'corpus'}",
        "--heldout_rate=0",
    ]
    assert drivers.run("prepare", *flags).status == 0
    manifest = read_manifest(tmp_path / "corpus")
    assert manifest["skipped"] == {"no_text": 0, "no_tokens": 1}
    assert manifest["documents_read"] == 3
    train = manifest["splits"]["train"]
    assert (train["documents"], train["sentences"]) == (2, 3)
    assert (train["words"], train["text_bytes"]) == (5, 20)  # of the text, as it was read


def test_stopped_before_the_staging_directory_is_held_leaves_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.fcntl, "flock", stopped)
    with (
        pytest.raises(KeyboardInterrupt),
        files.locked_staging(tmp_path / "new" / "corpus"),
    ):
        pass
    assert os.listdir(tmp_path) == []


def test_stopped_at_any_point_leaves_nothing_that_looks_finished(
    drivers: Drivers, corpus: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    write_text(tmp_path / "text.txt", 100_000)  # so much that it can be caught at work
    output = tmp_path / "corpus"
    flags = [*prepare_flags(tmp_path / "text.txt", output), f"--tokenizer={corpus / 'tokenizer'}"]

    def partial() -> list[str]:
        return [name for name in os.listdir(tmp_path) if name.startswith(".corpus.")]

    running = drivers.start("prepare", *flags)
    running.wait_until(lambda: partial() != [])
    running.send(signal.SIGINT)
    result = running.wait()
    assert result.status == 130 and messages(result.err) == "stopped\n" and not result.out
    assert sorted(os.listdir(tmp_path)) == ["text.txt"]

    running = drivers.start("prepare", *flags)
    running.wait_until(lambda: partial() != [])
    running.send(signal.SIGKILL)
    assert running.wait().status == -signal.SIGKILL
    assert not output.exists()
    # What it left does not disturb the next run.
    assert drivers.run("prepare", *flags).status == 0
    assert open_corpus(output, "train").documents > 50_000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--source="], "--source is not set: for example --source='text:corpus/*.txt'"),
        (["--output="], "--output is not set"),
        (["--source=TEXT"], "is of an unknown kind: write text:GLOB"),
        (["--source=text:nowhere/*.txt"], "--source=text:nowhere/*.txt matches no file"),
        (["--source=text:EMPTY"], "empty.txt is empty"),
        (["--source=text:BLANK"], "blank.txt has no text"),
        (["--source=text:LATIN"], "latin.txt"),
        (["--source=text:LATIN"], "byte 5"),
        (["--source=jsonl:TEXT"], "names no field: write jsonl:GLOB#FIELD"),
        (["--source=jsonl:TEXT#body"], "text.txt"),
        (
            ["--tokenizer=train:sentencepiece:5"],
            "a vocabulary of 5 pieces has no room",
        ),
        (["--tokenizer=train:sentencepiece:90000"], "90000 pieces is more than the training text"),
        (["--tokenizer=train:words:50"], "write train:KIND:SIZE, the kind one of sentencepiece"),
        (["--tokenizer=train:wordpiece:20"], "20 pieces has no room for the characters"),
        (["--tokenizer=nowhere"], "'nowhere' is not a tokenizer: give"),
        (["--heldout_rate=1"], "--heldout_rate=1.0 must be a rate from 0 to below 1"),
        (["--heldout_rate=much"], "--heldout_rate=much"),
        (["--layout=verse"], "--layout=verse"),
        (["--output=EMPTY"], "empty.txt is there already: name a new or an empty directory"),
        (["--output=BLANK/corpus"], "cannot use"),
        (["--output=/proc/corpus"], "cannot use"),
    ],
)
def test_a_wrong_input_is_one_line(
    flags: list[str], message: str, drivers: Drivers, text: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    files = {"EMPTY": b"", "BLANK": b" \n\n", "LATIN": b"red b\xe9\n", "TEXT": text.read_bytes()}
    for name, stored in files.items():
        path = tmp_path / f"{name.lower()}.txt"
        path.write_bytes(stored)
        flags = [flag.replace(name, str(path)) for flag in flags]
    before = sorted(os.listdir(tmp_path))
    result = drivers.run("prepare", *prepare_flags(text, tmp_path / "corpus"), *flags)
    assert message in result.error()
    assert sorted(os.listdir(tmp_path)) == before


def test_a_full_disk_is_one_line(
    drivers: Drivers, corpus: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    write_text(tmp_path / "text.txt", 100_000)  # so much that it can be caught at work
    with small_disk(tmp_path / "disk", "300k") as disk:
        flags = prepare_flags(tmp_path / "text.txt", disk / "corpus")
        result = drivers.run("prepare", *flags, f"--tokenizer={corpus / 'tokenizer'}")
        assert "no space left" in result.error()
        assert os.listdir(disk) == []
