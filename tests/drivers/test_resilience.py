"""What a run does when something is sick or damaged."""

import pathlib
import shutil
import signal

import jax
import numpy as np
import pytest

from bert_jax.checkpoints.checkpoint import FOLDER, read_metadata, steps_in
from bert_jax.config import EncoderConfig
from bert_jax.errors import UserError
from bert_jax.training.debugging import check_ids
from tests.fixtures.batches import make_batch
from tests.fixtures.drivers import (
    Drivers,
    Run,
    assert_same_bits,
    finetune_flags,
    log_of,
    newest,
    state_of,
)

SICK = {"SICK_STEPS": "7"}


def test_a_sick_step_is_skipped_named_and_replayed(
    drivers: Drivers, pretrain_flags: list[str], tmp_path: pathlib.Path
) -> None:
    flags = [*pretrain_flags, f"--workdir={tmp_path / 'run'}"]
    result = drivers.run("pretrain", *flags, environment=SICK, patch="tests.fixtures.sick_steps")
    assert result.status == 0, result
    told = {
        k: v
        for entry in log_of(tmp_path / "run")
        for k, v in entry.get("skipped_steps", {}).items()
    }
    (rows,) = told.values()
    assert list(told) == ["7"] and rows.startswith("4 rows from epoch 0 block ")
    assert f"the loss or a gradient is not finite: step 7 ({rows})" in result.err
    assert [entry["step"] for entry in log_of(tmp_path / "run") if "loss" in entry][-1] == 12

    before = sorted((tmp_path / "run").rglob("*"))
    sick = drivers.run(
        "pretrain", *flags, "--replay=7", environment=SICK, patch="tests.fixtures.sick_steps"
    )
    assert sick.err == "from step 4 to 7\n"
    assert sick.out.startswith(f"step 7 ({rows}): invalid value (nan) encountered in mul, in ")
    assert (
        sick.out.split(" > ")[-1].startswith("objectives/losses.py:") and " * weights)" in sick.out
    )
    sound = drivers.run(
        "pretrain", *flags, "--replay=3", environment=SICK, patch="tests.fixtures.sick_steps"
    )
    assert "from step 0 to 3" in sound.err and "no NaN was made; loss 4." in sound.out
    for step in ("-1", "13"):
        wrong = drivers.run("pretrain", *flags, f"--replay={step}").error()
        assert f"--replay={step} is no step of the run: choose 1 to 12" in wrong
    assert sorted((tmp_path / "run").rglob("*")) == before
    nowhere = f"--workdir={tmp_path / 'nothing'}"
    assert "has no run" in drivers.run("pretrain", *flags, nowhere, "--replay=7").error()


def test_many_sick_steps_in_a_row_end_the_run(
    drivers: Drivers, pretrain_flags: list[str], pretrained: Run, tmp_path: pathlib.Path
) -> None:
    flags = [*pretrain_flags, f"--workdir={tmp_path}"]
    environment = {"SICK_STEPS": "6,7,8,9,10,11"}
    result = drivers.run(
        "pretrain",
        *flags,
        environment=environment,
        constants={"bert_jax.training.loss_watch.MAX_SKIPPED_STEPS": 2},
        patch="tests.fixtures.sick_steps",
    )
    assert result.status == 1 and "Traceback" not in result.err
    message = result.err.splitlines()[-1]
    assert message.startswith(
        "error: the last 3 steps up to 8 had a loss or a gradient that is not finite"
    )
    assert "Find the cause with --config.debug=True" in message
    assert steps_in(tmp_path)[0] == 4
    # What is kept is sound: without the sickness the run goes on from there.
    shutil.rmtree(tmp_path / FOLDER / "8", ignore_errors=True)
    assert drivers.run("pretrain", *flags).status == 0
    assert_same_bits(state_of(newest(tmp_path)), state_of(newest(pretrained[0])))


def test_debugging_ends_at_the_first_nan_with_its_cause(
    drivers: Drivers, pretrain_flags: list[str], pretrained: Run, tmp_path: pathlib.Path
) -> None:
    flags = [*pretrain_flags, f"--workdir={tmp_path}", "--config.debug=True"]
    result = drivers.run("pretrain", *flags, environment=SICK, patch="tests.fixtures.sick_steps")
    assert result.status == 1 and "Traceback" not in result.err
    message = result.err.splitlines()[-1]
    assert message.startswith("error: step 7 (4 rows from epoch 0 block ")
    assert "invalid value (nan) encountered in mul" in message
    # It changes nothing else.
    assert drivers.run("pretrain", *flags).status == 0
    assert_same_bits(state_of(newest(tmp_path)), state_of(newest(pretrained[0])))


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("token_ids", 60, 60),
        ("segment_ids", 2, 2),
        ("position_ids", 18, 18),
        ("position_ids", -1, 18),
    ],
)
def test_ids_out_of_range_are_named(
    tiny_encoder: EncoderConfig, field: str, value: int, limit: int
) -> None:
    batch = make_batch(tiny_encoder)
    check_ids(batch, tiny_encoder)
    batch[field][3, 5] = value
    message = rf"{field}\[3, 5\] of row \[0, 3\] is {value}, which is not below {limit}"
    with pytest.raises(UserError, match=message):
        check_ids(batch, tiny_encoder)


