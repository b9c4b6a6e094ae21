"""Verification of a conversion: both libraries run on the same sentences in float32.

Each sentence is a row by itself, and each two neighbours are a row as a pair.
"""

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from bert_jax.config import ComputeType, EncoderConfig, from_dict
from bert_jax.data.packing.layout import RowFormat
from bert_jax.data.tasks.rows import input_sizes, make_token_rows
from bert_jax.errors import UserError
from bert_jax.interop.architectures import PRETRAINING_KIND, Model, head_of, module_of
from bert_jax.interop.families.family import Head
from bert_jax.interop.tokenizers.fast_tokenizer import are_equally_likely
from bert_jax.model.encoder import Encoder, Pooler
from bert_jax.text.tokenizer import LibraryTokenizer, Tokenizer, WordPieceTokenizer

SENTENCES = (
    "The river rose in the night, and by morning the lower fields were under water.",
    "She had not expected an answer; it came within the hour.",
    "In 1911 the two towns were joined by a bridge of 27 arches.",
    "Why would anyone leave a lamp burning in an empty house?",
    "The committee (seven members, none of them elected) met on the 3rd of May.",
    "Zürich, Kraków and São Paulo are written with letters that others drop.",
    "It's cheap, it's fast - and it doesn't work.",
    "Das Wetter bleibt bis zum Wochenende kühl und regnerisch.",
    "Les enfants jouaient près du vieux port.",
    "彼は毎朝六時に起きて、川沿いを歩く。",
    "Water boils at 100 °C, or 212 °F, at sea level.",
    "unbelievably, uninterruptedly, counterrevolutionaries",
)
_SENTENCES = 32  # at most that many go through the models
_LONGEST = 128  # tokens in a row, at most
_TOLERANCE = 1e-4  # of the largest output; a larger difference means different models

ModelOutputs = dict[str, np.ndarray]  # name -> [B, ...] float32
InputRows = dict[str, np.ndarray]  # the fields of a batch, [B, T] and others


class Difference(NamedTuple):
    """Distance between the outputs of two libraries."""

    name: str
    greatest: float  # absolute difference
    largest: float  # absolute value of an output
    values: int  # number compared

    def __str__(self) -> str:
        """Formats the difference for the log."""
        return (
            f"{self.name}: largest difference {self.greatest:.3g}, largest value"
            f" {self.largest:.4g}, {self.values:,} values"
        )


def is_installed(*libraries: str) -> bool:
    """Returns True if all of the libraries can be imported."""
    return all(importlib.util.find_spec(library) for library in libraries)


def make_input_rows(
    tokenizer: Tokenizer, encoder: EncoderConfig, sentences: Sequence[str]
) -> InputRows:
    """Returns rows of sentences and of pairs of neighbours, one in each row.

    Long sentences are cut. An encoder with fewer than two segments gets 0 for both texts.
    """
    longest = min(_LONGEST, encoder.max_length)
    room = (longest - tokenizer.special.of_pair) // 2
    ids = [tokenizer.encode(sentence)[:room] for sentence in sentences[:_SENTENCES]]
    ids = [each for each in ids if len(each)]
    none = ids[0][:0]
    a, b = ids + ids[:-1], [none] * len(ids) + ids[1:]
    length = int(input_sizes(a, b, tokenizer.special).max())
    row_format = RowFormat(length, 1, tokenizer.special, pool_last=False)
    batch = make_token_rows(a, b, np.ones(len(a), np.int64), row_format)[0]
    if encoder.segments < 2:
        batch["segment_ids"] = np.zeros_like(batch["segment_ids"])
    every = np.arange(length, dtype=np.int32)
    return batch | {"mlm_positions": np.broadcast_to(every, (len(a), length)).copy()}


def our_outputs(model: Model, batch: InputRows) -> ModelOutputs:
    """Runs our model in float32.

    Returns:
      Those of `mlm` [B, T, V], `sentence` [B, 1, 2], `logits`, `hidden` [B, T, D] and `pooled`
      [B, 1, D] that the model has.
    """
    encoder = from_dict(EncoderConfig, model.metadata["encoder"])
    encoder = dataclasses.replace(encoder, compute_type=ComputeType.FLOAT32)
    module: Any = module_of(model.metadata).clone(config=encoder)

    def run(params: Any, batch: Any) -> dict[str, Any]:
        if head_of(model.metadata) is Head.ENCODER:
            variables = {"params": params["encoder"]}
            x: Any = Encoder(encoder).apply(variables, batch, deterministic=True)
            found = {"hidden": x}
            if "pooler" in params:
                variables = {"params": params["pooler"]}
                found["pooled"] = Pooler(encoder).apply(variables, x[:, :1])
            return found
        logits = module.apply({"params": params}, batch, deterministic=True)
        if model.metadata["kind"] == PRETRAINING_KIND:
            found = {"mlm": logits.mlm}
            return found | ({} if logits.sentence is None else {"sentence": logits.sentence})
        return {"logits": logits}

    with jax.default_matmul_precision("highest"):
        return jax.device_get(jax.jit(run)(model.params, batch))


