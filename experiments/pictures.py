"""Summary of a study as a plot: each metric of each variant, and its curve over the steps."""

import pathlib

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.label_curves import label_lines
from experiments.summary import Summary
from experiments.tables import metric_words

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666", "#000000")
_MARKS = "o^sv"  # where variants share a colour


def draw(summary: Summary, path: pathlib.Path) -> None:
    """Draws the main metrics: means with intervals on the left, curves on the right."""
    metrics = summary.main
    height = max(0.35 * len(summary.rows) + 1.2, 2.6)
    figure = Figure(figsize=(10, height * len(metrics)), layout="constrained")
    for (left, right), metric in zip(
        figure.subplots(len(metrics), 2, squeeze=False), metrics, strict=True
    ):
        _means(left, summary, metric)
        _curves(right, summary, metric)
    figure.savefig(path, dpi=110)


def draw_latencies(summary: Summary, path: pathlib.Path) -> None:
    """Draws the main metrics over the time of one text."""
    metrics = summary.main
    figure = Figure(figsize=(4.5 * len(metrics) + 2.2, 4.2), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for number, row in enumerate(summary.rows):
            if metric not in row.cells or row.name not in summary.latencies:
                continue
            mean = row.cells[metric].mean
            width = mean.half_width if mean.values > 1 else 0.0
            at = summary.latencies[row.name].milliseconds
            shade = colour(summary, row.name)
            mark = _MARKS[number // len(_COLOURS) % len(_MARKS)]
            axes.errorbar(
                at, mean.mean, yerr=width, fmt=mark, color=shade, capsize=4, label=row.name
            )
        axes.set_title(f"{metric_words(metric)}: mean, 95 % interval", fontsize=10)
        axes.set_xlabel("ms, one text")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    named = dict(zip(*reversed(panels[-1].get_legend_handles_labels()), strict=True))
    figure.legend(named.values(), named.keys(), loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=110)


def draw_labels(summary: Summary, path: pathlib.Path) -> None:
    """Draws the scores of each series over the number of labels, a panel for each task."""
    metrics = label_lines(summary)
    across = min(len(metrics), 3)
    down = -(-len(metrics) // across)
    figure = Figure(figsize=(4.2 * across + 1.6, 3.6 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes, (metric, lines) in zip(panels, metrics.items(), strict=False):
        for number, (name, line) in enumerate(lines.items()):
            labels, cells = zip(*line, strict=True)
            widths = [c.mean.half_width if c.mean.values > 1 else 0.0 for c in cells]
            means, shade = [c.mean.mean for c in cells], _COLOURS[number]
            axes.errorbar(labels, means, yerr=widths, fmt="o-", color=shade, capsize=3, label=name)
        axes.set_title(f"{metric_words(metric)}: mean, 95 % interval", fontsize=10)
        axes.set_xscale("log")
        ticks = sorted({labels for line in lines.values() for labels, _ in line})
        axes.set_xticks(ticks, [f"{each:,}" for each in ticks], fontsize=8)
        axes.minorticks_off()
        axes.set_xlabel("labelled examples")
        axes.grid(alpha=0.3)
    for axes in panels[len(metrics) :]:
        axes.remove()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=9)
    figure.savefig(path, dpi=110)


def colour(summary: Summary, variant: str) -> str:
    """Returns the colour of a variant, the same in all plots."""
    names = [row.name for row in summary.rows]
    return _COLOURS[names.index(variant) % len(_COLOURS)]


def _means(axes: Axes, summary: Summary, metric: str) -> None:
    rows = [row for row in summary.rows if metric in row.cells]
    for position, row in enumerate(reversed(rows)):
        cell, shade = row.cells[metric], colour(summary, row.name)
        width = cell.mean.half_width if cell.mean.values > 1 else 0.0
        axes.errorbar(cell.mean.mean, position, xerr=width, fmt="o", color=shade, capsize=4)
        axes.plot(list(cell.by_seed.values()), [position] * cell.mean.values, "|", color=shade)
    axes.set_yticks(range(len(rows)), [row.name for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_title(f"{metric_words(metric)}: mean, 95 % interval, each seed", fontsize=10)
    axes.grid(axis="x", alpha=0.3)


def _curves(axes: Axes, summary: Summary, metric: str) -> None:
    for name, points in summary.curves.get(metric, {}).items():
        axes.plot(*zip(*points, strict=True), ".-", label=name, color=colour(summary, name))
    axes.set_title(f"{metric_words(metric)}: mean of the seeds", fontsize=10)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
