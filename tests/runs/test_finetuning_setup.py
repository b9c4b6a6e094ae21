"""Scores of the held-out splits during a run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bert_jax.config import FinetuneConfig, TaskKind
from bert_jax.runs.finetuning_setup import (
    Scorer,
    drawn_classes,
    ends_evaluated_epoch,
    labelled_inputs,
)
from bert_jax.tasks.kinds import read_task
from tests.fixtures.data import LETTER_TOKENIZER as TOKENIZER


@pytest.mark.parametrize(
    ("values", "undefined"),
    [([1, 2, 3], {}), ([2, 2, 2], {"dev2_pearson", "dev2_spearman"})],
)
def test_undefined_scores_are_named_by_split(
    values: list[float], undefined: set[str], tmp_path: Path
) -> None:
    (tmp_path / "a.tsv").write_text("text\tlabel\na\t1\nb\t2\nc\t4\n")
    path = str(tmp_path / "a.tsv")
    config = FinetuneConfig(task=TaskKind.REGRESSION)
    config.data.train, config.data.dev = path, f"{path},{path}"
    task = read_task(config, TOKENIZER)

    def batches(inputs: list[float]) -> Any:
        outputs = [np.array([value], np.float32) for value in inputs]
        return SimpleNamespace(outputs=lambda step, params: (outputs, {"loss": 0.5}))

    setup: Any = SimpleNamespace(eval_step=None, task=task, input_batches=batches)
    scorer = Scorer(setup, {"dev": [1.0, 2, 4], "dev2": values})  # pyright: ignore
    scores = scorer({})
    assert scorer.undefined.keys() == set(undefined)
    assert scores["dev_pearson"] == pytest.approx(1)
    assert all(scores[name] == 0 for name in undefined)


@pytest.mark.parametrize(
    ("field", "wanted", "drawn", "remark"),
    [
        ("examples", 2, "xy", "no drawn example is of 'z', which is not learned so: draw more"),
        ("examples", 3, "xyz", ""),
        ("examples_per_class", 1, "xyz", ""),
        ("examples_per_class", 3, "xxxyyz", "data.examples_per_class=3 of 'y' 2, 'z' 1"),
    ],
)
def test_classes_that_a_draw_lacks_are_named(
    field: str, wanted: int, drawn: str, remark: str, tmp_path: Path
) -> None:
    lines = [f"a b\t{label}\n" for label in "xxyxxyz"]
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "".join(lines))
    config = FinetuneConfig()
    config.data.train = config.data.dev = str(tmp_path / "a.tsv")
    setattr(config.data, field, wanted)
    task = read_task(config, TOKENIZER)
    inputs = labelled_inputs(config, task)
    assert "".join(sorted(task.labels[number] for number in inputs.labels)) == drawn
    found = drawn_classes(config, task, inputs)
    assert found.endswith(remark) and bool(found) == bool(remark)


@pytest.mark.parametrize(
    ("every", "ends"), [(1, [5, 10, 15, 20, 25]), (2, [10, 20, 25]), (9, [25])]
)
def test_the_last_epoch_is_evaluated_in_any_case(every: int, ends: list[int]) -> None:
    config = FinetuneConfig(epochs=5, eval_epochs=every)
    assert [step for step in range(1, 26) if ends_evaluated_epoch(config, step, 5)] == ends