def compare(ours: ModelOutputs, theirs: ModelOutputs, batch: InputRows) -> list[Difference]:
    """Compares the outputs of two libraries, except at padding.

    Raises:
      UserError: if they differ by more than rounding.
    """
    real = batch["example_ids"] > 0
    found = []
    for name in ours:
        one, other = (
            x[real] if x.shape[:2] == real.shape else x.reshape(len(x), -1)
            for x in (ours[name], theirs[name])
        )
        greatest, largest = float(np.abs(one - other).max()), float(np.abs(other).max())
        found.append(Difference(name, greatest, largest, one.size))
        if not greatest <= _TOLERANCE * max(largest, 1.0):
            raise UserError(
                f"the outputs of the two libraries differ ({found[-1]}): nothing was written;"
                " report this, or add --noverify to convert anyway"
            )
    return found


def with_added_tokens(tokenizer: Tokenizer, sentence: str) -> list[str]:
    """Returns a sentence with each added token of a vocabulary, apart and glued on."""
    contents = []
    if isinstance(tokenizer, WordPieceTokenizer):
        contents = [token.content for token in tokenizer.added]
    elif isinstance(tokenizer, LibraryTokenizer):
        added = tokenizer.library_values()["added_tokens"]
        contents = [each["content"] for each in added if each["id"] not in tokenizer.special.ids]
    return [text for one in contents for text in (f"{sentence} {one} {sentence}", f"a{one}b")]


def compare_token_ids(
    tokenizer: Tokenizer, encode: Callable[[str], list[int]], sentences: Sequence[str]
) -> str:
    """Compares the token ids of two tokenizers.

    Sentences with a special piece, such as "[SEP]", are left out: transformers reads it as the
    special token, and this project as text.

    Args:
      tokenizer: ours.
      encode: theirs: text -> ids, without special tokens.
      sentences: to compare on.

    Returns:
      A line for the log, with the number of sentences compared.

    Raises:
      UserError: for the first sentence with different ids, unless the two segmentations are
        equally likely.
    """
    special = [tokenizer.id_to_piece(id) for id in tokenizer.special.ids]
    compared = [s for s in sentences if not any(piece in s for piece in special)]
    ties = 0
    for sentence in compared:
        ours, theirs = tokenizer.encode(sentence).tolist(), encode(sentence)
        if ours == theirs:
            continue
        if not are_equally_likely(tokenizer, ours, theirs):
            raise UserError(
                f"the tokenizers differ on {sentence[:80]!r}: nothing was written; add --noverify"
                " to convert anyway"
            )
        ties += 1
    tied = f", except {ties:,} with two equally likely segmentations" if ties else ""
    return f"token ids: the same in {len(compared):,} sentences{tied}"


def compare_frames(
    tokenizer: Tokenizer, encode: Callable[..., Mapping[str, Any]], *, segments: bool
) -> str:
    """Compares the special pieces around a text and around a pair of texts.

    Args:
      tokenizer: ours.
      encode: theirs: texts -> `input_ids` and `token_type_ids`, of which the model may have none.
      segments: True if the model has types of tokens, so that they are compared too.

    Returns:
      A line for the log.

    Raises:
      UserError: if they differ.
    """
    for texts in (("a",), ("a", "b")):
        # The ids of the texts are theirs, so that special pieces alone make a difference.
        ids = [encode(text, add_special_tokens=False)["input_ids"] for text in texts]
        a, b = (np.array(each, np.int32) for each in (*ids, [])[:2])
        length = int(input_sizes([a], [b], tokenizer.special)[0])
        row_format = RowFormat(length, 1, tokenizer.special, pool_last=False)
        batch = make_token_rows([a], [b], np.ones(1, np.int64), row_format)[0]
        theirs = encode(*texts)
        names = {"input_ids": "token_ids"}
        if segments and "token_type_ids" in theirs:
            names["token_type_ids"] = "segment_ids"
        for name, own in names.items():
            if (ours := batch[own][0].tolist()) != list(theirs[name]):
                raise UserError(
                    f"the tokenizers differ on {' and '.join(map(repr, texts))} with special"
                    f" pieces: {name} are {ours} here and {list(theirs[name])} there: nothing was"
                    " written; add --noverify to convert anyway"
                )
    return "special pieces: the same around a text and around a pair"
