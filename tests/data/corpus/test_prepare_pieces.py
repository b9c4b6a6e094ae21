"""prepare in many pieces: any number of workers, interruptions, copies, compressed input."""

import fcntl
import gzip
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from bert_jax.data.corpus import documents, pieces, sampling
from bert_jax.data.corpus.corpus import open_corpus, read_manifest
from bert_jax.data.corpus.documents import Layout
from bert_jax.data.corpus.sentences import SentenceSplitter
from bert_jax.data.corpus.sources import open_source
from bert_jax.errors import UserError
from bert_jax.text.tokenizer import load_tokenizer
from tests.fixtures.corpora import content, documents_of, messages
from tests.fixtures.drivers import (
    PATIENCE_SECONDS,
    ROOT,
    Drivers,
    prepare_flags,
    small_disk,
    write_text,
)

FILES = 80  # so many that a prepare of them can be caught at work
SMALL = {"bert_jax.data.corpus.documents.PIECE_BYTES": 6000}  # a file of `many` is a piece


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Files of about 5 kB each."""
    directory = tmp_path_factory.mktemp("many")
    for number in range(FILES):
        write_text(directory / f"{number:02d}.txt", 50, seed=number)
    return directory


def flags_for(directory: pathlib.Path, output: pathlib.Path, *more: str) -> list[str]:
    return [*prepare_flags(directory / "*.txt", output), *more]


@pytest.fixture(scope="module")
def whole(drivers: Drivers, many: pathlib.Path, corpus: pathlib.Path) -> pathlib.Path:
    """The corpus of `many`, made without interruption by one process."""
    output = many / "whole"
    flags = flags_for(many, output, "--workers=1", f"--tokenizer={corpus / 'tokenizer'}")
    result = drivers.run("prepare", *flags, constants=SMALL)
    assert result.status == 0, result
    assert len(read_manifest(output)["splits"]["train"]["shards"]) == FILES
    return output


def finished(staging: pathlib.Path) -> set[str]:
    return {path.stem for path in (staging / "finished").glob("*.json")}


def marks(corpus: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Returns what changes when an array is written again."""
    files = corpus.glob("*/*.tokens.npy")
    return {f"{p.parent.name}/{p.name}": (p.stat().st_ino, p.stat().st_mtime_ns) for p in files}


