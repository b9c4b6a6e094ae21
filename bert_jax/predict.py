"""Runs a checkpoint on new text: fills [MASK] after pretraining, labels text after fine-tuning.

    python -m bert_jax.predict --checkpoint=runs/base --text='the capital of france is [MASK] .'
    python -m bert_jax.predict --checkpoint=runs/sst2 --text='this teddy bear is so cute.'
    python -m bert_jax.predict --checkpoint=runs/sst2 --json < lines.txt

The input is plain text; [CLS] and [SEP] are added here. Only filling reads the letters [MASK] as
the mask; everywhere else they are text. A pair task takes lines of two texts with a tab between.
"""

import functools
import itertools
import json
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from bert_jax import cli, sharding
from bert_jax.checkpoint import find_checkpoint, read_facts, restore_groups
from bert_jax.config import EncoderConfig, MeshConfig, SentenceObjective, from_dict
from bert_jax.data.tasks import encode_inputs, make_input_rows
from bert_jax.errors import UserError
from bert_jax.heads import ClassificationModel, PretrainingModel
from bert_jax.tokenizer import Tokenizer, tokenizer_from_dict
from bert_jax.training import abstract_params

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "a run, or one of its checkpoints")
_TEXT = flags.DEFINE_string("text", None, "one input; without it, lines of standard input are read")
_TEXT_PAIR = flags.DEFINE_string("text_pair", "", "the second text of a pair")
_JSON = flags.DEFINE_bool("json", False, "print JSON lines")
_TOP_K = flags.DEFINE_integer("top_k", 5, "how many tokens for each [MASK]", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "inputs at a time", lower_bound=1)

MASK_TEXT = "[MASK]"
_LENGTH_STEP = 32  # rows are cut to a multiple of this, so that few lengths are compiled


