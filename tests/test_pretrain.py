import pathlib
import shutil
import signal

import pytest

from bert_jax.checkpoint import read_facts, steps_in
from driver_fixtures import (
    Drivers,
    Result,
    assert_same_bits,
    log_of,
    newest,
    small_disk,
    state_of,
    write_text,
)

Run = tuple[pathlib.Path, Result]


def test_every_step_is_logged_once(pretrained: Run) -> None:
    entries = log_of(pretrained[0])
    assert [entry["step"] for entry in entries if "loss" in entry] == [2, 4, 6, 8, 10, 12]
    assert [entry["step"] for entry in entries if "heldout_mlm_loss" in entry] == [6, 12]
    print(pretrained[1])


@pytest.mark.parametrize("kill", ["between", "while_saving"])
def test_killed_and_started_again_ends_with_the_same_bits(
    kill: str, drivers: Drivers, pretrain_flags: list[str], pretrained: Run, tmp_path: pathlib.Path
) -> None:
    workdir = tmp_path / "run"
    flags = [*pretrain_flags, f"--workdir={workdir}"]
    running = drivers.start("pretrain", *flags)
    if kill == "between":
        running.wait_until(lambda: (workdir / "checkpoints/4").is_dir())
    else:
        running.wait_until(lambda: any((workdir / "checkpoints").glob("8.*")))
    running.send(signal.SIGKILL)
    assert running.wait().status == -signal.SIGKILL
    print(list((workdir / "checkpoints").glob("*")))
    assert steps_in(workdir) == [4]

    again = drivers.run("pretrain", *flags)
    assert again.status == 0 and "resuming at step 4" in again.err, again
    assert_same_bits(state_of(newest(workdir)), state_of(newest(pretrained[0])))
    assert read_facts(newest(workdir)) == read_facts(newest(pretrained[0]))
    assert log_of(workdir) == log_of(pretrained[0])
