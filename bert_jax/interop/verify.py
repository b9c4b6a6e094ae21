"""The proof of a conversion: both libraries run on the same sentences, and their outputs differ so.

Each sentence stands alone in a row, and the neighbours form pairs. Everything is float32.
"""

import dataclasses
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from bert_jax.config import ComputeType, EncoderConfig, from_dict
from bert_jax.data.packing.layout import PAIR_SPECIALS, RowFormat
from bert_jax.data.tasks.rows import input_sizes, make_token_rows
from bert_jax.errors import UserError
from bert_jax.interop.architectures import ENCODER_KIND, PRETRAINING_KIND, Model, module_of
from bert_jax.interop.fast_tokenizer import are_equally_likely
from bert_jax.model.encoder import Encoder, Pooler
from bert_jax.text.tokenizer import Tokenizer

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
_ROWS = 32  # of the sentences, at most, are run through the models
_LONGEST = 128  # tokens of a row, at most
# Beyond this share of the largest output the two are different models.
_TOLERANCE = 1e-4

Outputs = dict[str, np.ndarray]  # name -> [R, ...] float32
Batch = dict[str, np.ndarray]
Run = Callable[[Batch], Outputs]


class Difference(NamedTuple):
    """How far apart the outputs of two libraries are."""

    name: str
    greatest: float  # difference
    largest: float  # output
    values: int

    def __str__(self) -> str:
        """Words it for the log."""
        return (
            f"{self.name}: greatest difference {self.greatest:.3g}, largest value"
            f" {self.largest:.4g}, {self.values:,} values"
        )


def is_installed(*libraries: str) -> bool:
    """Whether all of some libraries can be imported."""
    return all(importlib.util.find_spec(library) for library in libraries)


def make_rows(tokenizer: Tokenizer, encoder: EncoderConfig, sentences: Sequence[str]) -> Batch:
    """Writes sentences, and pairs of neighbours, into rows, one each."""
    longest = min(_LONGEST, encoder.max_length)
    room = (longest - PAIR_SPECIALS) // 2
    ids = [tokenizer.encode(sentence)[:room] for sentence in sentences[:_ROWS]]
    ids = [each for each in ids if len(each)]
    none = ids[0][:0]
    a, b = ids + ids[:-1], [none] * len(ids) + ids[1:]
    if encoder.segments < 2:
        a, b = ids, [none] * len(ids)
    length = int(input_sizes(a, b).max())
    row_format = RowFormat(length, 1, tokenizer.special, pool_last=False)
    batch = make_token_rows(a, b, np.ones(len(a), np.int64), row_format)[0]
    every = np.arange(length, dtype=np.int32)
    return batch | {"mlm_positions": np.broadcast_to(every, (len(a), length)).copy()}


def our_outputs(model: Model, batch: Batch) -> Outputs:
    """Runs our model, in float32."""
    encoder = from_dict(EncoderConfig, model.metadata["encoder"])
    encoder = dataclasses.replace(encoder, compute_type=ComputeType.FLOAT32)
    module: Any = module_of(model.metadata).clone(config=encoder)

    def run(params: Any, batch: Any) -> dict[str, Any]:
        if model.metadata["kind"] == ENCODER_KIND:
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


def compare(ours: Outputs, theirs: Outputs, batch: Batch) -> list[Difference]:
    """Compares outputs where there are tokens.

    Raises:
      UserError: if they are those of different models.
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
            raise UserError(f"the two sides differ ({found[-1]}): nothing was written")
    return found


def check_ids(
    tokenizer: Tokenizer, encode: Callable[[str], list[int]], sentences: Sequence[str]
) -> str:
    """Compares token ids, and says how many sentences were compared.

    Sentences that hold a special piece, such as "[SEP]", are left out: theirs reads it as the
    special token, and ours as the letters that it is.

    Raises:
      UserError: for the first sentence whose ids differ, and not because two segmentations are
        equally likely.
    """
    special = [tokenizer.id_to_piece(id) for id in dataclasses.astuple(tokenizer.special)]
    compared = [s for s in sentences if not any(piece in s for piece in special)]
    ties = 0
    for sentence in compared:
        ours, theirs = tokenizer.encode(sentence).tolist(), encode(sentence)
        if ours == theirs:
            continue
        if not are_equally_likely(tokenizer, ours, theirs):
            raise UserError(
                f"the tokenizers differ on {sentence[:80]!r}: nothing was written; --noverify"
                " converts all the same"
            )
        ties += 1
    tied = f", but for {ties:,} with two segmentations that are equally likely" if ties else ""
    return f"token ids: the same in {len(compared):,} sentences{tied}"
