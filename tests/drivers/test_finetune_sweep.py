"""Many fine-tuning runs at once: each is the run that `finetune` would have made alone."""

import itertools
import json
import pathlib
import random
import signal
from typing import Any

import jax
import numpy as np
import pytest

from bert_jax.checkpoints.checkpoint import find_checkpoint, read_metadata
from bert_jax.config import MeshConfig
from bert_jax.data.tasks.splits import Task
from bert_jax.distributed.sharding import make_mesh
from bert_jax.tasks.finetuned import FineTuned
from bert_jax.tasks.kinds import read_task
from tests.fixtures.drivers import Drivers, Run, copied, finetune_flags, log_of

FLAGS = "--xla_backend_optimization_level=0"
SEEDS, RATES = (3, 4), (5e-3, 5e-2)
# Half of the examples, drawn by the seed; rows that hold several; dropout.
SHARED = ["seed=3", "seeds=2", "data.examples=30", "data.max_examples_per_row=5", "epochs=3"]
SHARED += ["dropout_rate=0.3", "fresh_layers=1", "head_learning_rate=3e-2", "layer_decay=0.9"]
SHARED += ["patience=1"]


def sweep_flags(task: pathlib.Path, pretrained: Run, workdir: pathlib.Path, *config: str) -> list:
    rates = f"--learning_rates={','.join(map(str, RATES))}"
    return [*finetune_flags(task, pretrained, workdir), rates, *(f"--config.{c}" for c in config)]


def outputs_alone(run: pathlib.Path) -> np.ndarray:
    """Returns what the best epoch of a run of its own says about the held-out examples."""
    checkpoint = find_checkpoint(run)
    tuned = FineTuned(
        checkpoint, read_metadata(checkpoint), make_mesh(MeshConfig(), jax.devices()[:1])
    )
    task: Task = read_task(tuned.config, tuned.tokenizer)
    return np.stack(tuned.outputs(task.dev["dev"].inputs, batch_size=4))


