"""Scores of the held-out splits during a run."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bert_jax.checkpoints.checkpoint import FOLDER
from bert_jax.checkpoints.transfer import task_encoder
from bert_jax.checkpoints.workdir import CONFIG_FILE, check_workdir
from bert_jax.config import EncoderConfig, FinetuneConfig, TaskKind, VectorLoss, to_dict
from bert_jax.data.tasks.rows import BatchFormat
from bert_jax.errors import UserError
from bert_jax.runs.finetuning_setup import (
    Scorer,
    check_negatives,
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


def test_no_pair_with_a_score_is_alone_in_its_batch(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("text\tother\tlabel\na\tb\t1\nb\tc\t2\nc\td\t3\n")
    config = FinetuneConfig(task=TaskKind.VECTORS, batch_size=2)
    config.data.train = config.data.dev = str(tmp_path / "a.tsv")
    config.data.text_pair_column, config.data.length = "other", 8
    config.vectors.loss = VectorLoss.COSENT
    inputs = read_task(config, TOKENIZER).train.inputs

    def check() -> None:
        special, size = TOKENIZER.special, config.batch_size
        rows = BatchFormat(8, 2, special, pool_last=False, batch_size=size)
        check_negatives(config, inputs, rows.deal(inputs, epochs=1, seed=0, rows_multiple=1))

    with pytest.raises(UserError, match="batch_size=2 leaves a batch of one of 3 examples, which"):
        check()
    config.batch_size = 3
    check()
    config.batch_size, config.vectors.loss = 2, VectorLoss.COSINE
    check()


def test_dropout_reaches_the_whole_encoder(tiny_encoder: EncoderConfig) -> None:
    pretrained = dataclasses.replace(
        tiny_encoder, attention_output_dropout_rate=0.0, mlp_output_dropout_rate=0.0
    )
    config = FinetuneConfig(dropout_rate=0.3)
    config.data.length = 16
    made = task_encoder(pretrained, config)
    assert (made.dropout_rate, made.attention_dropout_rate) == (0.3, 0.3)
    # -1: as `dropout_rate`.
    assert (made.attention_output_dropout_rate, made.mlp_output_dropout_rate) == (-1, -1)


@pytest.mark.parametrize("task", [TaskKind.CLASSIFICATION, TaskKind.VECTORS])
def test_the_way_to_train_further_is_allowed(task: TaskKind, tmp_path: Path) -> None:
    config = FinetuneConfig(task=task)
    (tmp_path / CONFIG_FILE).write_text(json.dumps(to_dict(config)))
    (tmp_path / FOLDER).mkdir()
    with pytest.raises(UserError) as raised:
        check_workdir(tmp_path, dataclasses.replace(config, epochs=7))
    head = "" if task is TaskKind.VECTORS else " --config.keep_head=True"
    remedy = f"; --checkpoint={tmp_path}{head} trains its model further"
    assert str(raised.value).endswith(remedy)
