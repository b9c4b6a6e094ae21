"""What is pretraining worth to a mini on a laptop: tasks, modes and seeds, and a learning curve.

    python -m experiments.fine_tune_mini --checkpoint=runs/mini --data=DATA --workdir=runs/tasks
    python -m experiments.fine_tune_mini --workdir=runs/tasks --table=experiments/results/tasks

The first command trains all that is not trained yet, in as many lanes as there are cores, each on
its own core; stopped, it goes on where it was. The second makes the tables and the picture of what
is there.
"""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import queue
import shutil
import subprocess
import sys

from absl import app, flags
from matplotlib.figure import Figure

_CHECKPOINT = flags.DEFINE_string("checkpoint", "runs/mini", "the pretrained run")
_DATA = flags.DEFINE_string("data", "data", "the folder of the tasks' files")
_WORKDIR = flags.DEFINE_string("workdir", None, "where the runs are", required=True)
_TABLE = flags.DEFINE_string("table", "", "a folder for tables and logs; '': the runs are made")
_ONLY = flags.DEFINE_list("only", [], "names of runs; by default all")

CURVE = (100, 300, 1000, 3000, 0)  # training sentences; 0: all


@dataclasses.dataclass(frozen=True)
class Study:
    """Some seeds of one setting: a call of `finetune`."""

    name: str
    task: str
    seeds: int
    flags: tuple[str, ...]


def task_flags(task: str) -> list[str]:
    """Returns the recipe and the files of a task."""
    data = pathlib.Path(_DATA.value)
    recipe, train, dev, *more = {
        "sst2": (
            "configs/finetune_sst2.py",
            "classification/sst2/sentences_train.tsv",
            "classification/sst2/sentences_dev.tsv",
        ),
        "cola": (
            "configs/glue.py:cola",
            "classification/cola/in_domain_train.tsv",
            "classification/cola/in_domain_dev.tsv",
            "--config.data.length=64",
        ),
        "rte": (
            "configs/glue.py:rte",
            "classification/rte/rte_train.tsv",
            "classification/rte/rte_dev.tsv",
        ),
        "wnut": (
            "configs/finetune_tags.py",
            "token/wnut17/train.conll",
            "token/wnut17/dev.conll",
        ),
        "squad": (
            "configs/finetune_squad.py",
            "span/squad_v11dev_split_train.json",
            "span/squad_v11dev_split_eval.json",
            "--config.data.length=128",
            "--config.data.stride=64",
            "--config.data.question_length=32",
            "--config.epochs=1",
            "--config.data.examples=2500",
        ),
    }[task]
    files = [f"--config.data.train={data / train}", f"--config.data.dev={data / dev}"]
    return [f"--config={recipe}", *files, *more]


# Found on the held-out sets with seed 0, for each of the two starts by itself.
_PRETRAINED = ("--config.optimizer.learning_rate=1e-3", "--config.dropout_rate=0.3")
_RANDOM = ("--config.optimizer.learning_rate=3e-4", "--config.transfer=False")
_HEAD_RATE = "--config.optimizer.learning_rate=1e-3"


def studies() -> list[Study]:
    """Lists all settings; the longest come last."""
    found = []
    for task, seeds in (("sst2", 5), ("cola", 5), ("rte", 5), ("wnut", 5)):
        modes = {"full": _PRETRAINED, "random": _RANDOM}
        for mode in ("cached", "frozen"):
            modes[mode] = (_HEAD_RATE, f"--config.encoder_mode={mode}")
        found += [Study(f"{task}-{mode}", task, seeds, extra) for mode, extra in modes.items()]
    for examples in CURVE[:-1]:
        epochs = f"--config.epochs={min(3 * 3000 // examples, 20)}"
        for mode, extra in (("full", _PRETRAINED), ("random", _RANDOM)):
            subset = (*extra, f"--config.data.examples={examples}", epochs)
            found.append(Study(f"sst2-{examples}-{mode}", "sst2", 3, subset))
    found.append(Study("squad-full", "squad", 2, _PRETRAINED))
    found.append(Study("squad-random", "squad", 2, _RANDOM))
    return [study for study in found if not _ONLY.value or study.name in _ONLY.value]


def run(study: Study, core: int) -> int:
    """Trains the seeds of a setting on one core; returns the exit status."""
    workdir = pathlib.Path(_WORKDIR.value)
    command = [sys.executable, "-m", "bert_jax.finetune", *task_flags(study.task), *study.flags]
    command += [f"--config.seeds={study.seeds}", f"--checkpoint={_CHECKPOINT.value}"]
    command += [f"--workdir={workdir / study.name}"]
    with open(workdir / f"{study.name}.txt", "a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, {core})
        return process.wait()


def make_runs() -> bool:
    """Trains what is not trained yet; returns whether all went well."""
    os.makedirs(_WORKDIR.value, exist_ok=True)
    cores: queue.Queue[int] = queue.Queue()
    for core in range(os.cpu_count() or 1):
        cores.put(core)

    def one(study: Study) -> int:
        core = cores.get()
        status = run(study, core)
        cores.put(core)
        print(f"{study.name}: {'done' if status == 0 else f'status {status}'}", flush=True)
        return status

    with concurrent.futures.ThreadPoolExecutor(cores.qsize()) as pool:
        return not any(list(pool.map(one, studies())))


def make_table(output: pathlib.Path) -> None:
    """Writes table.md, the curve and every run's log."""
    lines = [
        "| run | score | mean | standard deviation | seeds | failed |",
        "|---|---|---|---|---|---|",
    ]
    output.mkdir(parents=True, exist_ok=True)
    points: dict[str, list[tuple[int, float, float]]] = {"full": [], "random": []}
    for study in studies():
        folder = pathlib.Path(_WORKDIR.value) / study.name
        if not (folder / "summary.json").exists():
            continue
        summary = json.loads((folder / "summary.json").read_text())
        mean, spread = summary["mean"], summary["standard_deviation"]
        seeds = len(summary["scores"])
        lines.append(
            f"| {study.name} | {summary['metric']} | {mean:.4f} | {spread:.4f} | {seeds} |"
            f" {summary['failed']} |"
        )
        logs = output / study.name
        logs.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "summary.json", logs)
        for log in sorted(folder.glob("seed-*/log.jsonl")):
            shutil.copy(log, logs / f"{log.parent.name}.jsonl")
        _, *middle, mode = study.name.split("-")
        if study.task == "sst2" and mode in points:
            points[mode].append((int(middle[0]) if middle else 6920, mean, spread))
    (output / "table.md").write_text("\n".join(lines) + "\n")
    if any(len(found) > 1 for found in points.values()):
        plot_curve(points, output / "learning_curve.png")
    print("\n".join(lines))


def plot_curve(points: dict[str, list[tuple[int, float, float]]], path: pathlib.Path) -> None:
    """Draws the score over the number of training examples, with the spread of the seeds."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for mode, found in points.items():
        if found:
            numbers, means, spreads = zip(*sorted(found), strict=True)
            label = "pretrained" if mode == "full" else "random weights"
            axes.errorbar(numbers, means, spreads, marker="o", capsize=3, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("training sentences")
    axes.set_ylabel("SST-2 accuracy, held out")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main(_: list[str]) -> None:
    """Makes the runs, or their tables."""
    if _TABLE.value:
        make_table(pathlib.Path(_TABLE.value))
    elif not make_runs():
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
