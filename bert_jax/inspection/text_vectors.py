"""Vectors of new text from any checkpoint: one for each text, or one for each token."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.checkpoints.pretrained import TrainedEncoder, vector_settings
from bert_jax.config import (
    EncoderConfig,
    VectorPooling,
    VectorsConfig,
)
from bert_jax.data.tasks.classes import encode_inputs
from bert_jax.data.tasks.rows import TaskInputs, input_sizes
from bert_jax.distributed import sharding
from bert_jax.errors import UserError
from bert_jax.inspection.choices import OF_CHECKPOINT, TOKENS
from bert_jax.model.encoder import Batch, Encoder
from bert_jax.model.heads import VectorModel
from bert_jax.objectives.losses import Params, Totals
from bert_jax.tasks.evaluation import make_batches
from bert_jax.text.tokenizer import SpecialIds, Tokenizer


def encode_lines(
    inputs: Sequence[tuple[str, str]],
    tokenizer: Tokenizer,
    max_length: int,
    place_of: Callable[[int], str],
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Tokenises lines of text.

    Args:
      inputs: (text, second text or ''), at least one.
      tokenizer: of the checkpoint.
      max_length: greatest size of an input, in tokens.
      place_of: names an input in messages by its number, from 1.

    Returns:
      Token ids of each line's first text, and of its second, [size] int32 each.

    Raises:
      UserError: if there is no line, or one is empty or too long.
    """
    a, b, _ = cut_lines(inputs, tokenizer, sys.maxsize, place_of)
    for number, size in enumerate(input_sizes(a, b, tokenizer.special), start=1):
        if size > max_length:
            raise UserError(
                f"{place_of(number)} has {size} tokens, and the model has positions for"
                f" {max_length}: shorten or split it"
            )
    return a, b


def cut_lines(
    inputs: Sequence[tuple[str, str]],
    tokenizer: Tokenizer,
    length: int,
    place_of: Callable[[int], str],
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Tokenises lines of text as `encode_lines`, and cuts those of more than `length` tokens.

    Returns:
      Token ids of both texts, as `encode_lines`; and which lines were cut, [I] bool.

    Raises:
      UserError: if there is no line, or one is empty.
    """
    if not inputs:
        raise UserError("there is no text: give at least one")
    firsts, seconds = zip(*inputs, strict=True)
    a, b, cut = encode_inputs(firsts, seconds, tokenizer, length)
    for number, ids in enumerate(a, start=1):
        if not len(ids):
            raise UserError(f"{place_of(number)} is empty: give it some text, or leave it out")
    return a, b, cut


def with_specials(
    a: list[np.ndarray], b: list[np.ndarray], special: SpecialIds
) -> list[np.ndarray]:
    """Returns the token ids of inputs with [CLS] and [SEP], [size] int32 each."""
    cls, sep = (np.array([id], np.int32) for id in (special.cls, special.sep))
    seps = [sep] * special.separators
    return [
        np.concatenate([cls, first, *([*seps, second] if len(second) else []), sep])
        for first, second in zip(a, b, strict=True)
    ]


def lowest_layers(encoder: TrainedEncoder, layer: int) -> TrainedEncoder:
    """Returns the encoder cut off above a layer.

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
            f"--layer={layer} does not exist: choose 1 to {layers}, or -1 to -{layers} from the top"
        )
    below = jax.tree.map(lambda leaf: leaf[:count], encoder.params["layers"])
    return dataclasses.replace(
        encoder,
        config=dataclasses.replace(encoder.config, layers=count),
        params=encoder.params | {"layers": below},
    )


def check_length(length: int | None, config: EncoderConfig) -> None:
    """Raises UserError if texts are to be cut to more tokens than the model can read."""
    if length is not None and length > config.max_length:
        raise UserError(
            f"--length={length}: the model has positions for {config.max_length}: choose at most"
            " that"
        )


def chosen_settings(features: str, metadata: dict[str, Any]) -> VectorsConfig | None:
    """Returns the settings that one of `choices.FEATURES` stands for; None: vectors of tokens."""
    if features == OF_CHECKPOINT:
        return vector_settings(metadata)
    if features == TOKENS:
        return None
    return VectorsConfig(pooling=VectorPooling(features), normalised=False)


class TextVectors:
    """Computes vectors of inputs. They do not depend on the batch, or on packing."""

    def __init__(
        self,
        encoder: TrainedEncoder,
        mesh: Mesh,
        settings: VectorsConfig | None,
        *,
        batch_size: int,
        packed: bool = True,
    ) -> None:
        """Prepares the computation.

        Args:
          encoder: its last layer gives the vectors; see `lowest_layers`.
          mesh: of its parameters.
          settings: `pooling` and `normalised` of a text's vector; None: the plain vector of each
            token.
          batch_size: inputs in a batch.
          packed: True if a row may have several inputs.
        """
        self._encoder, self._mesh, self._settings = encoder, mesh, settings
        self._batch_size, self._packed = batch_size, packed
        if settings:
            model = VectorModel(encoder.config, settings.pooling, settings.normalised)
            self._pool_last = model.pool_last
            self._params = {"encoder": encoder.params}
        else:
            model, self._params = Encoder(encoder.config), encoder.params
            self._pool_last = False  # nothing is pooled

        def step(params: Params, batch: Batch) -> tuple[jax.Array, Totals]:
            x = model.apply({"params": params}, batch, deterministic=True)
            assert isinstance(x, jax.Array)
            return x, {}

        self._step = jax.jit(step, out_shardings=sharding.replicated(mesh))

    def __call__(self, a: list[np.ndarray], b: list[np.ndarray]) -> list[np.ndarray]:
        """Runs the encoder over inputs.

        Args:
          a: [I] int32 arrays of token ids; with special tokens none exceeds the position table.
          b: [I] int32 arrays of token ids; empty for inputs without a second text.

        Returns:
          For each input, in order, [D] float32; of tokens [size, D].
        """
        settings = self._settings
        labels = np.zeros(len(a), np.int32)  # required, but not read
        inputs = TaskInputs(a, b, labels, np.arange(len(a)), self._encoder.tokenizer.special)
        batches = make_batches(
            inputs,
            self._encoder.config,
            self._encoder.tokenizer.special,
            self._mesh,
            batch_size=self._batch_size,
            packed=self._packed,
            whole_inputs=settings is not None,
            pool_last=self._pool_last,
        )
        return batches.outputs(self._step, self._params)[0]
