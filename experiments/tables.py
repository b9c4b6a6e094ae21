"""Summary of a study as Markdown and as CSV."""

import csv
import io
import math
from collections.abc import Sequence

from experiments.label_curves import Equal, Line, equal_labels, label_lines
from experiments.measures import Cost
from experiments.statistics import Estimate, Verdict
from experiments.study import Published
from experiments.summary import Cell, Row, Summary


def number(value: float) -> str:
    """Formats a value with four significant digits."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "-"
    digits = 3 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(digits, 0), 4)}f}"


def with_interval(value: Estimate, *, signed: bool = False) -> str:
    """Formats a mean and half the width of its interval: "0.8100 ± 0.0248"."""
    mean = number(value.mean)
    if signed and value.mean > 0:
        mean = f"+{mean}"
    return f"{mean} ± {number(value.half_width)}" if value.values > 1 else mean


def metric_words(metric: str) -> str:
    """Returns the heading of a metric's column."""
    return metric.replace("/", " ").replace("_", " ")


def markdown(summary: Summary) -> str:
    """Returns the question, the results, their cost, and published results."""
    plan, metrics = summary.plan, summary.main
    parts = [
        f"# {plan.study}, size {plan.size}\n\n{plan.question}",
        "Means over the seeds ± half of a 95 % confidence interval (Student's t).",
        markdown_table(
            ["variant", "finished", *map(metric_words, metrics), "failed", "collapsed"],
            [
                [_named(row, plan.base), f"{row.done} of {row.runs}"]
                + [_mean(row.cells.get(metric)) for metric in metrics]
                + [str(row.failed), str(row.collapsed)]
                for row in summary.rows
            ],
        ),
        "Differences, paired by seed, ± half of a 95 % confidence interval of each by itself. The"
        " verdicts of a column hold together: that one of them is wrong by chance has a probability"
        " of 5 % (Holm). Where seeds are too few to tell, the smallest difference stands that would"
        " have been seen four times out of five.",
        markdown_table(
            ["variant", "compared with", *map(metric_words, metrics)],
            [
                [row.name, row.against] + [_difference(row.cells.get(metric)) for metric in metrics]
                for row in summary.rows
                if row.against
            ],
        ),
        *_labels(summary),
        "Cost of the finished runs, from the first step on, with its compilation.",
        markdown_table(
            ["variant", "device-minutes", "tokens", "model FLOPs"],
            [[row.name, *_cost(row.cost)] for row in summary.rows]
            + [["shared by all", *_cost(summary.shared)]] * bool(summary.shared.tokens),
        ),
        *_latencies(summary),
        "Overrides of each variant:",
        markdown_table(
            ["variant", "changes"],
            [
                [row.name, " ".join(f"`{change}`" for change in row.changes) or "nothing"]
                for row in summary.rows
            ],
        ),
        *(published_table(each) for each in plan.published),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _labels(summary: Summary) -> list[str]:
    """Returns for each task how many labels the other series need to equal the first."""
    parts = []
    for metric, lines in label_lines(summary).items():
        first, *others = lines
        needed = {
            name: {each.labels: each for each in equal_labels(lines[first], lines[name], metric)}
            for name in others
        }
        rows = [
            [f"{labels:,}"]
            + [_equal_labels(needed[name].get(labels), lines[name]) for name in others]
            for labels, _ in lines[first]
        ]
        parts += [
            f"{metric_words(metric)}: the labels with which the others equal `{first}`, a geometric"
            " mean over the seeds with its 95 % interval.",
            markdown_table([f"labels of {first}", *others], rows),
        ]
    return parts


def _equal_labels(equal: Equal | None, line: Line) -> str:
    """Formats the labels that a series needs; where its line ends before, that it needs more."""
    if equal is None:
        return "-"
    fewest, most = line[0][0], line[-1][0]
    if not math.isnan(equal.mean):
        return f"{equal.mean:,.0f} ({equal.low:,.0f} to {equal.high:,.0f})"
    low = f"{equal.low:,.0f}" if equal.low > fewest else f"fewer than {fewest:,}"
    high = f"more than {most:,}" if math.isinf(equal.high) else f"{equal.high:,.0f}"
    if math.isinf(equal.low):
        return high
    return low if equal.high <= fewest else f"{low} to {high}"


def _latencies(summary: Summary) -> list[str]:
    """Returns the sizes and speeds that were measured; [] if none were."""
    if not summary.latencies:
        return []
    one = next(iter(summary.latencies.values()))
    rows = [
        [name, f"{each.parameters:,}", f"{each.milliseconds:.2f}"]
        for name, each in summary.latencies.items()
    ]
    return [
        f"The encoders, and one text of {one.tokens} tokens on a {one.device}:",
        markdown_table(["variant", "parameters", "ms"], rows),
    ]


def published_table(published: Published) -> str:
    """Returns the rows of a paper, marked as published."""
    rows = [
        [name, *("-" if value is None else f"{value:g}" for value in values)]
        for name, values in published.rows.items()
    ]
    table = markdown_table(["the paper's row", *published.columns], rows)
    return f"Published, not measured here: {published.source}.\n\n{table}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown, without a last line break; '' without rows."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _named(row: Row, base: str) -> str:
    return f"{row.name} (base)" if row.name == base else row.name


def _mean(cell: Cell | None) -> str:
    return with_interval(cell.mean) if cell else "-"


def _difference(cell: Cell | None) -> str:
    if cell is None or cell.difference is None or cell.verdict is None:
        return "-"
    value = with_interval(cell.difference, signed=True)
    if cell.verdict is not Verdict.OPEN:
        return f"{value}, **{cell.verdict.value}**"
    if math.isnan(cell.detectable):
        return f"{value}, {cell.verdict.value}"
    return f"{value}, {cell.verdict.value} (would have seen {number(cell.detectable)})"


def _cost(cost: Cost) -> list[str]:
    return [f"{cost.device_seconds / 60:.1f}", f"{cost.tokens:,.0f}", f"{cost.flops:.3g}"]


def comma_separated(summary: Summary) -> str:
    """Returns CSV with a line for each value: variant, metric, seed, value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["variant", "metric", "seed", "value"])
    for row in summary.rows:
        for metric, cell in row.cells.items():
            for seed, value in sorted(cell.by_seed.items()):
                writer.writerow([row.name, metric, seed, repr(value)])
    return text.getvalue()
