"""Plots the lengths in a corpus."""

import pathlib

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from bert_jax.data.pretraining.report import ROW_LENGTHS, LengthReport, Lengths

_BINS_PER_DOUBLING = 3


def plot_lengths(report: LengthReport, path: pathlib.Path) -> None:
    """Plots histograms of the lengths of documents and sentences, as a PNG.

    Args:
      report: of a split.
      path: of the PNG.
    """
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    panels = figure.subplots(1, 3)
    _draw(panels[0], report.document_sentences, "sentences in a document", ())
    _draw(panels[1], report.document_tokens, "tokens in a document", ROW_LENGTHS)
    _draw(panels[2], report.sentence_tokens, "tokens in a sentence", ROW_LENGTHS)
    for axes, unit in zip(panels, ("documents", "documents", "sentences"), strict=True):
        axes.set_ylabel(f"share of {unit}")
    figure.savefig(path, dpi=120)


def _draw(axes: Axes, lengths: Lengths, title: str, marks: tuple[int, ...]) -> None:
    # Bins of equal width on a logarithmic axis, each with at least one integer in it.
    low, high = np.log2(lengths.values[[0, -1]])
    powers = np.arange(np.floor(low), high + 2 / _BINS_PER_DOUBLING, 1 / _BINS_PER_DOUBLING)
    edges = np.unique(np.round(2**powers)) - 0.5
    shares = lengths.counts / lengths.counts.sum()
    axes.hist(
        lengths.values, edges.tolist(), weights=shares.tolist(), edgecolor="white", linewidth=0.5
    )
    median = lengths.quantile(0.5)
    axes.axvline(median, color="C1", label=f"median {median:,}")
    for mark, style in zip(marks, (":", "--"), strict=False):
        over = shares[lengths.values > mark].sum()
        if edges[0] < mark < edges[-1]:
            axes.axvline(mark, color="0.3", linestyle=style, label=f"{over:.1%} above {mark}")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(_whole))
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylim(top=1.4 * axes.get_ylim()[1])  # room for the legend
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", framealpha=1)


def _whole(value: float, _: int) -> str:
    return f"{value:,.0f}" if value >= 1 else ""
