"""Averages of parameters: by `convert --average`, and the one that a run keeps."""

import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from bert_jax.checkpoints.checkpoint import arrays_in as stored_arrays
from bert_jax.checkpoints.checkpoint import groups_in, read_array, read_metadata, write_parameters
from bert_jax.errors import UserError
from bert_jax.inspection.stored import open_checkpoint
from tests.fixtures.drivers import (
    Drivers,
    Run,
    assert_same_bits,
    finetune_flags,
    log_of,
    newest,
    state_of,
)


def arrays(checkpoint: pathlib.Path, item: str = "params") -> dict[str, np.ndarray]:
    """Returns every array of an item of a checkpoint, by name."""
    metadata = read_metadata(checkpoint)
    names = stored_arrays(checkpoint, item)
    return {name: read_array(checkpoint, item, name, metadata) for name in names}


def copied(
    checkpoint: pathlib.Path, run: pathlib.Path, *, labels: list[str] | None = None, **encoder: Any
) -> pathlib.Path:
    """Writes a checkpoint as one of another run, with other labels or fields of the encoder."""
    metadata = read_metadata(checkpoint)
    metadata["encoder"] |= encoder
    metadata |= {} if labels is None else {"labels": labels}
    of_checkpoint = ("format", "versions", "fingerprints", "step")
    kept = {name: value for name, value in metadata.items() if name not in of_checkpoint}
    write_parameters(run, unflatten_dict(arrays(checkpoint), sep="/"), kept)
    return run / "checkpoints" / "0"


def test_the_mean_of_checkpoints_is_one_that_can_be_fine_tuned(
    drivers: Drivers, pretrained: Run, task: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run, _ = pretrained
    steps = [run / "checkpoints" / str(step) for step in (4, 8, 12)]
    # It went on with another choice of how to compute, as a run may.
    steps[2] = copied(steps[2], tmp_path / "went_on", remat="inputs", unroll=2)
    sources = ",".join(map(str, steps))
    result = drivers.run("convert", f"--average={sources}", f"--to={tmp_path / 'mean'}")
    assert result.status == 0 and "the mean of 3 checkpoints" in result.out, result
    made = tmp_path / "mean" / "checkpoints" / "0"
    assert groups_in(made) == groups_in(steps[0])
    each = [arrays(step) for step in steps]
    for name, value in arrays(made).items():
        mean = np.mean([one[name].astype(np.float64) for one in each], axis=0)
        np.testing.assert_array_equal(value, mean.astype(np.float32), err_msg=name)
        assert (value != each[0][name]).any() or name.endswith("segments")
    assert read_metadata(made)["average_of"] == list(map(str, steps))
    with pytest.raises(UserError, match=r"was made by convert \(imported, averaged or .* no optim"):
        _ = open_checkpoint(made).opt_state
    tuned = finetune_flags(task, (tmp_path / "mean", result), tmp_path / "tuned")
    assert drivers.run("finetune", *tuned).status == 0


def test_what_cannot_be_averaged_is_told(
    drivers: Drivers, pretrained: Run, finetuned: Run, tmp_path: pathlib.Path
) -> None:
    first = pretrained[0] / "checkpoints" / "4"
    other = newest(finetuned[0])
    windowed = copied(first, tmp_path / "windowed", window=8)
    causal = copied(first, tmp_path / "causal", causal=True)
    link = tmp_path / "link"
    link.symlink_to(pretrained[0])
    labels = read_metadata(other)["labels"]
    turned = copied(other, tmp_path / "turned", labels=labels[::-1])
    cases = {
        f"{other},{turned}": "have different labels: average those of one run",
        f"{first},{first}": "names a checkpoint twice: leave one out",
        f"{first},{link / 'checkpoints' / '4'}": "names a checkpoint twice: leave one out",
        f"{first},{other}": "have different kinds: average those of one run",
        str(first): "has no moving average: train with --config.average_decay",
        f"{first},{tmp_path / 'nothing'}": "has no checkpoint",
        f"{first},": "has a comma without a checkpoint: leave it out",
        f"{first},{windowed}": "have different encoders (window): average those of one run",
        f"{first},{causal}": "have different encoders (causal): average those of one run",
    }
    for sources, message in cases.items():
        result = drivers.run("convert", f"--average={sources}", f"--to={tmp_path / 'made'}")
        assert message in result.error()
        assert not (tmp_path / "made").exists()
    both = [f"--average={first}", f"--from={first}", f"--to={tmp_path / 'made'}"]
    assert "give one of the two" in drivers.run("convert", *both).error()
    elsewhere = [f"--average={first},{first}", f"--to=hf:{tmp_path / 'made'}"]
    said = drivers.run("convert", *elsewhere).error()
    assert "--average makes a checkpoint: name its directory, and convert that" in said
    pairs = ["--pairs", f"--average={first}", f"--to={tmp_path / 'made'}"]
    assert "leave them out with --average" in drivers.run("convert", *pairs).error()


@pytest.fixture(scope="module")
def averaged(drivers: Drivers, pretrain_flags: list[str], tmp_path_factory) -> pathlib.Path:
    """A run that keeps a moving average, with a checkpoint of each step."""
    workdir = tmp_path_factory.mktemp("averaged") / "run"
    flags = ["--config.average_decay=0.5", "--config.checkpoint_steps=1"]
    keep = "--config.keep_checkpoints=99"
    result = drivers.run("pretrain", *pretrain_flags, *flags, keep, f"--workdir={workdir}")
    assert result.status == 0, result
    return workdir


def test_a_run_keeps_a_moving_average(
    drivers: Drivers, averaged: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    steps = {n: averaged / "checkpoints" / str(n) for n in range(1, 13)}
    before = {name: value.astype(np.float64) for name, value in arrays(steps[1], "average").items()}
    for n in range(2, 13):
        params, average = arrays(steps[n]), arrays(steps[n], "average")
        kept = min(0.5, n / (9 + n))  # of the step that was counted n - 1 from 0
        for name, value in average.items():
            before[name] = kept * before[name] + (1 - kept) * params[name]
            np.testing.assert_allclose(value, before[name], rtol=0, atol=1e-6, err_msg=name)
    last = [entry for entry in log_of(averaged) if "heldout_mlm_loss" in entry][-1]
    assert last["heldout_average_mlm_loss"] != last["heldout_mlm_loss"]
    result = drivers.run("convert", f"--average={averaged}", f"--to={tmp_path / 'made'}")
    assert result.status == 0 and "the moving average of" in result.out, result
    made = arrays(tmp_path / "made" / "checkpoints" / "0")
    for name, value in arrays(steps[12], "average").items():
        np.testing.assert_array_equal(made[name], value)


def test_the_average_is_resumed_to_the_bit(
    drivers: Drivers, averaged: pathlib.Path, pretrain_flags: list[str], tmp_path: pathlib.Path
) -> None:
    killed = pathlib.Path(shutil.copytree(averaged, tmp_path / "killed"))
    for step in range(6, 13):
        shutil.rmtree(killed / "checkpoints" / str(step))
    flags = [*pretrain_flags, "--config.average_decay=0.5", f"--workdir={killed}"]
    result = drivers.run("pretrain", *flags)
    assert result.status == 0 and "resuming at step 5" in result.err, result
    assert_same_bits(state_of(newest(killed)), state_of(newest(averaged)))
    assert state_of(newest(killed)).average is not None
