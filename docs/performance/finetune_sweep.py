"""Compares the scores and the time of a sweep with those of the same runs one by one.

    python -m docs.performance.finetune_sweep --checkpoint=runs/mini --workdir=runs/beside \
        --seeds=5 --learning_rates=1e-4,3e-4,1e-3,3e-3 --config=configs/finetune_sst2.py \
        --config.data.train=sentences_train.tsv --config.data.dev=sentences_dev.tsv

Other flags are passed to every run. One by one means a process for each rate, which trains the
seeds one after another with the same compiled step (`--config.seeds`). All use the cores of this
process. "cpu" is in seconds of all cores, which other load on the machine changes least. Finished
runs are not repeated.
"""

import json
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from bert_jax.checkpoints.checkpoint import find_checkpoint, read_metadata
from bert_jax.cli import app
from bert_jax.config import MeshConfig
from bert_jax.distributed.sharding import make_mesh
from bert_jax.tasks.finetuned import FineTuned
from bert_jax.tasks.kinds import read_task
from bert_jax.training.logs import LOG_FILE, read_log

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "the run to start from")
_WORKDIR = flags.DEFINE_string("workdir", None, "the folder of all runs")
_LEARNING_RATES = flags.DEFINE_string("learning_rates", None, "with commas between")
_SEEDS = flags.DEFINE_integer("seeds", 5, "from 0 on")

_given: list[str] = []  # flags for every run


def run(driver: str, workdir: pathlib.Path, *own: str) -> tuple[float, float]:
    """Runs a driver, unless it has run; returns its wall seconds, and those of all cores."""
    taken = workdir.with_name(f"{workdir.name}.seconds")
    if not taken.exists():
        command = [sys.executable, "-m", f"bert_jax.{driver}", *_given, *own]
        command += [f"--checkpoint={_CHECKPOINT.value}", f"--workdir={workdir}"]
        command.append(f"--config.seeds={_SEEDS.value}")
        begin, before = time.monotonic(), _cpu_seconds()
        subprocess.run(command, check=True)
        seconds = (time.monotonic() - begin, _cpu_seconds() - before)
        taken.write_text(json.dumps(seconds))
    wall, cpu = json.loads(taken.read_text())
    return wall, cpu


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def outputs_alone(workdir: pathlib.Path) -> np.ndarray:
    """Returns the outputs of a run's best epoch for its held-out examples, [I, C]."""
    checkpoint = find_checkpoint(workdir)
    tuned = FineTuned(checkpoint, read_metadata(checkpoint), make_mesh(MeshConfig()))
    inputs = read_task(tuned.config, tuned.tokenizer).dev["dev"].inputs
    return np.stack(tuned.outputs(inputs, batch_size=tuned.config.batch_size))


def compare(ours: dict[str, Any], outputs: np.ndarray, alone: pathlib.Path) -> list[str]:
    """Returns the cells of a row: the differences between a run of the sweep and the run alone."""
    theirs = outputs_alone(alone)
    epochs = [each for each in read_log(alone / LOG_FILE) if "dev_loss" in each]
    best = max(each["dev_accuracy"] for each in epochs)
    gaps = [
        abs(epoch[name] - other[name])
        for epoch, other in zip(ours["epochs"], epochs, strict=True)
        for name in ("dev_accuracy", "dev_loss")
    ]
    differing = int(np.count_nonzero(outputs.argmax(axis=-1) != theirs.argmax(axis=-1)))
    return [
        str(ours["seed"]),
        f"{ours['learning_rate']:g}",
        f"{ours['score']:.4f}",
        f"{best:.4f}",
        f"{differing} of {len(outputs)}",
        f"{np.abs(outputs - theirs).max():.1e}",
        f"{max(gaps):.1e}",
    ]


def main(argv: Sequence[str]) -> None:
    """Runs everything, then prints two tables."""
    _given.extend(argv[1:])
    workdir = pathlib.Path(app.require("workdir", _WORKDIR.value, "runs/beside"))
    workdir.mkdir(parents=True, exist_ok=True)
    rates = app.require("learning_rates", _LEARNING_RATES.value, "1e-4,1e-3")
    sweep = workdir / "sweep"
    at_once = run("finetune_sweep", sweep, f"--learning_rates={rates}")
    one_by_one = np.zeros(2)
    for rate in rates.split(","):
        own = f"--config.optimizer.learning_rate={rate}"
        one_by_one += run("finetune", workdir / f"rate-{float(rate):g}", own)
    runs = json.loads((sweep / "summary.json").read_text())["runs"]
    outputs = np.load(sweep / "predictions.npz")["outputs"]
    print("| seed | rate | sweep | alone | predictions that differ | outputs | scores |")
    print("|---|---|---|---|---|---|---|")
    for each, made in zip(runs, outputs, strict=True):
        folder = workdir / f"rate-{each['learning_rate']:g}" / f"seed-{each['seed']}"
        print(f"| {' | '.join(compare(each, made, folder))} |", flush=True)
    print("\n| | seconds | cpu |\n|---|---|---|")
    print(f"| {len(runs)} runs at once | {at_once[0]:.0f} | {at_once[1]:.0f} |")
    print(f"| one by one | {one_by_one[0]:.0f} | {one_by_one[1]:.0f} |")
    ratios = one_by_one / at_once
    print(f"\none by one / at once: {ratios[0]:.2f}, cpu {ratios[1]:.2f}")


if __name__ == "__main__":
    app.run(main, unknown_flags=True)
