import json
import os
import pathlib
import re
import shutil
import signal
from collections.abc import Callable

import jax
import numpy as np
import pytest

from bert_jax.checkpoints.checkpoint import read_metadata, steps_in
from bert_jax.text.tokenizer import SETTINGS_FILE, load_tokenizer
from tests.fixtures.drivers import (
    ROOT,
    Drivers,
    Result,
    Run,
    assert_same_bits,
    copied,
    log_of,
    newest,
    prepare_flags,
    small_disk,
    state_of,
    write_text,
)


def test_every_step_is_logged_once(pretrained: Run) -> None:
    entries = log_of(pretrained[0])
    assert [entry["step"] for entry in entries if "loss" in entry] == [2, 4, 6, 8, 10, 12]
    assert [entry["step"] for entry in entries if "heldout_mlm_loss" in entry] == [6, 12]
    assert steps_in(pretrained[0]) == [4, 8, 12]


def test_the_start_says_what_the_data_are(pretrained: Run, corpus: pathlib.Path) -> None:
    counts = json.loads((corpus / "manifest.json").read_text())["splits"]["train"]
    said = pretrained[1].err
    assert f"{counts['tokens']:,} tokens in {counts['documents']:,} documents" in said
    assert "negatives because A had no continuation" in said
    assert re.search(r"; \d+ tokens \(\d+\.\d% of all\) cut to fit", said)
    assert "starting from random parameters (seed 0)" in said


def test_the_run_has_its_tokenizer(pretrained: Run, corpus: pathlib.Path) -> None:
    ours, theirs = (load_tokenizer(place / "tokenizer") for place in (pretrained[0], corpus))
    assert ours.fingerprint == theirs.fingerprint


@pytest.mark.parametrize("moment", ["after a checkpoint", "while saving"])
def test_killed_and_started_again_ends_with_the_same_bits(
    moment: str,
    drivers: Drivers,
    pretrain_flags: list[str],
    pretrained: Run,
    tmp_path: pathlib.Path,
) -> None:
    flags = [*pretrain_flags, f"--workdir={tmp_path}"]
    wanted = "4" if moment == "after a checkpoint" else "8.*"
    running = drivers.start("pretrain", *flags)
    running.wait_until(lambda: any(tmp_path.glob(f"checkpoints/{wanted}")))
    running.send(signal.SIGKILL)
    assert running.wait().status == -signal.SIGKILL
    assert 12 not in steps_in(tmp_path)

    again = drivers.run("pretrain", *flags)
    assert again.status == 0 and "resuming at step" in again.err, again
    assert_same_run(tmp_path, pretrained[0])
    assert log_of(tmp_path) == log_of(pretrained[0])
    assert not list(tmp_path.glob("checkpoints/*tmp*"))


def assert_same_run(ours: pathlib.Path, theirs: pathlib.Path) -> None:
    """Same parameters, optimizer and place in the data, bit for bit."""
    assert steps_in(ours)[-1] == steps_in(theirs)[-1] == 12
    assert_same_bits(state_of(newest(ours)), state_of(newest(theirs)))
    assert read_metadata(newest(ours)) == read_metadata(newest(theirs))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_saves_and_goes_on(
    number: signal.Signals,
    drivers: Drivers,
    pretrain_flags: list[str],
    pretrained: Run,
    tmp_path: pathlib.Path,
) -> None:
    # Relative, as one types it; drivers are started in the root.
    flags = [*pretrain_flags, f"--workdir={os.path.relpath(tmp_path, ROOT)}"]
    running = drivers.start("pretrain", *flags)
    running.wait_until(lambda: "step 2/12" in running.err)
    running.send(number)
    stopped = running.wait()
    step = steps_in(tmp_path)[-1]
    assert step < 12
    assert stopped.status == 75 and not stopped.out
    assert stopped.err.splitlines()[-1] == (
        f"stopped at step {step} and saved: the same command goes on from there"
    )
    again = drivers.run("pretrain", *flags)
    assert again.status == 0 and f"resuming at step {step} from" in again.err
    assert_same_run(tmp_path, pretrained[0])


def test_a_finished_run_is_left_as_it_is(
    drivers: Drivers, pretrain_flags: list[str], pretrained: Run, tmp_path: pathlib.Path
) -> None:
    workdir = copied(pretrained, tmp_path / "run")

    def files() -> dict[pathlib.Path, float]:
        return {path: path.stat().st_mtime for path in workdir.rglob("*")}

    before = files()
    again = drivers.run("pretrain", *pretrain_flags, f"--workdir={workdir}")
    assert again == Result(0, f"{workdir} is finished: 12 steps\n", "")
    assert files() == before


