"""prepare on Apache Beam gives the corpus of prepare; it runs where Beam is installed."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

from bert_jax.data.corpus.corpus import read_manifest
from tests.fixtures.corpora import content
from tests.fixtures.drivers import ROOT, Result, prepare_flags, python_m, write_text

HAS_BEAM = importlib.util.find_spec("apache_beam") is not None
needs_beam = pytest.mark.skipif(
    not HAS_BEAM, reason="Apache Beam is not installed; .ci/run makes an environment that has it"
)
RUNNER = ("--runner=DirectRunner", "--direct_num_workers=1")

# As `python -m bert_jax.DRIVER` with small pieces.
_SMALL_PIECES = """
import runpy, sys
from bert_jax.data.corpus import documents
documents.PIECE_BYTES = 6000
sys.argv = sys.argv[1:]
runpy.run_module("bert_jax." + sys.argv[0], run_name="__main__", alter_sys=True)
"""


def small_pieces(driver: str, *flags: str) -> Result:
    command = [sys.executable, "-c", _SMALL_PIECES, driver, *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    return Result(done.returncode, done.stdout, done.stderr)


@needs_beam
def test_beam_writes_the_same_corpus(tmp_path: pathlib.Path) -> None:
    for number in range(4):
        write_text(tmp_path / f"{number}.txt", 50, seed=number % 3)  # one is a copy
    by_beam, here = tmp_path / "by_beam", tmp_path / "here"
    result = small_pieces("prepare_beam", *prepare_flags(tmp_path / "*.txt", by_beam), *RUNNER)
    assert result.status == 0, result
    result = small_pieces("prepare", *prepare_flags(tmp_path / "*.txt", here), "--workers=1")
    assert result.status == 0, result
    assert content(by_beam) == content(here)
    train = read_manifest(by_beam)["splits"]["train"]
    assert len(train["shards"]) == 4 and train["duplicates"] > 0


@needs_beam
def test_what_a_piece_shows_to_be_wrong_is_one_line(tmp_path: pathlib.Path) -> None:
    write_text(tmp_path / "0.txt", 50)
    for name in "12":
        (tmp_path / f"{name}.txt").write_bytes(b"red\n" * 1400 + b"b\xe9\n")
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nred\n")
    flags = prepare_flags(tmp_path / "?.txt", tmp_path / "corpus")
    flags += [f"--tokenizer={vocab}", "--lower_case"]
    result = small_pieces("prepare_beam", *flags, *RUNNER)
    assert "1.txt is not UTF-8 at byte 5601" in result.error()
    assert (tmp_path / ".corpus.partial/finished/00000.json").exists()


@pytest.mark.skipif(HAS_BEAM, reason="Apache Beam is installed")
def test_a_missing_beam_is_one_line(text: pathlib.Path, tmp_path: pathlib.Path) -> None:
    flags = prepare_flags(text, tmp_path / "corpus")
    error = python_m("prepare_beam", *flags, "--runner=DirectRunner").error()
    assert error.startswith("apache_beam is not installed: pip install 'bert_jax[beam]'")


def test_a_misspelt_flag_is_not_taken_for_beams(text: pathlib.Path, tmp_path: pathlib.Path) -> None:
    flags = prepare_flags(text, tmp_path / "corpus")
    error = python_m("prepare_beam", *flags, "--heldoutrate=0.5", "--runner=DirectRunner").error()
    assert error == "unknown flag --heldoutrate=0.5; did you mean --heldout_rate?"


def test_workers_are_the_runners(text: pathlib.Path, tmp_path: pathlib.Path) -> None:
    flags = prepare_flags(text, tmp_path / "corpus")
    error = python_m("prepare_beam", *flags, "--workers=2").error()
    assert error.startswith("--workers=2 is of prepare alone")
