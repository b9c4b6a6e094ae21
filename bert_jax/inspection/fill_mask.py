"""Fills the masks of a text with a pretrained model: the likeliest tokens at each."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from bert_jax.checkpoints.pretrained import MaskedLM
from bert_jax.config import EncoderConfig, SentenceObjective
from bert_jax.data.packing.layout import RowFormat
from bert_jax.data.tasks.rows import input_sizes, make_token_rows, row_length
from bert_jax.errors import UserError
from bert_jax.tasks.evaluation import check_finite
from bert_jax.tasks.predictors import check_fits, shown_texts, texts
from bert_jax.text.tokenizer import Tokenizer

MASK_TEXT = "[MASK]"  # with any model; also the tokenizer's own name, such as <mask>

# What the classes of a sentence objective say of a pair.
_SENTENCE_CLASSES = {
    SentenceObjective.NSP: ("follows", "from another document"),
    SentenceObjective.SOP: ("in order", "swapped"),
    SentenceObjective.NONE: (),
}


def check_masks(lm: MaskedLM) -> None:
    """Raises UserError if the model is causal: it was never trained on masks."""
    if lm.model.config.causal:
        raise UserError(
            "the checkpoint's encoder is causal, pretrained on next tokens, and knows no masks:"
            " name a checkpoint that was pretrained on masked tokens"
        )


class FillMask:
    """The likeliest tokens at each [MASK] of a text, and what was learned about pairs."""

    def __init__(self, lm: MaskedLM, top_k: int) -> None:
        """Prepares the computation.

        Args:
          lm: encoder and heads.
          top_k: number of tokens for each [MASK]; at most as many as the vocabulary has.

        Raises:
          UserError: if the model is causal.
        """
        check_masks(lm)
        model: Any = lm.model
        self._tokenizer, self._params = lm.tokenizer, lm.params
        self._encoder: EncoderConfig = model.config
        self._top_k = min(top_k, self._tokenizer.vocab_size)
        self._classes = _SENTENCE_CLASSES[model.objective]

        @jax.jit
        def forward(params: Any, batch: dict[str, jax.Array]) -> tuple[Any, Any]:
            logits = model.apply({"params": params}, batch, deterministic=True)
            tokens = jax.nn.softmax(lm.token_logits(logits.mlm))
            pairs = None if logits.sentence is None else jax.nn.softmax(logits.sentence[:, 0])
            return jax.lax.top_k(tokens, self._top_k), pairs

        self._forward = forward

    def check(self, text: str, pair: str) -> None:
        """Checks an input before any is filled.

        Raises:
          UserError: if it has neither a [MASK] nor a second text for the sentence objective, or is
            longer than the position table.
        """
        sides = [_with_masks(side, self._tokenizer) for side in (text, pair)]
        has_mask = any((side == self._tokenizer.special.mask).any() for side in sides)
        if not has_mask and not (pair and self._classes):
            raise UserError(f"nothing to fill in {text!r}: put {MASK_TEXT} where a word is not")
        size = input_sizes(sides[:1], sides[1:], self._tokenizer.special)[0]
        check_fits(text, int(size), self._encoder)

    def __call__(self, inputs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Fills every [MASK] by itself, the others still masked.

        Args:
          inputs: (text, second text or ''), all of which pass `check`.

        Returns:
          For each, `text` and `masks`: for each [MASK] in order, a list of `token` and
          `probability`, the likeliest first. For a pair also `text_pair` and, where the model has a
          sentence objective, `pair`: the probability of each of its classes.
        """
        sides = [[_with_masks(side, self._tokenizer) for side in pair] for pair in inputs]
        batch = _rows(
            [side[0] for side in sides], [side[1] for side in sides], self._tokenizer, self._encoder
        )
        is_mask = batch["token_ids"] == self._tokenizer.special.mask
        slots = -(-max(int(is_mask.sum(axis=1).max()), 1) // 8) * 8  # few shapes are compiled
        # The masked positions first, in order.
        batch["mlm_positions"] = np.argsort(~is_mask, axis=1, kind="stable")[:, :slots].astype(
            np.int32
        )
        (probabilities, tokens), pairs = check_finite(
            jax.device_get(self._forward(self._params, batch))
        )
        return [
            texts(text, pair)
            | {
                "masks": [
                    [
                        {"token": self._tokenizer.id_to_piece(int(id)), "probability": float(p)}
                        for id, p in zip(tokens[row, slot], probabilities[row, slot], strict=True)
                    ]
                    for slot in range(int(is_mask[row].sum()))
                ],
            }
            | (
                {"pair": dict(zip(self._classes, pairs[row].tolist(), strict=True))}
                if pair and self._classes
                else {}
            )
            for row, (text, pair) in enumerate(inputs)
        ]


def _with_masks(text: str, tokenizer: Tokenizer) -> np.ndarray:
    """Encodes a text in which [MASK], or the tokenizer's name for it, is the mask."""
    names = {MASK_TEXT, tokenizer.id_to_piece(tokenizer.special.mask)}
    # The space before a mask is part of what is masked.
    first, *others = re.split(rf"\s*(?:{'|'.join(map(re.escape, names))})", text)
    parts = [tokenizer.encode(first), *map(tokenizer.encode_continuation, others)]
    mask = np.array([tokenizer.special.mask], np.int32)
    joined = [ids for part in parts for ids in (part, mask)]
    return np.concatenate(joined[:-1])


def _rows(
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    tokenizer: Tokenizer,
    encoder: EncoderConfig,
) -> dict[str, np.ndarray]:
    """Writes an input a row, of the shortest length that is a multiple of a few."""
    length = row_length(input_sizes(a, b, tokenizer.special), encoder.max_length)
    row_format = RowFormat(length, 1, tokenizer.special, pool_last=encoder.causal)
    return make_token_rows(a, b, np.ones(len(a), np.int64), row_format)[0]


def show_masks(prediction: dict[str, Any]) -> str:
    """Words what `FillMask` found for a person."""
    lines = [shown_texts(prediction)]
    for number, tokens in enumerate(prediction["masks"], start=1):
        lines += [f"  {number}  {each['probability']:.4f}  {each['token']}" for each in tokens]
    for name, probability in prediction.get("pair", {}).items():
        lines.append(f"  {probability:.4f}  {name}")
    return "\n".join(lines)
