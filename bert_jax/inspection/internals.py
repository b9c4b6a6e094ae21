"""Hidden states, attention and predictions of a model for one text.

The layers are the model's own `EncoderBlock`, run one by one: nothing of the forward pass is
written a second time.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.checkpoints.pretrained import MaskedLM, TrainedEncoder
from bert_jax.config import EncoderConfig
from bert_jax.data.packing.layout import RowFormat
from bert_jax.data.tasks.rows import input_sizes, make_token_rows, row_length
from bert_jax.errors import UserError
from bert_jax.inspection.fill_mask import check_masks
from bert_jax.inspection.tables import Table
from bert_jax.model.attention import attention_probabilities, tokens_of, visible
from bert_jax.model.encoder import Batch, Embeddings, EncoderBlock
from bert_jax.model.rotary import rotations_of
from bert_jax.model.stack import layer_kinds
from bert_jax.objectives.losses import Params
from bert_jax.tasks.evaluation import check_finite
from bert_jax.tasks.predictors import check_fits
from bert_jax.text.tokenizer import Tokenizer


class Internals(NamedTuple):
    """Hidden states and attention of an encoder for one input of n tokens, with [CLS] and [SEP]."""

    tokens: list[str]  # [n] pieces of the vocabulary
    hidden: np.ndarray  # [L + 1, n, D] float32: the embeddings, then the output of each layer
    attention: np.ndarray  # [L, H, n, n] float32: probability that token i (row) attends to j


def encoder_internals(
    config: EncoderConfig, params: Params, batch: Batch
) -> tuple[jax.Array, jax.Array]:
    """Runs the encoder without dropout, and returns its hidden states and attention.

    Args:
      config: of the encoder.
      params: of `model.Encoder`.
      batch: `token_ids`, `example_ids`, `segment_ids`, `positions`, each [B, T] int32.

    Returns:
      The residual stream, [L + 1, B, T, D]: the embeddings, then the output of each layer; a
      pre-norm encoder normalises it once more before its heads. And the attention probabilities,
      [L, B, H, T, T] float32.
    """
    x: Any = Embeddings(config).apply({"params": params["embeddings"]}, batch, deterministic=True)
    tokens = tokens_of(batch["example_ids"])
    rotations = rotations_of(config, batch["position_ids"])
    hidden, attention = [x], []
    for number, kind in enumerate(layer_kinds(config)):
        x, kept = EncoderBlock(config, kind).apply(
            {"params": jax.tree.map(lambda leaf, number=number: leaf[number], params["layers"])},
            x,
            tokens,
            rotations[kind.window > 0],
            deterministic=True,
            mutable=["intermediates"],
        )
        made: Any = kept["intermediates"]["attention"]
        mask = visible(tokens, tokens, causal=config.causal, window=kind.window)
        hidden.append(x)
        attention.append(attention_probabilities(made["queries"][0], made["keys"][0], mask))
    return jnp.stack(hidden), jnp.stack(attention)


def text_internals(encoder: TrainedEncoder, text: str, text_pair: str = "") -> Internals:
    """Runs a restored encoder on one text, or a pair of texts.

    Args:
      encoder: from `StoredCheckpoint.restore_encoder`.
      text: without [CLS] and [SEP], which are added.
      text_pair: the second text of a pair; '': none.

    Raises:
      UserError: if the text is empty, or longer than the position table.
    """
    batch, size = _row(encoder.tokenizer, encoder.config, text, text_pair)
    run = jax.jit(functools.partial(encoder_internals, encoder.config))
    hidden, attention = check_finite(jax.device_get(run(encoder.params, batch)))
    ids = batch["token_ids"][0, :size].tolist()
    return Internals(
        [encoder.tokenizer.id_to_piece(id) for id in ids],
        hidden[:, 0, :size].astype(np.float32),
        attention[:, 0, :, :size, :size],
    )


def _row(
    tokenizer: Tokenizer, config: EncoderConfig, text: str, text_pair: str
) -> tuple[dict[str, np.ndarray], int]:
    """Returns one input as a batch of one row, and its number of tokens."""
    a, b = [tokenizer.encode(text)], [tokenizer.encode(text_pair)]
    if not len(a[0]):
        raise UserError("the text is empty: give it at least one word")
    size = int(input_sizes(a, b, tokenizer.special)[0])
    check_fits(text, size, config)
    length = row_length(np.array([size]), config.max_length)
    row_format = RowFormat(length, 1, tokenizer.special, pool_last=config.causal)
    return make_token_rows(a, b, np.ones(1, np.int64), row_format)[0], size


def state_table(inside: Internals) -> Table:
    """Measures how the vectors of a text change from layer to layer.

    Returns:
      Rows of `layer` (0: the embeddings); `norm`, mean over the tokens; `kept`, mean cosine
      between a token's vectors before and after the layer; `alike`, mean cosine between different
      tokens, near 1 if the layer hardly distinguishes them; `spread`, mean entropy of attention
      over tokens and heads in nats, 0 if every token attends to a single one.
    """
    unit = inside.hidden / np.maximum(np.linalg.norm(inside.hidden, axis=-1, keepdims=True), 1e-30)
    different = ~np.eye(unit.shape[1], dtype=bool)
    p = inside.attention
    entropy = -(p * np.log(np.maximum(p, 1e-30))).sum(axis=-1).mean(axis=(1, 2))
    return Table(
        {
            "layer": layer,
            "norm": float(np.linalg.norm(inside.hidden[layer], axis=-1).mean()),
            "kept": float((unit[layer] * unit[layer - 1]).sum(axis=-1).mean()) if layer else None,
            "alike": float((unit[layer] @ unit[layer].T)[different].mean()),
            "spread": float(entropy[layer - 1]) if layer else None,
        }
        for layer in range(len(unit))
    )


def masked_in_turn(lm: MaskedLM, text: str, text_pair: str = "", *, count: int = 5) -> Table:
    """Masks each token of a text in turn, and predicts it from all others.

    Args:
      lm: from `StoredCheckpoint.restore_masked_lm`.
      text: without [CLS] and [SEP], which are added, and never masked.
      text_pair: the second text of a pair; '': none.
      count: number of likeliest tokens to return.

    Returns:
      A row for each token: `token`, its `probability`, its `rank` (1: the likeliest), and
      `likeliest`, a list of (token, probability).

    Raises:
      UserError: if the model is causal, or its outputs are not finite; if the text is empty, or
        longer than the position table.
    """
    check_masks(lm)
    tokenizer, special = lm.tokenizer, lm.tokenizer.special
    batch, size = _row(tokenizer, lm.model.config, text, text_pair)
    ids = batch["token_ids"][0]
    masked = np.flatnonzero(~np.isin(ids[:size], [special.cls, special.sep]))
    batch = {name: np.repeat(field, len(masked), axis=0) for name, field in batch.items()}
    batch["token_ids"][np.arange(len(masked)), masked] = special.mask
    batch["mlm_positions"] = masked[:, None].astype(np.int32)
    logits = jax.jit(functools.partial(lm.model.apply, deterministic=True))(
        {"params": lm.params}, batch
    )
    probabilities = jax.nn.softmax(lm.token_logits(logits.mlm[:, 0]))
    rows = Table()
    for position, row in zip(masked, check_finite(jax.device_get(probabilities)), strict=True):
        own = row[ids[position]]
        best = np.argsort(-row, kind="stable")[:count].tolist()
        rows.append(
            {
                "token": tokenizer.id_to_piece(int(ids[position])),
                "probability": float(own),
                "rank": int((row > own).sum()) + 1,
                "likeliest": [(tokenizer.id_to_piece(i), float(row[i])) for i in best],
            }
        )
    return rows