class FillMask:
    """The most likely tokens at each [MASK] of a text."""

    def __init__(self, checkpoint: pathlib.Path, facts: dict[str, Any], top_k: int) -> None:
        """Restores a pretraining checkpoint."""
        self._tokenizer = tokenizer_from_dict(facts["tokenizer"])
        self._encoder = from_dict(EncoderConfig, facts["encoder"])
        self._top_k = min(top_k, self._tokenizer.vocab_size)
        # Only the groups that fill: whatever sentence objective there was is left in the file.
        model: Any = PretrainingModel(self._encoder, SentenceObjective.NONE)
        self._params = _restore(checkpoint, model)

        @jax.jit
        def forward(params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
            logits = model.apply({"params": params}, batch, deterministic=True).mlm
            # What a larger table holds beyond the tokenizer's vocabulary are no tokens.
            probabilities = jax.nn.softmax(logits[:, :, : self._tokenizer.vocab_size])
            return jax.lax.top_k(probabilities, self._top_k)

        self._forward = forward

    def __call__(self, inputs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Fills every [MASK] by itself, the others still masked.

        Args:
          inputs: (text, second text or '').

        Returns:
          For each, `text` and `masks`: for each [MASK] in order, a list of `token` and
          `probability`, the most likely first.

        Raises:
          UserError: if a text has no [MASK], or is longer than the position table.
        """
        sides = [[_with_masks(side, self._tokenizer) for side in pair] for pair in inputs]
        for (text, pair), ids in zip(inputs, sides, strict=True):
            if not any((side == self._tokenizer.special.mask).any() for side in ids):
                raise UserError(f"nothing to fill in {text!r}: put {MASK_TEXT} where a word is not")
            _check_fits(text, sum(map(len, ids)) + (3 if pair else 2), self._encoder)
        batch = _rows(
            [side[0] for side in sides], [side[1] for side in sides], self._tokenizer, self._encoder
        )
        is_mask = batch["token_ids"] == self._tokenizer.special.mask
        slots = _round_up(int(is_mask.sum(axis=1).max()), 8)
        # The masked positions first, in order.
        batch["mlm_positions"] = np.argsort(~is_mask, axis=1, kind="stable")[:, :slots].astype(
            np.int32
        )
        probabilities, tokens = jax.device_get(self._forward(self._params, batch))
        return [
            {
                "text": text,
                "masks": [
                    [
                        {"token": self._tokenizer.id_to_piece(int(id)), "probability": float(p)}
                        for id, p in zip(tokens[row, slot], probabilities[row, slot], strict=True)
                    ]
                    for slot in range(int(is_mask[row].sum()))
                ],
            }
            for row, (text, _) in enumerate(inputs)
        ]


class Classify:
    """The probability of each label of a fine-tuned checkpoint."""

    def __init__(self, checkpoint: pathlib.Path, facts: dict[str, Any]) -> None:
        """Restores a classification checkpoint."""
        self._tokenizer = tokenizer_from_dict(facts["tokenizer"])
        self._encoder = from_dict(EncoderConfig, facts["encoder"])
        self._labels, self._pairs = facts["labels"], facts["pairs"]
        model: Any = ClassificationModel(self._encoder, len(self._labels))
        self._params = _restore(checkpoint, model)

        @jax.jit
        def forward(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
            return jax.nn.softmax(model.apply({"params": params}, batch, deterministic=True)[:, 0])

        self._forward = forward

    def __call__(self, inputs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Labels inputs.

        Args:
          inputs: (text, second text or ''), as the task had them.

        Returns:
          For each, `text`, `label` (the most likely), and `probabilities` by label.

        Raises:
          UserError: for an empty text, a missing or needless second text, or one that is too long.
        """
        for text, pair in inputs:
            if not text.strip():
                raise UserError("an input is empty: give it a text")
            if bool(pair) != self._pairs:
                wanted = "pairs: TEXT, a tab, TEXT" if self._pairs else "single texts"
                raise UserError(f"{text!r} does not suit the task, which is of {wanted}")
        texts, pairs = zip(*inputs, strict=True)
        a, b, _ = encode_inputs(texts, pairs, self._tokenizer, sys.maxsize)
        for text, a_ids, b_ids in zip(texts, a, b, strict=True):
            _check_fits(text, len(a_ids) + len(b_ids) + (3 if self._pairs else 2), self._encoder)
        batch = _rows(a, b, self._tokenizer, self._encoder)
        rows = jax.device_get(self._forward(self._params, batch))
        return [
            {
                "text": text,
                **({"text_pair": pair} if pair else {}),
                "label": self._labels[int(row.argmax())],
                "probabilities": {
                    label: float(p) for label, p in zip(self._labels, row, strict=True)
                },
            }
            for (text, pair), row in zip(inputs, rows, strict=True)
        ]


def _restore(checkpoint: pathlib.Path, model: Any) -> Any:
    # Prediction is small: it stays on one device of whatever machine it runs on.
    mesh = sharding.make_mesh(MeshConfig(data=1), devices=jax.local_devices()[:1])
    abstract = abstract_params(model, mesh)
    return restore_groups(checkpoint, abstract, abstract)


def _with_masks(text: str, tokenizer: Tokenizer) -> np.ndarray:
    """Encodes a text in which [MASK] is the mask; what is between is encoded as text."""
    parts = [tokenizer.encode(part) for part in text.split(MASK_TEXT)]
    mask = np.array([tokenizer.special.mask], np.int32)
    joined = [ids for part in parts for ids in (part, mask)]
    return np.concatenate(joined[:-1])


def _rows(
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    tokenizer: Tokenizer,
    encoder: EncoderConfig,
) -> dict[str, np.ndarray]:
    """Writes inputs as rows of the shortest length that is a multiple of a few."""
    longest = max(len(x) + len(y) + 3 for x, y in zip(a, b, strict=True))
    length = _round_up(longest, _LENGTH_STEP)
    return make_input_rows(a, b, length, tokenizer.special, pool_last=encoder.causal)


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def _check_fits(text: str, size: int, encoder: EncoderConfig) -> None:
    if size > encoder.max_length:
        raise UserError(
            f"{text[:40]!r}... has {size} tokens, and the model has positions for"
            f" {encoder.max_length}: shorten or split it"
        )


def read_inputs(
    text: str | None, text_pair: str, lines: Iterable[bytes]
) -> Iterator[tuple[str, str]]:
    """Yields the input of the flags, or those of the lines; a tab parts a pair.

    Raises:
      UserError: if a line is not UTF-8.
    """
    if text is not None:
        yield text, text_pair
        return
    for number, line in enumerate(lines, start=1):
        try:
            first, _, second = line.decode().rstrip("\r\n").partition("\t")
        except UnicodeDecodeError as error:
            raise UserError(
                f"standard input, line {number} is not UTF-8 (byte {error.start} of the line):"
                " convert it first"
            ) from None
        yield first, second


def show(prediction: dict[str, Any]) -> str:
    """Words a prediction for a person."""
    if "masks" in prediction:
        lines = [prediction["text"]]
        for number, tokens in enumerate(prediction["masks"], start=1):
            lines += [f"  {number}  {each['probability']:.4f}  {each['token']}" for each in tokens]
        return "\n".join(lines)
    text = "\t".join(prediction[name] for name in ("text", "text_pair") if name in prediction)
    ranked = sorted(prediction["probabilities"].items(), key=lambda item: -item[1])
    return f"{text}\n" + "\n".join(f"  {p:.4f}  {label}" for label, p in ranked)


def main() -> None:
    """Restores the checkpoint, then predicts batch by batch."""
    checkpoint = find_checkpoint(cli.require("checkpoint", _CHECKPOINT.value, "runs/base"))
    facts = read_facts(checkpoint)
    predict = (
        FillMask(checkpoint, facts, _TOP_K.value)
        if facts["kind"] == "pretraining"
        else Classify(checkpoint, facts)
    )
    inputs = read_inputs(_TEXT.value, _TEXT_PAIR.value, sys.stdin.buffer)
    show_one = functools.partial(json.dumps, ensure_ascii=False) if _JSON.value else show
    while batch := list(itertools.islice(inputs, _BATCH_SIZE.value)):
        for prediction in predict(batch):
            print(show_one(prediction), flush=True)


if __name__ == "__main__":
    cli.run(main)