def test_any_number_of_workers_gives_the_same_bytes(
    drivers: Drivers, many: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    outputs = []
    for workers in (1, 4):
        outputs.append(tmp_path / str(workers))
        flags = flags_for(many, outputs[-1], f"--workers={workers}")
        result = drivers.run("prepare", *flags, constants=SMALL)
        assert result.status == 0 and not messages(result.err), result
    assert content(outputs[0]) == content(outputs[1])
    assert sorted(os.listdir(tmp_path)) == ["1", "4"]


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("shards", [1, 7])
def test_an_interrupted_prepare_goes_on(
    stop: signal.Signals,
    shards: int,
    drivers: Drivers,
    many: pathlib.Path,
    whole: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    output, staging = tmp_path / "a/corpus", tmp_path / "a/.corpus.partial"
    flags = flags_for(many, output, f"--tokenizer={whole / 'tokenizer'}", "--workers=2")
    running = drivers.start("prepare", *flags, constants=SMALL)
    running.wait_until(lambda: len(finished(staging)) >= shards)
    running.send(stop)
    result = running.wait()
    assert not output.exists() and not (staging / "corpus/manifest.json").exists()
    if stop == signal.SIGINT:
        assert result.status == 75 and not result.out
        assert (
            messages(result.err) == "stopped: the same command goes on at the last finished shard\n"
        )
    else:
        assert result.status == -signal.SIGKILL
    before = marks(staging / "corpus")
    kept = {name for name in before if pathlib.Path(name).name[:5] in finished(staging)}
    assert len(finished(staging)) < FILES

    result = drivers.run("prepare", *flags, constants=SMALL)
    assert result.status == 0 and not messages(result.err), result
    assert f" of {FILES} pieces were finished" in result.out
    assert content(output) == content(whole)
    after = marks(output)
    assert kept and all(after[name] == before[name] for name in kept)
    assert os.listdir(tmp_path / "a") == ["corpus"]


def test_ctrl_c_on_a_terminal_is_one_line(
    many: pathlib.Path, whole: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    # There the workers get the signal too.
    flags = flags_for(many, tmp_path / "corpus", f"--tokenizer={whole / 'tokenizer'}")
    program = f"""
import runpy, sys
from bert_jax.data.corpus import documents
documents.PIECE_BYTES = 6000
sys.argv = ["prepare", "--workers=2", *{flags}]
runpy.run_module("bert_jax.prepare", run_name="__main__", alter_sys=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not finished(tmp_path / ".corpus.partial"):
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 75
    assert err == "stopped: the same command goes on at the last finished shard\n"


@pytest.fixture
def interrupted(
    drivers: Drivers, many: pathlib.Path, whole: pathlib.Path, tmp_path: pathlib.Path
) -> tuple[pathlib.Path, list[str]]:
    """A copy of `many`, and the flags of a prepare of it that was killed."""
    text = tmp_path / "text"
    shutil.copytree(many, text, ignore=shutil.ignore_patterns("whole"))
    output, staging = tmp_path / "corpus", tmp_path / ".corpus.partial"
    flags = flags_for(text, output, f"--tokenizer={whole / 'tokenizer'}", "--workers=1")
    running = drivers.start("prepare", *flags, constants=SMALL)
    running.wait_until(lambda: len(finished(staging)) >= 3)
    running.send(signal.SIGKILL)
    running.wait()
    return text, flags


def test_a_changed_file_is_done_again(
    drivers: Drivers, interrupted: tuple[pathlib.Path, list[str]], tmp_path: pathlib.Path
) -> None:
    text, flags = interrupted
    write_text(text / "01.txt", 30, seed=99)
    staging, output = tmp_path / ".corpus.partial", tmp_path / "corpus"
    before = marks(staging / "corpus")
    assert drivers.run("prepare", *flags, constants=SMALL).status == 0
    after = marks(output)
    assert after["train/00000.tokens.npy"] == before["train/00000.tokens.npy"]
    assert after["train/00001.tokens.npy"] != before["train/00001.tokens.npy"]
    assert after["train/00002.tokens.npy"] == before["train/00002.tokens.npy"]
    again = drivers.run("prepare", *flags, f"--output={tmp_path / 'again'}", constants=SMALL)
    assert again.status == 0
    assert content(output) == content(tmp_path / "again")


def test_fewer_files_leave_no_shard_of_the_others(
    drivers: Drivers, interrupted: tuple[pathlib.Path, list[str]], tmp_path: pathlib.Path
) -> None:
    text, flags = interrupted
    for number in range(2, FILES):
        (text / f"{number:02d}.txt").unlink()
    assert drivers.run("prepare", *flags, constants=SMALL).status == 0
    assert {name[:5] for name in os.listdir(tmp_path / "corpus/train")} == {
        "00000",
        "00001",
        "index",
    }


def test_other_settings_begin_anew(
    drivers: Drivers, interrupted: tuple[pathlib.Path, list[str]], tmp_path: pathlib.Path
) -> None:
    _, flags = interrupted
    result = drivers.run("prepare", *flags, "--heldout_rate=0.5", constants=SMALL)
    assert result.status == 0
    assert "begins anew: an interrupted attempt had another heldout_rate\n" in result.out
    assert "goes on" not in result.out
    splits = read_manifest(tmp_path / "corpus")["splits"]
    assert splits["heldout"]["documents"] > splits["train"]["documents"] / 2


def test_a_trained_tokenizer_is_not_trained_again(
    drivers: Drivers, many: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    output, staging = tmp_path / "corpus", tmp_path / ".corpus.partial"
    running = drivers.start("prepare", *flags_for(many, output), constants=SMALL)
    running.wait_until(lambda: len(finished(staging)) >= 2)
    running.send(signal.SIGKILL)
    running.wait()
    model = (staging / "corpus/tokenizer/sentencepiece.model").stat()
    assert drivers.run("prepare", *flags_for(many, output), constants=SMALL).status == 0
    assert (output / "tokenizer/sentencepiece.model").stat().st_mtime_ns == model.st_mtime_ns


def test_a_tokenizer_is_trained_on_the_text_that_is_there(
    drivers: Drivers, many: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    text, output, staging = tmp_path / "text", tmp_path / "corpus", tmp_path / ".corpus.partial"
    shutil.copytree(many, text)
    running = drivers.start("prepare", *flags_for(text, output), constants=SMALL)
    running.wait_until(lambda: len(finished(staging)) >= 2)
    running.send(signal.SIGKILL)
    running.wait()
    for path in text.glob("*.txt"):
        path.write_text(path.read_text().upper())
    result = drivers.run("prepare", *flags_for(text, output), constants=SMALL)
    assert result.status == 0
    assert "begins anew: an interrupted attempt had another text\n" in result.out


def test_a_second_prepare_is_refused(
    drivers: Drivers, interrupted: tuple[pathlib.Path, list[str]], tmp_path: pathlib.Path
) -> None:
    _, flags = interrupted
    staging = tmp_path / ".corpus.partial"
    before = content(staging)
    lock = os.open(staging, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        message = drivers.run("prepare", *flags, constants=SMALL).error()
    finally:
        os.close(lock)
    assert message == (
        f"another process is making {tmp_path / 'corpus'}: wait for it, or name another place"
    )
    assert content(staging) == before


def test_an_error_keeps_what_is_finished_and_nothing_else(
    drivers: Drivers, whole: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    text = tmp_path / "text"
    text.mkdir()
    for name, body in (("0", b"red b\xe9\n"), ("1", b"blue\n" * 1199)):
        (text / f"{name}.txt").write_bytes(body)
    flags = flags_for(text, tmp_path / "new/folders/corpus", f"--tokenizer={whole / 'tokenizer'}")
    assert "not UTF-8" in drivers.run("prepare", *flags, "--workers=1").error()
    assert os.listdir(tmp_path) == ["text"]

    (text / "0.txt").rename(text / "2.txt")
    for first in (True, False):
        result = drivers.run("prepare", *flags, "--workers=1", constants=SMALL)
        assert result.status == 1 and messages(result.err).count("\n") == 1
        assert "2.txt is not UTF-8 at byte 5" in result.err
        assert result.out == ("" if first else "goes on: 1 of 2 pieces were finished\n")
    assert finished(tmp_path / "new/folders/.corpus.partial") == {"00000"}
    assert not (tmp_path / "new/folders/corpus").exists()


def test_a_disk_that_is_full_in_mid_shard_keeps_what_is_finished(
    drivers: Drivers, many: pathlib.Path, whole: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        ballast = disk / "ballast"
        flags = flags_for(many, disk / "corpus", f"--tokenizer={whole / 'tokenizer'}")
        # Room for the tokenizer and for some shards, whose nine files take a page each or more.
        model = (whole / "tokenizer/sentencepiece.model").stat().st_size
        ballast.write_bytes(bytes(1_048_576 - model - 200_000))
        result = drivers.run("prepare", *flags, "--workers=2", constants=SMALL)
        assert "no space left" in result.error()
        assert 0 < len(finished(disk / ".corpus.partial")) < FILES
        ballast.unlink()
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert drivers.run("prepare", *flags, constants=SMALL).status == 0
        assert content(disk / "corpus") == content(whole)


def test_copies_are_listed_once(
    drivers: Drivers, many: pathlib.Path, whole: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    texts = [path.read_text() for path in sorted(many.glob("*.txt"))]
    text = tmp_path / "text"
    text.mkdir()
    order = [0, 1, 0, 2, 3, 1, 1]
    for place, number in enumerate(order):
        (text / f"{place}.txt").write_text(texts[number])
    output = tmp_path / "corpus"
    flags = flags_for(text, output, f"--tokenizer={whole / 'tokenizer'}", "--workers=3")
    assert drivers.run("prepare", *flags, constants=SMALL).status == 0
    manifest = read_manifest(output)
    stored = {}
    for split in ("train", "heldout"):
        # `whole` holds the same documents once, in the same order.
        distinct = documents_of(output, split)
        assert distinct == documents_of(whole, split)[: len(distinct)]
        assert len(set(map(str, distinct))) == len(distinct)
        facts = manifest["splits"][split]
        stored[split] = sum(shard["documents"] for shard in facts["shards"])
        assert facts["documents"] == len(distinct) == stored[split] - facts["duplicates"]
        assert facts["duplicates"] > 0
    assert manifest["documents_read"] == 50 * len(order) == sum(stored.values())


def test_records_without_text_are_counted(
    drivers: Drivers, whole: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    bodies = ["red", "", " ", "blue", "\u200b"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"b": b}) + "\n" for b in bodies))
    output = tmp_path / "corpus"
    flags = [
        f"--source=jsonl:{tmp_path / 'a.jsonl'}#b",
        f"--tokenizer={whole / 'tokenizer'}",
        f"--output={output}",
        "--heldout_rate=0",
    ]
    result = drivers.run("prepare", *flags)
    assert result.status == 0
    assert read_manifest(output)["skipped"] == {"no_text": 2, "no_tokens": 1}
    assert "5 documents read, 2 with no text, 1 with no tokens" in result.out

    (tmp_path / "a.jsonl").write_text(json.dumps({"b": "\u200b"}) + "\n")
    shutil.rmtree(output)
    error = drivers.run("prepare", *flags).error()
    assert error == "the source has 1 documents, none with text: choose another"


# --- in this process


def make_job(
    staging: pathlib.Path, spec: str, tokenizer: pathlib.Path, *, heldout_rate: float = 0.1
) -> pieces.Job:
    source = open_source(spec)
    pieces.make_folders(staging)
    load_tokenizer(tokenizer).save(staging / pieces.TOKENIZER)
    return pieces.Job(source, SentenceSplitter(Layout.LINES), heldout_rate, staging)


def test_a_compressed_piece_gives_several_shards(
    monkeypatch, text: pathlib.Path, corpus: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    packed = tmp_path / "text.txt.gz"
    packed.write_bytes(gzip.compress(text.read_bytes()))
    monkeypatch.setattr(pieces, "SHARD_CHARACTERS", 1500)
    monkeypatch.setattr(pieces, "_BATCH_CHARACTERS", 200)
    job = make_job(tmp_path / "staging", f"text:{packed}", corpus / "tokenizer")
    writer = pieces.PieceWriter(job)
    done = writer(0)
    assert [next(done), next(done)] == [pieces.ShardFinished(0)] * 2
    done.close()  # interrupted
    assert pieces.finished_shards(job, 0) is None
    with pytest.raises(ValueError, match="piece 0 is not finished"):
        pieces.complete_corpus(job, {})

    before = marks(tmp_path / "staging/corpus")
    progress = list(writer(0))
    assert len(progress) > 3 and progress[-1].bytes == packed.stat().st_size
    after = marks(tmp_path / "staging/corpus")
    assert before and before == {name: after[name] for name in before}
    pieces.complete_corpus(job, {"tokenizer": {"vocab_size": 40}})
    made = tmp_path / "staging/corpus"
    names = [shard["name"] for shard in read_manifest(made)["splits"]["train"]["shards"]]
    assert names[:3] == ["00000", "00000-001", "00000-002"]
    for split in ("train", "heldout"):
        assert documents_of(made, split) == documents_of(corpus, split)


def test_a_tokenizer_sees_a_bounded_sample_of_every_piece(
    monkeypatch, many: pathlib.Path, corpus: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setattr(documents, "PIECE_BYTES", 6000)
    source, splitter = open_source(f"text:{many}/*.txt"), SentenceSplitter(Layout.LINES)
    job = make_job(tmp_path, f"text:{many}/*.txt", corpus / "tokenizer", heldout_rate=0.5)
    for number in range(FILES):
        list(pieces.PieceWriter(job)(number))
    pieces.complete_corpus(job, {"tokenizer": {"vocab_size": 40}})

    def sample(heldout_rate: float) -> list[list[str]]:
        return list(sampling.training_sentences(source, splitter, heldout_rate))

    # All of a small source, without what is held out.
    sentences = [sentence for found in sample(0.5) for sentence in found]
    assert len(sentences) == open_corpus(tmp_path / "corpus", "train").sentences
    # Of a larger one, as much of each piece as its share is.
    monkeypatch.setattr(sampling, "SAMPLE_CHARACTERS", 500 * FILES)
    sizes = [sum(map(len, found)) for found in sample(0.0)]
    assert len(sizes) == FILES and 400 < min(sizes) and max(sizes) < 900
    # Of very many pieces, some of all parts.
    monkeypatch.setattr(sampling, "SAMPLED_PIECES", 4)
    chosen = [source.pieces.index(piece) for piece in sampling.sampled_pieces(source)]
    assert chosen == [part * FILES // 4 for part in range(4)]
    sizes = [sum(map(len, found)) for found in sample(0.0)]
    assert len(sizes) == 4 and 4000 < min(sizes) and max(sizes) < 6000
    read = []
    monkeypatch.setattr(type(source), "read", lambda self, piece: read.append(piece) or iter(()))
    sample(0.0)
    assert read == [source.pieces[number] for number in chosen]


# --- looking at a corpus


@pytest.fixture
def copy(whole: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(whole, tmp_path / "copy"))


def test_verify_finds_no_damage_where_none_is(drivers: Drivers, copy: pathlib.Path) -> None:
    result = drivers.run("prepare", f"--verify={copy}")
    facts = read_manifest(copy)["splits"].values()
    arrays = sum(3 * len(split["shards"]) + 1 for split in facts)
    assert result.status == 0 and not result.err
    assert result.out == f"{copy}: {arrays} arrays and the tokenizer checked, 0 damaged\n"


@pytest.mark.parametrize("kind", ["flipped", "cut", "missing", "a folder"])
def test_verify_names_each_damaged_file(drivers: Drivers, copy: pathlib.Path, kind: str) -> None:
    names = ["train/00003.tokens.npy", "heldout/index.npy", "train/00007.document_ends.npy"]
    for name in names:
        path = copy / name
        body = bytearray(path.read_bytes())
        path.unlink()
        if kind == "a folder":
            path.mkdir()
        elif kind != "missing":
            body[-1] ^= 1
            path.write_bytes(body[:-1] if kind == "cut" else body)
    result = drivers.run("prepare", f"--verify={copy}")
    assert result.status == 1
    *lines, last = result.out.splitlines()
    assert sorted(line.split(":")[0] for line in lines) == sorted(str(copy / n) for n in names)
    assert last.endswith("3 damaged")
    assert result.err.startswith(f"error: {copy} is damaged") and result.err.count("\n") == 1


def test_verify_checks_the_tokenizer(drivers: Drivers, copy: pathlib.Path) -> None:
    model = copy / "tokenizer/sentencepiece.model"
    model.write_bytes(model.read_bytes().replace(b"[MASK]", b"[MUSK]"))
    result = drivers.run("prepare", f"--verify={copy}")
    assert result.status == 1 and f"{copy / 'tokenizer'}: " in result.out
    assert result.out.endswith(" 1 damaged\n")
    # A whole one, but another.
    edit = json.loads((copy / "manifest.json").read_text())
    edit["tokenizer"]["fingerprint"] = "0"
    (copy / "manifest.json").write_text(json.dumps(edit))
    model.write_bytes(model.read_bytes().replace(b"[MUSK]", b"[MASK]"))
    result = drivers.run("prepare", f"--verify={copy}")
    assert result.status == 1 and "is not the one in the manifest" in result.out


def test_what_is_no_corpus_is_told(drivers: Drivers, tmp_path: pathlib.Path) -> None:
    for flag in ("verify", "describe"):
        message = drivers.run("prepare", f"--{flag}={tmp_path}").error()
        assert message.startswith(f"{tmp_path} is not a corpus")


def test_describe_tells_and_draws(drivers: Drivers, copy: pathlib.Path) -> None:
    result = drivers.run("prepare", f"--describe={copy}")
    assert result.status == 0 and not messages(result.err), result
    lengths = [len(d) for d in documents_of(copy, "train")]
    line = next(line for line in result.out.splitlines() if line.startswith("sentences a doc"))
    assert line.split()[3:] == [
        f"{np.mean(lengths):.1f}",
        str(int(np.quantile(lengths, 0.5, method="inverted_cdf"))),
        str(int(np.quantile(lengths, 0.99, method="inverted_cdf"))),
        str(max(lengths)),
    ]
    tokens = np.concatenate([np.concatenate(d) for d in documents_of(copy, "train")])
    shares = np.unique(tokens, return_counts=True)[1] / len(tokens)
    entropy = -np.sum(shares * np.log(shares))
    assert f"unigram entropy: {entropy:.2f} nats" in result.out
    for part in ("bytes a token", "words a token", "0.000% unknown", "rows of 512", "[CLS] "):
        assert part in result.out
    picture = copy.with_name("copy.lengths.png")
    assert result.out.endswith(f"wrote {picture}\n")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_corpus_too_small_to_describe_is_described(
    drivers: Drivers, whole: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "a.txt").write_text("red blue\n")
    output = tmp_path / "corpus"
    flags = [f"--source=text:{tmp_path / 'a.txt'}", f"--output={output}"]
    flags += [f"--tokenizer={whole / 'tokenizer'}"]
    for rate in ("0", "0.9999999"):
        assert drivers.run("prepare", *flags, f"--heldout_rate={rate}").status == 0
        assert drivers.run("prepare", f"--describe={output}").status == 0
        shutil.rmtree(output)


def test_a_settled_error_is_raised_in_this_process_too(
    text: pathlib.Path, corpus: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    source = pathlib.Path(shutil.copy(text, tmp_path))
    job = make_job(tmp_path / "staging", f"text:{source}", corpus / "tokenizer")
    source.write_bytes(text.read_bytes() + b"more\n")
    with pytest.raises(UserError, match="changed"):
        list(pieces.PieceWriter(job)(0))
