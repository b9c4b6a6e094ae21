"""Writes the tables of results into README.md, from the study in experiments/results.

    python -m docs.results

A task is a line: scores from the pretrained encoder, from random weights and by a head alone, means
over the seeds with half of a 95 % interval. A second table has the costs of both stages, and what a
plan says about those of BERT base.
"""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bert_jax.training.logs import LOG_FILE, read_log
from experiments.folder import StudyFolder
from experiments.measures import Cost, cost_of, measure
from experiments.statistics import Estimate, Verdict
from experiments.summary import Cell, Row, Summary, summarise
from experiments.tables import markdown_table

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "experiments" / "results"
STUDY = RESULTS / "pretraining_worth"
ENCODER = STUDY / "encoder"  # log and config of the run that all start from
BERT = RESULTS / "plans" / "bert_base_v5e.txt"
BEGIN, END = "<!-- begin: python -m docs.results -->\n", "<!-- end -->\n"

_VARIANTS = {
    "pretrained": "pretrained encoder",
    "random": "random weights",
    "head_alone": "head alone, encoder frozen",
}
_TASKS = {
    "entities/f1": "entities in Wikipedia (WikiGold), F1",
    "posts/f1": "entities in posts (WNUT-17), F1",
    "pos/accuracy": "parts of speech (UD English EWT), accuracy",
    "squad/f1": "answers to questions (SQuAD), F1 of 100",
    "cola/matthews": "acceptability (CoLA), Matthews correlation",
    "rte/accuracy": "entailment (RTE), accuracy",
    "sst2/accuracy": "sentiment of reviews (SST-2), accuracy",
}


def make_tables() -> str:
    """Returns the tables in Markdown, with a line about the encoder."""
    folder = StudyFolder(STUDY)
    study = summarise(folder)
    log = read_log(ENCODER / LOG_FILE)
    once = cost_of(log, devices=1)
    return f"{_encoder(log, once)}\n\n{_scores(study)}\n{_costs(folder, once)}"


def _encoder(log: Sequence[Mapping[str, Any]], once: Cost) -> str:
    encoder = json.loads((ENCODER / "config.json").read_text())["encoder"]
    loss = [each["heldout_mlm_loss"] for each in log if "heldout_mlm_loss" in each][-1]
    return (
        f"{encoder['layers']} layers of width {encoder['width']}, pretrained on"
        f" {_millions(once.tokens)} tokens of Wikipedia: held-out MLM loss {loss:.2f}."
    )


def _scores(study: Summary) -> str:
    rows = {row.name: row for row in study.rows}
    head = ("task", *_VARIANTS.values(), "gain from pretraining")
    lines = []
    for metric in filter(study.main.__contains__, _TASKS):
        scores = [_interval(rows[name].cells[metric].mean) for name in _VARIANTS]
        lines.append((_TASKS[metric], *scores, _gain(rows["random"].cells[metric])))
    return f"{markdown_table(head, lines)}\n{_legend(study, rows['random'])}"


def _interval(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f} ± {estimate.half_width:.3f}"


def _gain(random: Cell) -> str:
    """Returns the difference that pretraining makes, paired by seed; bold where the study tells."""
    assert random.difference
    gain = random.difference._replace(mean=-random.difference.mean)
    told = f"{gain.mean:+.3f} ± {gain.half_width:.3f}"
    return told if random.verdict is Verdict.OPEN else f"**{told}**"


def _legend(study: Summary, random: Row) -> str:
    seeds = min(random.cells[metric].mean.values for metric in study.main)
    return (
        f"\nMeans of {seeds} seeds, and half of a 95 % interval. Bold: pretraining changes the"
        " score (Holm's correction for all comparisons).\n"
    )


def _costs(folder: StudyFolder, once: Cost) -> str:
    runs = [run for run in folder.read_plan().runs if "pretrained" in run.variants]
    each = [measure(folder, run).cost for run in runs]
    tokens = [_millions(pick(cost.tokens for cost in each)) for pick in (min, max)]
    flops = [f"{pick(cost.flops for cost in each):.1e}" for pick in (min, max)]
    minutes = [f"{pick(cost.device_seconds for cost in each) / 60:.0f}" for pick in (min, max)]
    table = markdown_table(
        ("cost", "tokens", "FLOPs", "time"),
        [
            (
                "pretraining, once",
                _millions(once.tokens),
                f"{once.flops:.1e}",
                f"{once.device_seconds / 60:.0f} min, two CPU cores",
            ),
            (
                "fine-tuning, each task",
                " to ".join(tokens),
                " to ".join(flops),
                f"{' to '.join(minutes)} min, one core",
            ),
            _planned(),
        ],
    )
    return f"{table}\n"


def _planned() -> tuple[str, ...]:
    """Returns the line of BERT base."""
    plan = BERT.read_text()
    rows = [(int(b), int(t)) for b, t in re.findall(r"(\d+) x (\d+)", _line(plan, "rows of"))]
    steps = [int(each.replace(",", "")) for each in re.findall(r"[\d,]+", _line(plan, "steps"))]
    flops = [float(each) for each in re.findall(r"([\d.]+) TFLOP", _line(plan, "model FLOPs"))]
    tokens = sum(s * b * t for s, (b, t) in zip(steps, rows, strict=True))
    total = sum(s * f * 1e12 for s, f in zip(steps, flops, strict=True))
    told = re.search(r"pretraining: (\d+) .* at ([\d.]+) an hour ([\d.]+)", plan)
    assert told
    hours, price, dollars = told.groups()
    time = f"{hours} TPU v5e hours, ${float(dollars):.0f} at ${price} an hour"
    return "BERT base as published, by `plan`", _millions(tokens), f"{total:.1e}", time


def _line(plan: str, start: str) -> str:
    return next(line for line in plan.splitlines() if line.strip().startswith(start))


def _millions(tokens: float) -> str:
    return f"{tokens / 1e6:,.1f} M" if tokens < 1e9 else f"{tokens / 1e9:,.1f} G"


def with_tables(page: str) -> str:
    """Returns a page with today's tables between its markers."""
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    return re.sub(pattern, lambda _: BEGIN + make_tables() + END, page, flags=re.DOTALL)


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
