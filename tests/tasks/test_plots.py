"""Plots of a classifier, and the counts behind them."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from matplotlib.axes import Axes
from sklearn.metrics import confusion_matrix

from bert_jax.tasks.plots import count_confusions, plot_confusion


def test_confusions_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    gold, probabilities = rng.integers(0, 5, 40), rng.random((40, 7))
    counts = np.zeros((7, 7), int)
    for pair, count in count_confusions(gold, probabilities).items():
        counts[pair] = count
    predicted = probabilities.argmax(axis=1)
    assert (counts == confusion_matrix(gold, predicted, labels=range(7))).all()


@pytest.mark.parametrize("classes", [1, 2, 60, 61, 2500])
def test_a_picture_has_a_bound(
    classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles, names = [], []
    monkeypatch.setattr(Axes, "set_title", lambda axes, text: titles.append(text))
    monkeypatch.setattr(Axes, "set_yticks", lambda axes, places, shown: names.extend(shown))
    labels = [f"label {number}" for number in range(classes - 1)] + ["$" + "x" * 99]
    confusions = {(number, number): 9 for number in range(classes)}
    confusions |= {(classes - 1, 0): 2}
    plot_confusion(confusions, labels, tmp_path / "a.png")
    assert max(image.imread(tmp_path / "a.png").shape) < 2600
    assert classes == 1 or names[0] == labels[0]
    assert (
        len(names[-1]) <= 31 and len(names) == min(classes, 60) and names[-1].startswith(r"\$xxx")
    )
    assert bool(titles) == (classes > 60)
    if titles:
        assert titles == [f"the 60 most confused of {classes:,} classes"]
