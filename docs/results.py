"""Writes the table of results into README.md, from the logs in experiments/results.

    python -m docs.results

A row needs a pretraining log and the scores of both tasks; what was not measured is not in it.
"""

import csv
import json
import pathlib
import re
from collections.abc import Sequence
from statistics import fmean

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "experiments" / "results"
BEGIN, END = "<!-- begin: python -m docs.results -->\n", "<!-- end -->\n"

_HEADINGS = (
    "encoder",
    "pretrained on",
    "training time",
    "held-out MLM loss",
    "SST-2 accuracy",
    "WNUT-17 entity F1",
)


def rows() -> list[tuple[str, ...]]:
    """Returns the rows of the table, the best model first."""
    mini, tasks, study = (
        RESULTS / name for name in ("pretrain_mini_enwiki", "tasks_mini", "masking_mix")
    )
    runs = sorted(study.glob("pretrain/80_10_10/seed-*"))
    return [
        (*_pretraining([mini], "two CPU cores"), *_scores(tasks, "full")),
        ("the same, random weights", "-", "-", "-", *_scores(tasks, "random")),
        (*_pretraining(runs, "one CPU core"), *_study_scores(study / "values.csv", "80_10_10")),
    ]


def _pretraining(runs: Sequence[pathlib.Path], machine: str) -> tuple[str, ...]:
    """Returns encoder, data, time and loss, means of runs with different seeds."""
    encoder = json.loads((runs[0] / "config.json").read_text())["encoder"]
    logs = [
        [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in runs
    ]
    reports = [[each for each in log if "tokens_per_second" in each] for log in logs]
    tokens = fmean(sum(each["tokens"] for each in log) for log in reports)
    seconds = fmean(
        sum(each["tokens"] / each["tokens_per_second"] for each in log) for log in reports
    )
    losses = [
        [each["heldout_mlm_loss"] for each in log if "heldout_mlm_loss" in each] for log in logs
    ]
    return (
        f"{encoder['layers']} layers of width {encoder['width']}",
        f"{tokens / 1e6:.1f} M tokens of Wikipedia",
        f"{seconds / 60:.0f} min, {machine}",
        f"{fmean(each[-1] for each in losses):.2f}",
    )


def _scores(folder: pathlib.Path, start: str) -> tuple[str, ...]:
    """Returns the mean scores of both tasks, of fine-tuning runs in folders."""
    summaries = [folder / f"{task}-{start}" / "summary.json" for task in ("sst2", "wnut")]
    return tuple(f"{json.loads(path.read_text())['mean']:.3f}" for path in summaries)


def _study_scores(values: pathlib.Path, variant: str) -> tuple[str, ...]:
    """Returns the same of a variant of a study."""
    with open(values) as file:
        entries = [each for each in csv.DictReader(file) if each["variant"] == variant]
    return tuple(
        f"{fmean(float(each['value']) for each in entries if each['metric'] == metric):.3f}"
        for metric in ("sst2/accuracy", "entities/f1")
    )


def make_table() -> str:
    """Returns the table in Markdown."""
    lines = [_HEADINGS, ("---",) * len(_HEADINGS), *rows()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def with_table(page: str) -> str:
    """Returns a page with today's table between its markers."""
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    return re.sub(pattern, lambda _: BEGIN + make_table() + END, page, flags=re.DOTALL)


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
