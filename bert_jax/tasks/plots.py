"""Plots of a classifier: confusion matrix and calibration."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

_BINS = 10
_MOST_DRAWN = 60  # most classes in a confusion matrix
_LONGEST_NAME = 30  # characters of a label
_MOST_COUNTED = 40  # most classes whose cells have room for a count


def count_confusions(gold: np.ndarray, probabilities: np.ndarray) -> dict[tuple[int, int], int]:
    """Counts the pairs of gold and predicted classes that occur, in the order of their numbers.

    Args:
      gold: [E] int in [0, C).
      probabilities: [E, C] float.
    """
    pairs = np.stack([gold, probabilities.argmax(axis=1)], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    return {(row[0], row[1]): n for row, n in zip(found.tolist(), counts.tolist(), strict=True)}


def plot_confusion(
    confusions: Mapping[tuple[int, int], int], labels: Sequence[str], path: pathlib.Path
) -> None:
    """Writes the confusion matrix as a picture: gold classes by predicted classes.

    Of more classes than have room those are drawn that are confused most often; the title says so.

    Args:
      confusions: from `count_confusions`.
      labels: [C] names.
      path: of the PNG.
    """
    totals = np.zeros(len(labels), np.int64)  # of each gold class
    wrong = np.zeros(len(labels), np.int64)
    for (gold, predicted), count in confusions.items():
        totals[gold] += count
        if gold != predicted:
            wrong[[gold, predicted]] += count
    drawn = np.sort(np.argsort(-wrong, kind="stable")[:_MOST_DRAWN])
    places: dict[int, int] = {number: place for place, number in enumerate(drawn.tolist())}
    classes = len(drawn)
    counts = np.zeros((classes, classes), np.int64)
    for (gold, predicted), count in confusions.items():
        if gold in places and predicted in places:
            counts[places[gold], places[predicted]] = count
    shares = counts / np.maximum(totals[drawn], 1)[:, None]
    size = 2.5 + 0.5 * min(classes, 30)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    if classes < len(labels):
        axes.set_title(f"the {classes} most confused of {len(labels):,} classes")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the gold class", shrink=0.8)
    names = [_short(labels[number]) for number in places]
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


def _short(label: str) -> str:
    shown = label if len(label) <= _LONGEST_NAME else label[: _LONGEST_NAME - 3] + "..."
    return shown.replace("$", r"\$")  # a bare $ would begin a formula


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
