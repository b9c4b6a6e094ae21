"""Predictors give the encoder what training gave it."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bert_jax.config import FinetuneConfig
from bert_jax.data.tasks.rows import TaskInputs
from bert_jax.errors import UserError
from bert_jax.tasks.predictors import Classes
from bert_jax.text.training import train_byte_level


@pytest.fixture
def classes() -> tuple[Classes, list[TaskInputs]]:
    """A predictor of pairs whose model answers nothing, and the inputs that it has seen."""
    seen: list[TaskInputs] = []

    def outputs(inputs: TaskInputs, batch_size: int) -> list[np.ndarray]:
        seen.append(inputs)
        return [np.zeros(2, np.float32)] * (len(inputs) * (batch_size > 0))

    config = FinetuneConfig()
    config.data.text_pair_column = "text_pair"
    tuned: Any = SimpleNamespace(
        config=config,
        labels=["no", "yes"],
        tokenizer=train_byte_level(["the red sun", "a red sky"] * 9, vocab_size=270),
        no_labels=lambda sizes: np.zeros(len(sizes), np.int32),
        outputs=outputs,
    )
    return Classes(tuned, 8), seen


def test_white_space_around_texts_is_left_out_as_in_tables(
    classes: tuple[Classes, list[TaskInputs]],
) -> None:
    predictor, seen = classes
    predictor([("the red sun", "a sky"), (" the red sun ", "\u3000a sky ")])
    ((first, second),) = [inputs.a for inputs in seen]
    assert first.tolist() == second.tolist()
    ((first, second),) = [inputs.b for inputs in seen]
    assert first.tolist() == second.tolist()


def test_a_second_text_of_invisible_characters_is_none(
    classes: tuple[Classes, list[TaskInputs]],
) -> None:
    predictor, _ = classes
    predictor.check("the sun", "red")
    for pair in ("", " ", "\u200b"):
        with pytest.raises(UserError, match="whose inputs are pairs: TEXT, a tab, TEXT"):
            predictor.check("the sun", pair)