def test_init_takes_the_parameters_and_nothing_else(
    drivers: Drivers, pretrain_flags: list[str], pretrained: Run, tmp_path: pathlib.Path
) -> None:
    # Warm-up begins at a rate of 0: the first step leaves the parameters as they are.
    flags = ["--config.checkpoint_steps=1", "--config.keep_checkpoints=12", "--config.eval_steps=0"]
    run = (*pretrain_flags, *flags, f"--workdir={tmp_path}", f"--init={pretrained[0]}")
    result = drivers.run("pretrain", *run)
    assert result.status == 0
    assert "with a fresh optimizer at step 0" in result.err
    first = state_of(tmp_path / "checkpoints/1")
    last = state_of(newest(pretrained[0]))
    assert_same_bits(first.params, last.params)
    leaves = jax.tree_util.tree_leaves_with_path(first.opt_state)
    counts = [int(leaf) for path, leaf in leaves if "count" in jax.tree_util.keystr(path)]
    assert counts and set(counts) == {1}
    assert [entry["step"] for entry in log_of(tmp_path)] == list(range(1, 13))
    # A replay from step 0 needs the same ones.
    replay = (*pretrain_flags, *flags, f"--workdir={tmp_path}", "--replay=1")
    message = drivers.run("pretrain", *replay).error()
    assert f"began with, the parameters of {pretrained[0]}" in message
    again = drivers.run("pretrain", *replay, f"--init={pretrained[0]}")
    assert again.status == 0 and "no NaN was made" in again.out, again


def test_corpus_and_checkpoint_must_belong_together(
    drivers: Drivers,
    pretrain_flags: list[str],
    pretrained: Run,
    other_corpus: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    workdir = tmp_path / "run"
    corpus = f"--config.data.corpus={other_corpus}"
    flags = [pretrain_flags[0], corpus, f"--workdir={workdir}", f"--init={pretrained[0]}"]
    message = drivers.run("pretrain", *flags).error()
    assert (
        "and the corpus have different tokenizers: prepare the corpus with --tokenizer=" in message
    )
    assert not workdir.exists()


def test_a_run_goes_on_with_its_own_corpus_only(
    drivers: Drivers, text: pathlib.Path, pretrain_flags: list[str], tmp_path: pathlib.Path
) -> None:
    corpus, workdir = tmp_path / "corpus", tmp_path / "run"
    flags = [pretrain_flags[0], f"--config.data.corpus={corpus}", f"--workdir={workdir}"]
    assert drivers.run("prepare", *prepare_flags(text, corpus)).status == 0
    running = drivers.start("pretrain", *flags)
    running.wait_until(lambda: steps_in(workdir) != [])
    running.send(signal.SIGKILL)
    running.wait()
    tokenizer = tmp_path / "tokenizer"
    shutil.move(corpus / "tokenizer", tokenizer)
    shutil.rmtree(corpus)
    again = [*prepare_flags(text, corpus), "--heldout_rate=0.3", f"--tokenizer={tokenizer}"]
    assert drivers.run("prepare", *again).status == 0
    after = max(steps_in(workdir)) + 1
    for more in ((), (f"--replay={after}",)):
        message = drivers.run("pretrain", *flags, *more).error()
        assert f"{corpus} is not the corpus that {workdir} began with" in message


@pytest.fixture
def corpus_copy(corpus: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(corpus, tmp_path / "corpus"))


def _swap_tokenizer(corpus: pathlib.Path, other: pathlib.Path) -> None:
    shutil.rmtree(corpus / "tokenizer")
    shutil.copytree(other / "tokenizer", corpus / "tokenizer")


def _edit_tokenizer(corpus: pathlib.Path, other: pathlib.Path) -> None:
    settings = corpus / "tokenizer" / SETTINGS_FILE
    settings.write_text(settings.read_text().replace('"fingerprint": "', '"fingerprint": "0'))


def _cut_tokens(corpus: pathlib.Path, other: pathlib.Path) -> None:
    path = corpus / "train/00000.tokens.npy"
    np.save(path, np.load(path)[:-1])


def _remove_manifest(corpus: pathlib.Path, other: pathlib.Path) -> None:
    (corpus / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_swap_tokenizer, "is not the tokenizer that"),
        (_edit_tokenizer, "does not have the fingerprint in tokenizer_settings.json"),
        (_cut_tokens, "train/00000.*.npy have"),
        (_remove_manifest, "is not a corpus (it has no manifest.json)"),
    ],
)
def test_a_damaged_corpus_is_refused(
    damage: Callable[[pathlib.Path, pathlib.Path], None],
    message: str,
    drivers: Drivers,
    pretrain_flags: list[str],
    corpus_copy: pathlib.Path,
    other_corpus: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    damage(corpus_copy, other_corpus)
    workdir = tmp_path / "run"
    flags = [pretrain_flags[0], f"--config.data.corpus={corpus_copy}", f"--workdir={workdir}"]
    assert message in drivers.run("pretrain", *flags).error()
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("documents", "heldout_rate", "message"),
    [
        (1, 0.0, "(train) has 1 document(s), but a negative pair needs two"),
        (20, 0.0, "(heldout) has no documents: raise `prepare --heldout_rate`, or add documents"),
    ],
)
def test_too_few_documents(
    documents: int,
    heldout_rate: float,
    message: str,
    drivers: Drivers,
    corpus: pathlib.Path,
    pretrain_flags: list[str],
    tmp_path: pathlib.Path,
) -> None:
    write_text(tmp_path / "text.txt", documents)
    small, workdir = tmp_path / "corpus", tmp_path / "run"
    prepare = [*prepare_flags(tmp_path / "text.txt", small), f"--tokenizer={corpus / 'tokenizer'}"]
    assert drivers.run("prepare", *prepare, f"--heldout_rate={heldout_rate}").status == 0
    flags = [pretrain_flags[0], f"--config.data.corpus={small}", f"--workdir={workdir}"]
    assert message in drivers.run("pretrain", *flags).error()
    assert not workdir.exists()


