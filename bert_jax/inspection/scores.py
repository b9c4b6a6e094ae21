"""Scores texts by a pretrained model: the pseudo-log-likelihood of each, and of its tokens."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bert_jax.checkpoints.pretrained import MaskedLM, one_device
from bert_jax.inspection.pseudo_likelihood import PseudoLikelihood
from bert_jax.tasks.predictors import shown_texts, texts


class Scores:
    """The pseudo-log-likelihood of texts under a pretrained model."""

    def __init__(self, lm: MaskedLM, batch_size: int) -> None:
        """Prepares the computation.

        Args:
          lm: encoder and heads, on one device.
          batch_size: masked texts in a batch.
        """
        self.tokenizer, self.max_length = lm.tokenizer, lm.model.config.max_length
        self._likelihood = PseudoLikelihood(lm, one_device(), batch_size=batch_size)

    def __call__(
        self, inputs: Sequence[tuple[str, str]], a: list[np.ndarray], b: list[np.ndarray]
    ) -> list[dict[str, Any]]:
        """Returns for each its texts, `score` (their sum, in nats) and `tokens`, in order.

        A token has `token` and `log_probability`.
        """
        told = []
        for pair, first, second, each in zip(inputs, a, b, self._likelihood(a, b), strict=True):
            pieces = [self.tokenizer.id_to_piece(int(id)) for id in (*first, *second)]
            tokens = [
                {"token": piece, "log_probability": float(one)}
                for piece, one in zip(pieces, each, strict=True)
            ]
            told.append(texts(*pair) | {"score": float(each.sum()), "tokens": tokens})
        return told


def show_score(prediction: dict[str, Any]) -> str:
    """Words a score for a person."""
    count = len(prediction["tokens"])
    perplexity = math.exp(-prediction["score"] / count)
    return (
        f"{shown_texts(prediction)}\n  {prediction['score']:.4f}  of {count} tokens,"
        f" pseudo-perplexity {perplexity:.4g}"
    )
