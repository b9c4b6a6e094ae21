"""Opened checkpoints, which read an array when it is looked up, and no other."""

import functools
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from bert_jax.checkpoints.checkpoint import arrays_in, find_checkpoint, read_array, read_metadata
from bert_jax.checkpoints.pretrained import (
    MaskedLM,
    TrainedEncoder,
    one_device,
    restore_encoder,
    restore_masked_lm,
)
from bert_jax.config import EncoderConfig, from_dict
from bert_jax.errors import UserError
from bert_jax.text.tokenizer import Tokenizer, tokenizer_from_dict


class StoredArrays(Mapping[str, np.ndarray]):
    """The arrays of a checkpoint by name, such as 'encoder/embeddings/tokens'.

    A look-up reads the array from disk and verifies its bits; nothing is cached.

    Attributes:
      shapes: name -> shape and dtype, known without reading the array.
    """

    def __init__(self, checkpoint: pathlib.Path, item: str, metadata: dict[str, Any]) -> None:
        """Reads the list of arrays.

        Args:
          checkpoint: CHECKPOINTS/STEP.
          item: 'params' or 'opt_state'.
          metadata: from `read_metadata`.

        Raises:
          UserError: if the list is damaged.
        """
        self.shapes = arrays_in(checkpoint, item)
        self._read = functools.partial(read_array, checkpoint, item, metadata=metadata)

    def __getitem__(self, name: str) -> np.ndarray:
        """Reads an array; raises UserError if it is damaged."""
        if name not in self.shapes:
            raise KeyError(name)
        return self._read(name=name)

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names, group by group."""
        return iter(self.shapes)

    def __len__(self) -> int:
        """Returns the number of arrays."""
        return len(self.shapes)

    def matching(self, match: str) -> list[str]:
        """Returns the names that contain a match of a regular expression; all for ''.

        Raises:
          UserError: if no name does, or it is not a regular expression.
        """
        try:
            found = [name for name in self if re.search(match, name)]
        except re.error as error:
            raise UserError(
                f"match={match!r} is not a regular expression ({error}): correct it"
            ) from None
        if not found:
            groups = sorted({name.partition("/")[0] for name in self})
            raise UserError(
                f"match={match!r} matches no name: choose from the groups {', '.join(groups)}"
            )
        return found

    def tree(self) -> dict[str, Any]:
        """Returns shapes and dtypes as a tree, for a viewer such as treescope."""
        return _tree({n: jax.ShapeDtypeStruct(*self.shapes[n]) for n in self.shapes})

    def read_tree(self) -> dict[str, Any]:
        """Reads all arrays, as a tree; raises UserError if one is damaged."""
        return _tree(dict(self))


def _tree(leaves: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *groups, last = name.split("/")
        inner = functools.reduce(lambda at, group: at.setdefault(group, {}), groups, tree)
        inner[last] = leaf
    return tree


class StoredCheckpoint:
    """A checkpoint of pretraining or fine-tuning.

    Attributes:
      path: CHECKPOINTS/STEP.
      metadata: config, kind, step, versions and others.
      params: the parameters.
    """

    def __init__(self, path: pathlib.Path) -> None:
        """Reads the metadata and the list of arrays; see `open_checkpoint`."""
        self.path = path
        self.metadata = read_metadata(path)
        self.params = StoredArrays(path, "params", self.metadata)

    @functools.cached_property
    def opt_state(self) -> StoredArrays:
        """The optimizer state; raises UserError if the checkpoint has none."""
        if not (self.path / "opt_state").is_dir():
            raise UserError(
                f"{self.path} was made by convert (imported, averaged or given tokens) and has no"
                " optimizer state: name a checkpoint of a training run"
            )
        return StoredArrays(self.path, "opt_state", self.metadata)

    @functools.cached_property
    def encoder(self) -> EncoderConfig:
        """The config of the encoder."""
        return from_dict(EncoderConfig, self.metadata["encoder"])

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the pretraining corpus."""
        return tokenizer_from_dict(self.metadata["tokenizer"])

    def restore_encoder(self) -> TrainedEncoder:
        """Restores the encoder onto one device."""
        return restore_encoder(self.path, self.metadata, one_device())

    def restore_masked_lm(self) -> MaskedLM:
        """Restores encoder and heads onto one device; raises UserError without a masked-LM head."""
        return restore_masked_lm(self.path, self.metadata, one_device())

    def __repr__(self) -> str:
        """Describes the checkpoint in one line."""
        sizes = [int(np.prod(shape)) for shape, _ in self.params.shapes.values()]
        return (
            f"{self.metadata['kind']}, step {self.metadata['step']:,}:"
            f" {self.encoder.layers} layers, {self.encoder.width} wide, {self.encoder.heads} heads;"
            f" {sum(sizes):,} parameters in {len(sizes)} arrays"
        )


def open_checkpoint(directory: str | os.PathLike[str]) -> StoredCheckpoint:
    """Opens a run (its best or newest step) or one of its checkpoints/STEP.

    Raises:
      UserError: if there is none, or it is damaged.
    """
    return StoredCheckpoint(find_checkpoint(directory))