def test_documents_of_one_sentence_are_forced_negatives(
    drivers: Drivers, corpus: pathlib.Path, pretrain_flags: list[str], tmp_path: pathlib.Path
) -> None:
    write_text(tmp_path / "text.txt", 30, sentences=1)
    small = tmp_path / "corpus"
    prepare = [*prepare_flags(tmp_path / "text.txt", small), f"--tokenizer={corpus / 'tokenizer'}"]
    assert drivers.run("prepare", *prepare).status == 0
    flags = [pretrain_flags[0], f"--config.data.corpus={small}", f"--workdir={tmp_path / 'run'}"]
    result = drivers.run("pretrain", *flags, "--config.eval_steps=0")
    assert result.status == 0
    said = next(line for line in result.err.splitlines() if "first block of" in line)
    pairs = said.partition(f"{small}: ")[2].split()[0]
    assert f" {pairs} negatives because A had no continuation" in said
    shares = [entry["nsp_random_share"] for entry in log_of(tmp_path / "run")]
    assert shares == [1.0] * len(shares)


def test_two_processes_in_one_workdir_are_refused(
    drivers: Drivers, pretrain_flags: list[str], tmp_path: pathlib.Path
) -> None:
    flags = [*pretrain_flags, f"--workdir={tmp_path}"]
    running = drivers.start("pretrain", *flags)
    running.wait_until(lambda: "starting from" in running.err)
    running.send(signal.SIGSTOP)  # or it might be finished too soon
    message = drivers.run("pretrain", *flags).error()
    assert f"another process uses --workdir={tmp_path}: wait until" in message
    running.send(signal.SIGKILL)  # which no lock outlives
    running.wait()
    assert drivers.run("pretrain", *flags).status == 0


def test_a_workdir_of_something_else_is_refused(
    drivers: Drivers, pretrain_flags: list[str], pretrained: Run, tmp_path: pathlib.Path
) -> None:
    def refusal(workdir: pathlib.Path, *flags: str) -> str:
        before = sorted(workdir.rglob("*"))
        result = drivers.run("pretrain", *pretrain_flags, f"--workdir={workdir}", *flags)
        assert sorted(workdir.rglob("*")) == before
        return result.error()

    run = copied(pretrained, tmp_path / "run")
    changed = refusal(run, "--config.seed=1", "--config.optimizer.beta1=0.8")
    assert "has a run with another config: optimizer.beta1: 0.9 -> 0.8, seed: 0 -> 1;" in changed

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    assert "has files that are not a run's: name a new or an empty directory" in refusal(foreign)
    assert f"--workdir={foreign / 'thesis.txt'} is a file" in refusal(foreign / "thesis.txt")
    (foreign / "config.json").write_text("[1]")
    assert "has another kind of run" in refusal(foreign)


def test_what_does_not_change_the_result_may_change(
    drivers: Drivers, pretrain_flags: list[str], pretrained: Run, tmp_path: pathlib.Path
) -> None:
    run = copied(pretrained, tmp_path / "run")
    flags = [*pretrain_flags, f"--workdir={run}", "--config.log_steps=7"]
    assert drivers.run("pretrain", *flags).status == 0


def test_an_unusable_workdir_is_one_line(drivers: Drivers, pretrain_flags: list[str]) -> None:
    message = drivers.run("pretrain", *pretrain_flags, "--workdir=/proc/run").error()
    assert message.startswith("cannot use /proc/run")


def test_a_full_disk_while_saving_is_one_line(
    drivers: Drivers, pretrain_flags: list[str], tmp_path: pathlib.Path
) -> None:
    with small_disk(tmp_path / "disk", "300k") as disk:
        flags = [*pretrain_flags, f"--workdir={disk / 'run'}"]
        result = drivers.run("pretrain", *flags)
        assert result.status == 1 and "Traceback" not in result.err
        *_, step, message = result.err.splitlines()
        assert step.startswith("step ")
        assert f"error: cannot save a checkpoint in {disk / 'run'}" in message
        assert "no space left" in message
        assert steps_in(disk / "run") == []
