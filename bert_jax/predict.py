r"""Runs a checkpoint on new text: fills [MASK], does its task, scores or encodes it.

    python -m bert_jax.predict --checkpoint=runs/base --text='the capital of france is [MASK] .'
    python -m bert_jax.predict --checkpoint=runs/sst2 --text='this teddy bear is so cute.'
    python -m bert_jax.predict --checkpoint=runs/wnut --text='Angela Merkel visits Paris .'
    python -m bert_jax.predict --checkpoint=runs/squad --text='Who?' --text_pair='It was she.'
    python -m bert_jax.predict --checkpoint=runs/sst2 --json --input=lines.txt
    python -m bert_jax.predict --checkpoint=runs/base --score --input=lines.txt
    python -m bert_jax.predict --checkpoint=runs/base --features=mean --layer=-2 \
        --input=lines.txt --output=vectors.npy

The input is plain text; [CLS] and [SEP] are added here. Only filling reads the letters [MASK] as
the mask; everywhere else they are text. A task of pairs takes lines of two texts with a tab
between, such as a question and the text to search.

`--score` tells how likely a pretrained model finds a text, each token masked in turn. `--features`
writes vectors of any checkpoint: of [CLS], of the mean over a text, or of each of its tokens.
"""

import contextlib
import functools
import itertools
import json
import math
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from bert_jax.checkpoints.checkpoint import find_checkpoint, read_metadata
from bert_jax.checkpoints.pretrained import one_device, restore_encoder, restore_masked_lm
from bert_jax.cli import app
from bert_jax.cli.flags import batch_size_flag, checkpoint_flag
from bert_jax.config import EncoderConfig, SentenceObjective
from bert_jax.data.packing.layout import RowFormat
from bert_jax.data.tasks.rows import input_sizes, make_token_rows, row_length
from bert_jax.errors import UserError
from bert_jax.inspection.pseudo_likelihood import PseudoLikelihood
from bert_jax.inspection.text_vectors import (
    Pooling,
    TextVectors,
    encode_lines,
    lowest_layers,
    with_specials,
)
from bert_jax.inspection.vector_files import (
    check_output,
    line_columns,
    token_columns,
    write_vectors,
)
from bert_jax.tasks.finetuned import FineTuned
from bert_jax.tasks.predictors import PREDICTORS, check_fits, shown_texts, texts
from bert_jax.text.tokenizer import Tokenizer

_CHECKPOINT = checkpoint_flag("pretrained or fine-tuned")
_TEXT = flags.DEFINE_string("text", None, "one input; without it, lines of standard input are read")
_TEXT_PAIR = flags.DEFINE_string("text_pair", "", "the second text of a pair")
_INPUT = flags.DEFINE_string("input", None, "a file of lines to read instead of standard input")
_JSON = flags.DEFINE_bool("json", False, "print JSON lines")
_TOP_K = flags.DEFINE_integer("top_k", 5, "how many tokens for each [MASK]", lower_bound=1)
_BATCH_SIZE = batch_size_flag()
_SCORE = flags.DEFINE_bool("score", False, "tell the pseudo-log-likelihood of texts")
_FEATURES = flags.DEFINE_enum(
    "features", None, [p.value for p in Pooling], "write vectors of texts"
)
_LAYER = flags.DEFINE_integer("layer", -1, "whose vectors: 1 is the lowest, -1 the last")
_OUTPUT = flags.DEFINE_string("output", None, "of --features: a new .npy or .parquet")

_BLOCK = 64  # batches whose results are told, or written, at a time

MASK_TEXT = "[MASK]"


# What the classes of a sentence objective say of a pair.
_SENTENCE_CLASSES = {
    SentenceObjective.NSP: ("follows", "from another document"),
    SentenceObjective.SOP: ("in order", "swapped"),
    SentenceObjective.NONE: (),
}


class FillMask:
    """The likeliest tokens at each [MASK] of a text, and what was learned about pairs."""

    def __init__(self, checkpoint: pathlib.Path, metadata: dict[str, Any], top_k: int) -> None:
        """Restores a pretraining checkpoint."""
        lm = restore_masked_lm(checkpoint, metadata, one_device())
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
    row_format = RowFormat(length, 1, tokenizer.special, pool_last=encoder.causal)
    return make_token_rows(a, b, np.ones(len(a), np.int64), row_format)[0]


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


