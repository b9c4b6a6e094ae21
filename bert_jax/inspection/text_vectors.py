"""Vectors of new text from any checkpoint: of its [CLS], of the mean over it, or of each token."""

import dataclasses
import enum
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bert_jax.checkpoints.pretrained import TrainedEncoder
from bert_jax.data.tasks.classes import encode_inputs
from bert_jax.data.tasks.rows import TaskInputs, input_sizes
from bert_jax.distributed import sharding
from bert_jax.errors import UserError
from bert_jax.model.encoder import Batch, Encoder
from bert_jax.objectives.losses import Params, Totals
from bert_jax.tasks.evaluation import deal_out
from bert_jax.text.tokenizer import SpecialIds, Tokenizer


class Pooling(enum.Enum):
    """What is taken of a text."""

    CLS = "cls"  # its first token, [CLS]; its last where the encoder is causal
    MEAN = "mean"  # over all of its tokens, [CLS] and [SEP] among them
    TOKENS = "tokens"  # each of its tokens, [CLS] and [SEP] among them


def encode_lines(
    inputs: Sequence[tuple[str, str]], tokenizer: Tokenizer, max_length: int, source: str
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Tokenises lines of text, and refuses one that the model cannot read whole.

    Args:
      inputs: (text, second text or ''), at least one.
      tokenizer: of the checkpoint.
      max_length: of an input, in tokens.
      source: what messages call the input.

    Returns:
      A and B of each line.

    Raises:
      UserError: for an empty or too long line, with its number; or if there is none.
    """
    if not inputs:
        raise UserError(f"{source} holds no line: give it a text")
    firsts, seconds = zip(*inputs, strict=True)
    a, b, _ = encode_inputs(firsts, seconds, tokenizer, sys.maxsize)
    for number, (ids, size) in enumerate(zip(a, input_sizes(a, b), strict=True), start=1):
        line = f"{source}, line {number}" if source != "--text" else source
        if not len(ids):
            raise UserError(f"{line} is empty: give it a text, or leave it out")
        if size > max_length:
            raise UserError(
                f"{line} has {size} tokens, and the model has positions for"
                f" {max_length}: shorten or split it"
            )
    return a, b


def with_specials(
    a: list[np.ndarray], b: list[np.ndarray], special: SpecialIds
) -> list[np.ndarray]:
    """Returns the tokens of inputs as the encoder sees them, [size] int32 each."""
    cls, sep = (np.array([id], np.int32) for id in (special.cls, special.sep))
    return [
        np.concatenate([cls, first, sep, *([second, sep] if len(second) else [])])
        for first, second in zip(a, b, strict=True)
    ]


def lowest_layers(encoder: TrainedEncoder, layer: int) -> TrainedEncoder:
    """Returns the encoder that ends after a layer.

    Args:
      encoder: of L layers.
      layer: from 1, the lowest, to L; or from -1, the last, to -L.

    Raises:
      UserError: if there is no such layer.
    """
    layers = encoder.config.layers
    count = layer if layer > 0 else layers + 1 + layer
    if not layer or not 1 <= count <= layers:
        raise UserError(
            f"--layer={layer} is not there: choose 1 to {layers}, or -1 to -{layers} from the top"
        )
    below = jax.tree.map(lambda leaf: leaf[:count], encoder.params["layers"])
    return dataclasses.replace(
        encoder,
        config=dataclasses.replace(encoder.config, layers=count),
        params=encoder.params | {"layers": below},
    )


class TextVectors:
    """Vectors of inputs; neither the batch nor the row that an input is in changes its vectors."""

    def __init__(
        self,
        encoder: TrainedEncoder,
        mesh: Mesh,
        pooling: Pooling,
        *,
        batch_size: int,
        packed: bool = True,
    ) -> None:
        """Compiles nothing yet.

        Args:
          encoder: whose last layer is read; see `lowest_layers`.
          mesh: that its parameters are on.
          pooling: what is taken of a text.
          batch_size: inputs at a time.
          packed: whether several may be in a row.
        """
        self._encoder, self._mesh, self._pooling = encoder, mesh, pooling
        self._batch_size, self._packed = batch_size, packed
        model = Encoder(encoder.config)

        def step(params: Params, batch: Batch) -> tuple[jax.Array, Totals]:
            positions = batch["pool_positions"] if pooling is Pooling.CLS else None
            x = model.apply({"params": params}, batch, positions, deterministic=True)
            assert isinstance(x, jax.Array)
            return _means(x, batch) if pooling is Pooling.MEAN else x, {}

        self._step = jax.jit(step, out_shardings=sharding.replicated(mesh))

    def __call__(self, a: list[np.ndarray], b: list[np.ndarray]) -> list[np.ndarray]:
        """Runs the encoder over inputs.

        Args:
          a: [I] int32 arrays, none longer than the position table with what is added.
          b: [I] int32 arrays; empty where there is no second text.

        Returns:
          For each input, in order, [D] float32; of tokens [size, D].
        """
        labels = np.zeros(len(a), np.int32)  # which nothing reads
        inputs = TaskInputs(a, b, labels, np.arange(len(a)))
        on_devices = deal_out(
            inputs,
            self._encoder.config,
            self._encoder.tokenizer.special,
            self._mesh,
            batch_size=self._batch_size,
            packed=self._packed,
            whole_inputs=self._pooling is not Pooling.TOKENS,
        )
        return on_devices.outputs(self._step, self._encoder.params)[0]


def _means(x: jax.Array, batch: Batch) -> jax.Array:
    """Averages the vectors of each example: [B, T, D] to [B, N, D] float32."""
    numbers = 1 + jnp.arange(batch["pool_positions"].shape[1], dtype=jnp.int32)
    own = batch["example_ids"][:, None, :] == numbers[None, :, None]  # [B, N, T]
    sums = jnp.einsum("bnt,btd->bnd", own.astype(jnp.float32), x.astype(jnp.float32))
    return sums / jnp.maximum(own.sum(axis=-1, keepdims=True), 1)
