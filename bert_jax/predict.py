"""Runs a checkpoint on new text: fills [MASK] after pretraining, does its task after fine-tuning.

    python -m bert_jax.predict --checkpoint=runs/base --text='the capital of france is [MASK] .'
    python -m bert_jax.predict --checkpoint=runs/sst2 --text='this teddy bear is so cute.'
    python -m bert_jax.predict --checkpoint=runs/wnut --text='Angela Merkel visits Paris .'
    python -m bert_jax.predict --checkpoint=runs/squad --text='Who?' --text_pair='It was she.'
    python -m bert_jax.predict --checkpoint=runs/sst2 --json --input=lines.txt

The input is plain text; [CLS] and [SEP] are added here. Only filling reads the letters [MASK] as
the mask; everywhere else they are text. A task of pairs takes lines of two texts with a tab
between, such as a question and the text to search.
"""

import contextlib
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
from jax.sharding import Mesh

from bert_jax import cli, sharding
from bert_jax.checkpoint import find_checkpoint, read_facts, restore_groups
from bert_jax.config import EncoderConfig, MeshConfig, SentenceObjective, from_dict
from bert_jax.data.task_rows import input_sizes, make_token_rows, row_length
from bert_jax.errors import UserError
from bert_jax.finetuned import FineTuned
from bert_jax.heads import PretrainingModel
from bert_jax.task_predictors import PREDICTORS, check_fits, shown_texts, texts
from bert_jax.tokenizer import Tokenizer, tokenizer_from_dict
from bert_jax.training import abstract_params

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "a run, or one of its checkpoints")
_TEXT = flags.DEFINE_string("text", None, "one input; without it, lines of standard input are read")
_TEXT_PAIR = flags.DEFINE_string("text_pair", "", "the second text of a pair")
_INPUT = flags.DEFINE_string("input", None, "a file of lines to read instead of standard input")
_JSON = flags.DEFINE_bool("json", False, "print JSON lines")
_TOP_K = flags.DEFINE_integer("top_k", 5, "how many tokens for each [MASK]", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "inputs at a time", lower_bound=1)

MASK_TEXT = "[MASK]"


# What the classes of a sentence objective say of a pair.
_SENTENCE_CLASSES = {
    SentenceObjective.NSP: ("follows", "from another document"),
    SentenceObjective.SOP: ("in order", "swapped"),
    SentenceObjective.NONE: (),
}


class FillMask:
    """The likeliest tokens at each [MASK] of a text, and what was learned about pairs."""

    def __init__(self, checkpoint: pathlib.Path, facts: dict[str, Any], top_k: int) -> None:
        """Restores a pretraining checkpoint."""
        self._tokenizer = tokenizer_from_dict(facts["tokenizer"])
        self._encoder = from_dict(EncoderConfig, facts["encoder"])
        self._top_k = min(top_k, self._tokenizer.vocab_size)
        objective = SentenceObjective(facts["config"]["data"]["objective"])
        self._classes = _SENTENCE_CLASSES[objective]
        model: Any = PretrainingModel(self._encoder, objective)
        abstract = abstract_params(model, _one_device())
        self._params = restore_groups(checkpoint, abstract, abstract)

        @jax.jit
        def forward(params: Any, batch: dict[str, jax.Array]) -> tuple[Any, Any]:
            logits = model.apply({"params": params}, batch, deterministic=True)
            # What a larger table holds beyond the tokenizer's vocabulary are no tokens.
            tokens = jax.nn.softmax(logits.mlm[:, :, : self._tokenizer.vocab_size])
            pairs = None if logits.sentence is None else jax.nn.softmax(logits.sentence[:, 0])
            return jax.lax.top_k(tokens, self._top_k), pairs

        self._forward = forward

    def __call__(self, inputs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Fills every [MASK] by itself, the others still masked.

        Args:
          inputs: (text, second text or '').

        Returns:
          For each, `text` and `masks`: for each [MASK] in order, a list of `token` and
          `probability`, the likeliest first. For a pair also `text_pair` and, where the model has a
          sentence objective, `pair`: the probability of each of its classes.

        Raises:
          UserError: if an input has neither a [MASK] nor a second text for the sentence objective,
            or is longer than the position table.
        """
        sides = [[_with_masks(side, self._tokenizer) for side in pair] for pair in inputs]
        for (text, pair), ids in zip(inputs, sides, strict=True):
            has_mask = any((side == self._tokenizer.special.mask).any() for side in ids)
            if not has_mask and not (pair and self._classes):
                raise UserError(f"nothing to fill in {text!r}: put {MASK_TEXT} where a word is not")
            check_fits(text, sum(map(len, ids)) + (3 if pair else 2), self._encoder)
        batch = _rows(
            [side[0] for side in sides], [side[1] for side in sides], self._tokenizer, self._encoder
        )
        is_mask = batch["token_ids"] == self._tokenizer.special.mask
        slots = -(-max(int(is_mask.sum(axis=1).max()), 1) // 8) * 8  # few shapes are compiled
        # The masked positions first, in order.
        batch["mlm_positions"] = np.argsort(~is_mask, axis=1, kind="stable")[:, :slots].astype(
            np.int32
        )
        (probabilities, tokens), pairs = jax.device_get(self._forward(self._params, batch))
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


def _one_device() -> Mesh:
    """Prediction is small: it stays on one device of whatever machine it runs on."""
    return sharding.make_mesh(MeshConfig(data=1), devices=jax.local_devices()[:1])


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
    """Writes an input a row, of the shortest length that is a multiple of a few."""
    length = row_length(input_sizes(a, b), encoder.max_length)
    held, last = np.ones(len(a), np.int64), encoder.causal
    return make_token_rows(a, b, held, length, tokenizer.special, slots=1, pool_last=last)[0]


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
                f"{_INPUT.value or 'standard input'}, line {number} is not UTF-8 (byte"
                f" {error.start} of the line): convert it first"
            ) from None
        yield first, second


def show_masks(prediction: dict[str, Any]) -> str:
    """Words what `FillMask` found for a person."""
    lines = [shown_texts(prediction)]
    for number, tokens in enumerate(prediction["masks"], start=1):
        lines += [f"  {number}  {each['probability']:.4f}  {each['token']}" for each in tokens]
    for name, probability in prediction.get("pair", {}).items():
        lines.append(f"  {probability:.4f}  {name}")
    return "\n".join(lines)


def main() -> None:
    """Restores the checkpoint, then predicts batch by batch."""
    checkpoint = find_checkpoint(cli.require("checkpoint", _CHECKPOINT.value, "runs/base"))
    facts = read_facts(checkpoint)
    if facts["kind"] == "pretraining":
        predict, show = FillMask(checkpoint, facts, _TOP_K.value), show_masks
    else:
        tuned = FineTuned(checkpoint, facts, _one_device())
        predict = PREDICTORS[tuned.config.task](tuned, _BATCH_SIZE.value)
        show = predict.show
    if _JSON.value:
        show = functools.partial(json.dumps, ensure_ascii=False)
    given = _INPUT.value
    with open(given, "rb") if given else contextlib.nullcontext(sys.stdin.buffer) as lines:
        inputs = read_inputs(_TEXT.value, _TEXT_PAIR.value, lines)
        while batch := list(itertools.islice(inputs, _BATCH_SIZE.value)):
            for prediction in predict(batch):
                print(show(prediction), flush=True)


if __name__ == "__main__":
    cli.run(main)