class Scores:
    """The pseudo-log-likelihood of texts under a pretrained model."""

    def __init__(self, checkpoint: pathlib.Path, metadata: dict[str, Any], batch_size: int) -> None:
        """Restores a pretraining checkpoint."""
        mesh = one_device()
        lm = restore_masked_lm(checkpoint, metadata, mesh)
        self.tokenizer, self.max_length = lm.tokenizer, lm.model.config.max_length
        self._likelihood = PseudoLikelihood(lm, mesh, batch_size=batch_size)

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


def _print_scores(checkpoint: pathlib.Path, metadata: dict[str, Any]) -> None:
    score = Scores(checkpoint, metadata, _BATCH_SIZE.value)
    inputs = _all_inputs()
    a, b = encode_lines(inputs, score.tokenizer, score.max_length, _source())
    show = _dumps if _JSON.value else show_score
    for block in _blocks(len(inputs)):
        for prediction in score(inputs[block], a[block], b[block]):
            print(show(prediction), flush=True)


def _write_features(checkpoint: pathlib.Path, metadata: dict[str, Any]) -> None:
    output = pathlib.Path(app.require("output", _OUTPUT.value, "vectors.npy"))
    check_output(output)
    mesh, pooling = one_device(), Pooling(_FEATURES.value)
    encoder = lowest_layers(restore_encoder(checkpoint, metadata, mesh), _LAYER.value)
    tokenizer = encoder.tokenizer
    inputs = _all_inputs()
    a, b = encode_lines(inputs, tokenizer, encoder.config.max_length, _source())
    vectors = TextVectors(encoder, mesh, pooling, batch_size=_BATCH_SIZE.value)
    made = (vectors(a[block], b[block]) for block in _blocks(len(inputs)))
    if pooling is Pooling.TOKENS:
        ids = with_specials(a, b, tokenizer.special)
        pieces = [tokenizer.id_to_piece(id) for id in range(tokenizer.vocab_size)]
        columns, rows = token_columns(made, ids, pieces), sum(map(len, ids))
    else:
        columns, rows = line_columns(made, ["\t".join(filter(None, i)) for i in inputs]), len(a)
    write_vectors(output, columns, rows)
    print(f"wrote {output}: {rows:,} vectors of {encoder.config.width}")


def _blocks(count: int) -> Iterator[slice]:
    size = _BLOCK * _BATCH_SIZE.value
    return (slice(begin, begin + size) for begin in range(0, count, size))


def _source() -> str:
    return "--text" if _TEXT.value is not None else _INPUT.value or "standard input"


@contextlib.contextmanager
def _inputs() -> Iterator[Iterator[tuple[str, str]]]:
    given = _INPUT.value
    with open(given, "rb") if given else contextlib.nullcontext(sys.stdin.buffer) as lines:
        yield read_inputs(_TEXT.value, _TEXT_PAIR.value, lines)


def _all_inputs() -> list[tuple[str, str]]:
    with _inputs() as inputs:
        return list(inputs)


_dumps = functools.partial(json.dumps, ensure_ascii=False)


def _print_predictions(checkpoint: pathlib.Path, metadata: dict[str, Any]) -> None:
    if metadata["kind"] == "pretraining":
        predict, show = FillMask(checkpoint, metadata, _TOP_K.value), show_masks
    else:
        tuned = FineTuned(checkpoint, metadata, one_device())
        predict = PREDICTORS[tuned.config.task](tuned, _BATCH_SIZE.value)
        show = predict.show
    show = _dumps if _JSON.value else show
    with _inputs() as inputs:
        while batch := list(itertools.islice(inputs, _BATCH_SIZE.value)):
            for prediction in predict(batch):
                print(show(prediction), flush=True)


def main(_: Sequence[str]) -> None:
    """Restores the checkpoint, then predicts, scores or writes vectors."""
    if _SCORE.value and _FEATURES.value:
        raise UserError(f"--score and --features={_FEATURES.value} are two things: choose one")
    for name, flag in (("output", _OUTPUT), ("layer", _LAYER)):
        if flag.present and not _FEATURES.value:
            raise UserError(f"--{name}={flag.value} is of vectors: add --features=mean")
    checkpoint = find_checkpoint(app.require("checkpoint", _CHECKPOINT.value, "runs/base"))
    metadata = read_metadata(checkpoint)
    if _FEATURES.value:
        _write_features(checkpoint, metadata)
    elif _SCORE.value:
        _print_scores(checkpoint, metadata)
    else:
        _print_predictions(checkpoint, metadata)


if __name__ == "__main__":
    app.run(main)
