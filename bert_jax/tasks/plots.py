"""Plots of a classifier: confusion matrix and calibration."""

import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

_BINS = 10
_MOST_COUNTED = 40  # most classes whose cells have room for a count


def plot_confusion(
    gold: np.ndarray, probabilities: np.ndarray, labels: Sequence[str], path: pathlib.Path
) -> None:
    """Writes the confusion matrix as a picture: gold classes by predicted classes.

    Args:
      gold: [E] int in [0, C).
      probabilities: [E, C] float.
      labels: [C] names.
      path: of the PNG.
    """
    classes = len(labels)
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (gold, probabilities.argmax(axis=1)), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.5 + 0.5 * min(classes, 30)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the gold class", shrink=0.8)
    names = [label.replace("$", r"\$") for label in labels]  # a bare $ would begin a formula
    axes.set_xticks(range(classes), names, rotation=90)
    axes.set_yticks(range(classes), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("gold")
    if classes <= _MOST_COUNTED:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            text = f"{count:,}" if count else ""
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
    figure.savefig(path, dpi=120)


def plot_reliability(gold: np.ndarray, probabilities: np.ndarray, path: pathlib.Path) -> None:
    """Writes the calibration plot as a picture: accuracy by confidence.

    Args:
      gold: [E] int in [0, C).
      probabilities: [E, C] float.
      path: of the PNG.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == gold
    edges = np.linspace(0, 1, _BINS + 1)
    which = np.clip(np.digitize(confidence, edges) - 1, 0, _BINS - 1)
    counts = np.bincount(which, minlength=_BINS)
    there = counts > 0
    means = [np.bincount(which, x, _BINS)[there] / counts[there] for x in (confidence, right)]
    error = np.sum(np.abs(means[0] - means[1]) * counts[there]) / counts.sum()
    figure = Figure(figsize=(5, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], ":", color="0.4", label="perfect calibration")
    upper.plot(*means, "o-", label=f"expected calibration error {error:.3f}")
    upper.set_ylabel("accuracy")
    upper.legend(loc="upper left")
    lower.bar(edges[:-1], counts, width=1 / _BINS, align="edge", edgecolor="white")
    lower.set_ylabel("predictions")
    lower.set_xlabel("confidence (probability of the predicted class)")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    figure.savefig(path, dpi=120)