def read_sweep(workdir: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    summary = json.loads((workdir / "summary.json").read_text())
    return summary, dict(np.load(workdir / "predictions.npz"))


def assert_same_as_alone(sweep: pathlib.Path, alone: dict[float, pathlib.Path]) -> None:
    """Compares every run of a sweep with the directories of a run for each rate."""
    summary, predictions = read_sweep(sweep)
    assert len(summary["runs"]) == len(predictions["outputs"]) == len(SEEDS) * len(RATES)
    for number, run in enumerate(summary["runs"]):
        directory = alone[run["learning_rate"]] / f"seed-{run['seed']}"
        epochs = [each for each in log_of(directory) if "dev_loss" in each]
        assert len(run["epochs"]) == len(epochs)
        for epoch, (ours, theirs) in enumerate(zip(run["epochs"], epochs, strict=True), 1):
            expected = {name: theirs[name] for name in ours.keys() - {"epoch"}}
            assert ours == pytest.approx(expected | {"epoch": epoch}, abs=1e-4)
        assert find_checkpoint(directory).name == str(epochs[run["best_epoch"] - 1]["step"])
        outputs = predictions["outputs"][number]
        np.testing.assert_allclose(outputs, outputs_alone(directory), atol=1e-4)
        assert predictions["seeds"][number] == run["seed"]
    # Witness: the runs differ, by seed and by rate.
    for ours, theirs in itertools.combinations(predictions["outputs"], 2):
        assert np.abs(ours - theirs).max() > 1e-2


@pytest.fixture(scope="module")
def swept(
    drivers: Drivers, task: pathlib.Path, pretrained: Run, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """A sweep that was stopped, and begun again."""
    workdir = tmp_path_factory.mktemp("sweep") / "sweep"
    flags = sweep_flags(task, pretrained, workdir, *SHARED)
    running = drivers.start("finetune_sweep", *flags)
    running.wait_until(lambda: "step 2/" in running.err)
    running.send(signal.SIGTERM)
    stopped = running.wait()
    assert stopped.status == 75 and "and kept nothing: it begins anew next time" in stopped.err
    assert not (workdir / "summary.json").exists()
    result = drivers.run("finetune_sweep", *flags)
    assert result.status == 0, result
    return workdir, result


def test_every_run_is_the_run_alone(
    drivers: Drivers, task: pathlib.Path, pretrained: Run, swept: Run, tmp_path: pathlib.Path
) -> None:
    alone = {}
    for rate in RATES:
        alone[rate] = tmp_path / str(rate)
        flags = [*SHARED, f"optimizer.learning_rate={rate}"]
        result = drivers.run(
            "finetune",
            *finetune_flags(task, pretrained, alone[rate]),
            *(f"--config.{flag}" for flag in flags),
        )
        assert result.status == 0, result
    assert_same_as_alone(swept[0], alone)


def test_devices_do_not_matter(
    drivers: Drivers, task: pathlib.Path, pretrained: Run, swept: Run, tmp_path: pathlib.Path
) -> None:
    """Four runs on three devices: two more fill the last one."""
    environment = {"XLA_FLAGS": f"{FLAGS} --xla_force_host_platform_device_count=3"}
    flags = sweep_flags(task, pretrained, tmp_path / "sweep", *SHARED)
    result = drivers.run("finetune_sweep", *flags, environment=environment)
    assert result.status == 0, result
    assert "4 runs at once, 2 on each device; 2 more fill the last devices" in result.err
    ours, expected = (read_sweep(each)[1] for each in (tmp_path / "sweep", swept[0]))
    for name in expected:
        np.testing.assert_allclose(ours[name], expected[name], atol=1e-4)
    assert result.out == swept[1].out


def test_what_is_told(drivers: Drivers, task: pathlib.Path, pretrained: Run, swept: Run) -> None:
    workdir, result = swept
    summary, _ = read_sweep(workdir)
    names = ["dev_accuracy", "seed", "seed", "mean", "deviation", "failed", "`bert_jax.finetune`"]
    table = [line.split() for line in result.out.splitlines()]
    assert [line[0] for line in table] == names and table[0][1:] == ["0.005", "0.05"]
    scores = np.reshape([run["score"] for run in summary["runs"]], (len(SEEDS), len(RATES)))
    assert table[3][1:] == [f"{mean:.4f}" for mean in scores.mean(axis=0)]
    assert table[4][1:] == [f"{each:.4f}" for each in scores.std(axis=0, ddof=1)]
    assert table[5][1:] == [str(n) for n in (scores <= summary["floor"]).sum(axis=0)]
    assert scores.min() <= summary["floor"] < scores.max()
    best = SEEDS[scores.max(axis=1).argmax()], RATES[scores.max(axis=0).argmax()]
    assert "--config.seed={} --config.optimizer.learning_rate={}\n".format(*best) in result.out
    for run in summary["runs"]:
        values = [each["dev_accuracy"] for each in run["epochs"]]
        assert run["score"] == max(values) == values[run["best_epoch"] - 1]
    assert {len(run["epochs"]) for run in summary["runs"]} == {2, 3}  # some had enough
    flags = sweep_flags(task, pretrained, workdir, *SHARED)
    again = drivers.run("finetune_sweep", *flags)
    assert again.status == 0 and again.out == f"{workdir} is finished\n{result.out}"
    other = drivers.run("finetune_sweep", *flags, f"--checkpoint={pretrained[0]}/checkpoints/8")
    assert "began with the parameters of" in other.error()


def test_a_frozen_encoder_beside_a_rate_that_is_too_high(
    drivers: Drivers, task: pathlib.Path, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    config = ["encoder_mode=frozen", "seed=3", "epochs=1", "dropout_rate=0.2"]
    flags = sweep_flags(task, pretrained, tmp_path / "sweep", *config)
    result = drivers.run("finetune_sweep", *flags, f"--learning_rates={RATES[1]},1e38")
    assert result.status == 0, result
    summary, predictions = read_sweep(tmp_path / "sweep")
    skipped = [run["skipped_steps"] for run in summary["runs"]]
    assert skipped[0] == 0 < skipped[1]
    assert f"seed 3 with 1e+38 skipped {skipped[1]} steps" in result.out
    config += [f"optimizer.learning_rate={RATES[1]}"]
    flags = finetune_flags(task, pretrained, tmp_path / "alone")
    result = drivers.run("finetune", *flags, *(f"--config.{each}" for each in config))
    assert result.status == 0, result
    outputs = outputs_alone(tmp_path / "alone")
    np.testing.assert_allclose(predictions["outputs"][0], outputs, atol=1e-4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning_rates="], "--learning_rates is not set: for example --learning_rates=1e-5,"),
        (["--learning_rates=1e-3,fast"], "--learning_rates: 'fast' must be a number above 0"),
        (["--learning_rates=1e-3,0"], "--learning_rates: '0' must be a number above 0"),
        (["--learning_rates=inf"], "--learning_rates: 'inf' must be a number above 0"),
        (["--learning_rates=1e-3,0.001"], "--learning_rates: 0.001 is there twice"),
        (["--processes=2", "--coordinator=here:1", "--process=0"], "a sweep runs in one process"),
        (["--config.mesh.fsdp=2"], "--config.mesh.fsdp=2 splits a run over devices"),
        (["--config.encoder_mode=cached"], "a sweep takes encoder_mode=frozen"),
        (["--config.micro_batches=2"], "--config.micro_batches=2: the runs of a sweep have whole"),
        (["--config.debug"], "--config.debug looks at one run"),
        (["--config.optimizer.warmup_steps=33"], "warmup_steps=33 leaves no step to train: the ru"),
        (
            ["--config.task=tags", "--config.class_weights=balanced", "--config.data.examples=20"],
            "differ by seed",
        ),
        (["--config.encoder_mode=frozen", "--config.head_learning_rate=0.1"], "leave it out"),
    ],
)
def test_wrong_flags_are_one_line(
    flags: list[str], message: str, drivers: Drivers, task: pathlib.Path, pretrained: Run
) -> None:
    workdir = task / "never"
    result = drivers.run("finetune_sweep", *sweep_flags(task, pretrained, workdir), *flags)
    assert message in result.error() and not workdir.exists()


def test_seeds_with_other_numbers_of_windows(
    drivers: Drivers, task: pathlib.Path, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    rng = random.Random(0)
    blocks = ["red O\n" * rng.randint(1, 30) + "sun B-HUE\n" for _ in range(40)]
    (tmp_path / "task.conll").write_text("\n".join(blocks))
    config = ["task=tags", f"data.train={tmp_path / 'task.conll'}", "data.length=12"]
    config += ["data.stride=4", "seeds=2", "batch_size=2", "data.examples=10"]
    flags = sweep_flags(task, pretrained, tmp_path / "sweep", *config)
    flags = [flag.replace(str(task / "dev.tsv"), str(tmp_path / "task.conll")) for flag in flags]
    message = drivers.run("finetune_sweep", *flags).error()
    assert "--config.data.examples=10: those of seed 1 are" in message
    assert not (tmp_path / "sweep").exists()


def test_a_directory_has_one_kind_of_run(
    drivers: Drivers,
    task: pathlib.Path,
    pretrained: Run,
    finetuned: Run,
    swept: Run,
    tmp_path: pathlib.Path,
) -> None:
    flags = sweep_flags(task, pretrained, copied(finetuned, tmp_path / "run"))
    message = drivers.run("finetune_sweep", *flags).error()
    assert "has a run with another config" in message and "learning_rates" in message
    message = drivers.run("finetune_sweep", *sweep_flags(task, pretrained, swept[0])).error()
    assert "has a run with another config: data.examples: 30 -> 0" in message
    message = drivers.run("finetune", *finetune_flags(task, pretrained, swept[0])).error()
    assert "has another kind of run" in message
