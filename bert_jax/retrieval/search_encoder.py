"""Vectors of queries and of the texts that are searched, by one checkpoint."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.checkpoints.checkpoint import read_metadata
from bert_jax.checkpoints.pretrained import restore_encoder, trained_length, vector_settings
from bert_jax.config import (
    EncoderConfig,
    SearchOptions,
    Similarity,
    VectorsConfig,
    from_dict,
)
from bert_jax.data.tasks.classes import encode_inputs
from bert_jax.data.tasks.tables import shown
from bert_jax.errors import UserError
from bert_jax.inspection.text_vectors import TextVectors, check_length

_BLOCK = 64  # batches that are tokenised at a time


def search_settings(metadata: dict[str, Any], options: SearchOptions) -> tuple[VectorsConfig, int]:
    """Returns how a checkpoint makes the vectors of a search, and the tokens of its longest text.

    Args:
      metadata: of the checkpoint.
      options: what is not to be as it was trained.

    Raises:
      UserError: if the length is beyond the position table.
    """
    settings = vector_settings(metadata)
    encoder = from_dict(EncoderConfig, metadata["encoder"])
    trained, longest = trained_length(metadata), metadata.get("max_length", encoder.max_length)
    length = options.length or trained or longest
    check_length(length, encoder)
    changed: dict[str, Any] = {
        name: value
        for name in ("pooling", "query_prompt", "text_prompt")
        if (value := getattr(options, name)) is not None
    }
    if options.similarity is not None:
        changed["normalised"] = options.similarity is Similarity.COSINE
    elif trained is None or metadata.get("similarity") == Similarity.COSINE.value:
        changed["normalised"] = True
    return dataclasses.replace(settings, **changed), length


class SearchEncoder:
    """Computes vectors whose product ranks texts for a query.

    Equal texts have equal vectors, and none depends on the order of the texts.

    Attributes:
      settings: of the vectors.
      length: tokens that longer texts are cut to.
      width: D, of the vectors.
      parameters: how many numbers the encoder has.
      cut: number of texts that were cut so far.
    """

    def __init__(
        self,
        checkpoint: pathlib.Path,
        mesh: Mesh,
        options: SearchOptions,
        *,
        batch_size: int,
        empty_texts: bool = False,
    ) -> None:
        """Restores the encoder of CHECKPOINTS/STEP; see `search_settings`.

        Args:
          checkpoint: CHECKPOINTS/STEP.
          mesh: from `sharding.make_mesh`.
          options: what is not to be as it was trained.
          batch_size: texts at a time.
          empty_texts: give a text without a token a vector of zeros, and do not refuse it.
        """
        metadata = read_metadata(checkpoint)
        self.settings, self.length = search_settings(metadata, options)
        self.cut = 0
        encoder = restore_encoder(checkpoint, metadata, mesh)
        self._tokenizer, self.width = encoder.tokenizer, encoder.config.width
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(encoder.params))
        self._empty_texts = empty_texts
        self._block = _BLOCK * batch_size
        self._vectors = TextVectors(encoder, mesh, self.settings, batch_size=batch_size)

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the vectors of queries, [n, D] float32; raises UserError as `texts`."""
        return self._encode(texts, self.settings.query_prompt)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the vectors of texts that are searched, [n, D] float32.

        Raises:
          UserError: if a text has no token, unless `empty_texts`.
        """
        return self._encode(texts, self.settings.text_prompt)

    def plain(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the vectors of texts without a prompt, [n, D] float32; raises as `texts`."""
        return self._encode(texts, "")

    def _encode(self, texts: Sequence[str], prompt: str) -> np.ndarray:
        # A text is encoded once, among texts of its length, whatever order they come in.
        order = sorted(range(len(texts)), key=lambda number: (len(texts[number]), texts[number]))
        different = [texts[number] for number in order[:1]]
        different_of = np.zeros(len(order), np.int64)
        for place, number in enumerate(order):
            if texts[number] != different[-1]:
                different.append(texts[number])
            different_of[place] = len(different) - 1
        vectors = np.zeros((len(texts), self.width), np.float32)
        for begin in range(0, len(different), self._block):
            made = self._encode_block(different[begin : begin + self._block], prompt)
            first, end = np.searchsorted(different_of, [begin, begin + len(made)])
            vectors[order[first:end]] = made[different_of[first:end] - begin]
        return vectors

    def _encode_block(self, texts: Sequence[str], prompt: str) -> np.ndarray:
        nothing = [""] * len(texts)
        bare, b, cut = encode_inputs(texts, nothing, self._tokenizer, self.length)
        filled, a = np.array([len(ids) > 0 for ids in bare]), bare
        if prompt:  # it would hide that a text is empty
            whole = [prompt + text for text in texts]
            a, b, cut = encode_inputs(whole, nothing, self._tokenizer, self.length)
        if not (self._empty_texts or filled.all()):
            text = shown(texts[int(filled.argmin())])
            raise UserError(f"the text {text} has no token: give it words, or remove it")
        self.cut += int(cut[filled].sum())
        vectors = np.zeros((len(texts), self.width), np.float32)
        if filled.any():
            a, b = ([ids for ids, use in zip(each, filled, strict=True) if use] for each in (a, b))
            vectors[filled] = self._vectors(a, b)
        return vectors