def damage(checkpoint: pathlib.Path, how: str) -> None:
    """Damages a checkpoint as disks and people do."""
    if how == "a missing file":
        (checkpoint / "params/_METADATA").unlink()
        return
    if how == "a missing item":
        shutil.rmtree(checkpoint / "opt_state")
        return
    # All of them: some hold what was written first and then merged into others, and are not read.
    for path in checkpoint.rglob("params/**/d/*"):
        content = bytearray(path.read_bytes())
        if how == "a truncated file":
            del content[len(content) // 2 :]
        else:
            content[len(content) // 2] ^= 4
        path.write_bytes(content)


# What Orbax's tasks leave behind when another of them has failed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "how", ["a flipped bit", "a truncated file", "a missing file", "a missing item"]
)
def test_a_damaged_checkpoint_is_set_aside_and_an_earlier_one_used(
    how: str,
    drivers: Drivers,
    pretrain_flags: list[str],
    pretrained: Run,
    tmp_path: pathlib.Path,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(pretrained[0], run)
    shutil.rmtree(run / FOLDER / "12")
    damage(run / FOLDER / "8", how)
    result = drivers.run("pretrain", *pretrain_flags, f"--workdir={run}")
    assert result.status == 0, result
    warning, resuming = result.err.splitlines()[:2]
    assert warning.startswith(f"warning: {run / FOLDER / '8'}") and "is damaged (" in warning
    aside = f"moved to {run / 'damaged'}; steps 5 to 8 are trained again"
    assert warning.endswith(aside) and resuming.startswith("resuming at step 4 from")
    assert (run / "damaged/8").is_dir() and steps_in(run) == [4, 8, 12]
    assert_same_bits(state_of(newest(run)), state_of(newest(pretrained[0])))
    assert log_of(run) == log_of(pretrained[0])


def test_without_a_sound_checkpoint_nothing_is_begun(
    drivers: Drivers, pretrain_flags: list[str], pretrained: Run, tmp_path: pathlib.Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(pretrained[0], run)
    for step in (4, 8, 12):
        damage(run / FOLDER / str(step), "a missing file")
    shutil.rmtree(run / FOLDER / "12/metadata")
    message = drivers.run("pretrain", *pretrain_flags, f"--workdir={run}").error()
    assert f"every checkpoint of {run} is damaged ({run / FOLDER / '12'}" in message
    assert steps_in(run) == [4, 8, 12]


def test_fine_tuning_looks_for_a_sound_checkpoint_too(
    drivers: Drivers,
    task: pathlib.Path,
    pretrained: Run,
    finetuned: Run,
    tmp_path: pathlib.Path,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finetuned[0], run)
    for step in steps_in(run):
        damage(run / FOLDER / str(step), "a missing item")
        (run / FOLDER / str(step) / "metadata/metadata").unlink()
    message = drivers.run("finetune", *finetune_flags(task, pretrained, run)).error()
    assert f"every checkpoint of {run} is damaged" in message


def test_another_mesh_goes_on_with_the_same_rows(
    drivers: Drivers, pretrain_flags: list[str], tmp_path: pathlib.Path
) -> None:
    still = ["--config.encoder.dropout_rate=0.0", "--config.encoder.attention_dropout_rate=0.0"]
    # Many steps, each saved: so a run is stopped inside.
    flags = [*pretrain_flags, *still, "--config.steps=40", "--config.checkpoint_steps=1"]
    whole = drivers.run("pretrain", *flags, f"--workdir={tmp_path / 'whole'}")
    assert whole.status == 0
    moved = tmp_path / "moved"
    flags.append(f"--workdir={moved}")
    changes = [
        (4, ["--config.mesh.fsdp=2", "--config.mesh.tensor=2"]),
        (1, ["--config.micro_batches=2", "--config.encoder.remat=inputs"]),
        (2, ["--config.mesh.tensor=2", "--config.encoder.unroll=2"]),
    ]
    for part, (devices, settings) in enumerate(changes, start=1):
        environment = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        running = drivers.start("pretrain", *flags, *settings, environment=environment)
        if part < len(changes):
            before = steps_in(moved)
            running.wait_until(lambda before=before: steps_in(moved)[-1:] > before[-1:])
            running.send(signal.SIGTERM)
        result = running.wait()
        assert result.status == (75 if part < len(changes) else 0), result
    ours, theirs = log_of(tmp_path / "moved"), log_of(tmp_path / "whole")
    ours = {entry["step"]: entry for entry in ours if "heldout_mlm_loss" in entry}
    for entry in (entry for entry in theirs if "heldout_mlm_loss" in entry):
        for name, value in entry.items():
            np.testing.assert_allclose(ours[entry["step"]][name], value, rtol=1e-4, err_msg=name)
    places = [read_metadata(newest(tmp_path / name))["cursor"] for name in ("moved", "whole")]
    assert places[0] == places[1]
    states = [state_of(newest(tmp_path / name)) for name in ("moved", "whole")]
    for one, other in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_a_profile_of_chosen_steps(
    drivers: Drivers, pretrain_flags: list[str], tmp_path: pathlib.Path
) -> None:
    flags = [*pretrain_flags, f"--workdir={tmp_path}", "--config.profile=3:4", "--config.steps=5"]
    result = drivers.run("pretrain", *flags)
    assert result.status == 0, result
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert b"train_step" in trace.read_bytes()
