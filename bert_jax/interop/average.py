"""Averages of parameters: of several checkpoints, or the one that a run kept while it trained."""

import pathlib
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.checkpoints.checkpoint import (
    AVERAGE,
    array_differences,
    arrays_in,
    find_checkpoint,
    groups_in,
    read_metadata,
    restore_groups,
)
from bert_jax.checkpoints.literal_path import literal_path
from bert_jax.config import MeshConfig
from bert_jax.distributed import sharding
from bert_jax.errors import UserError
from bert_jax.files import check_new, given_path, new_folder, path_list
from bert_jax.interop.architectures import Model, abstract_groups
from bert_jax.interop.conversion import write_checkpoint
from bert_jax.objectives.losses import Params


def average(sources: str, target: str) -> None:
    """Writes a checkpoint whose parameters are an average; it cannot be resumed.

    Args:
      sources: checkpoints with commas between, of one shape and tokenizer: their mean. A single
        one: the moving average that is stored with it.
      target: the directory of a new run.

    Raises:
      UserError: for what cannot be averaged; nothing is left behind.
    """
    path = check_new(given_path(target), "to")
    literal_path(path)  # refuses a name that cannot be written
    checkpoints = [find_checkpoint(source) for source in path_list(sources)]
    if len(set(checkpoints)) < len(checkpoints):
        raise UserError(f"--average={sources} names a checkpoint twice: leave one out")
    first, *others = checkpoints
    metadata = read_metadata(first)
    for other in others:
        _check_alike(first, metadata, other)
    mesh = sharding.make_mesh(MeshConfig(data=1), devices=jax.local_devices()[:1])
    if others:
        params = _mean([_read(each, metadata, mesh, "params") for each in checkpoints])
        told = f"the mean of {len(checkpoints)} checkpoints"
    else:
        if not (first / AVERAGE).is_dir():
            raise UserError(
                f"--average={sources} has no moving average: train with --config.average_decay,"
                " or name several checkpoints with commas between"
            )
        params, told = _read(first, metadata, mesh, AVERAGE), f"the moving average of {first}"
    names = [str(checkpoint) for checkpoint in checkpoints]
    kept = {name: value for name, value in metadata.items() if name != "cursor"}
    with new_folder(path) as made:
        write_checkpoint(Model(params, kept | {"average_of": names}, []), made)
    leaves = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"{target}: {told}, {leaves:,} parameters")


def _check_alike(first: pathlib.Path, metadata: dict[str, Any], other: pathlib.Path) -> None:
    """Raises UserError unless two checkpoints have parameters that can be added."""
    theirs = read_metadata(other)
    for name, what in (("kind", "kinds"), ("encoder", "encoders")):
        if metadata[name] != theirs[name]:
            raise UserError(f"{first} and {other} have different {what}: average those of one run")
    if metadata["tokenizer"]["fingerprint"] != theirs["tokenizer"]["fingerprint"]:
        raise UserError(f"{first} and {other} have different tokenizers: average those of one run")
    if problems := array_differences(arrays_in(other, "params"), arrays_in(first, "params")):
        raise UserError(
            f"{other} does not fit {first}: {'; '.join(problems[:3])}: average those of one run"
        )


def _read(checkpoint: pathlib.Path, metadata: dict[str, Any], mesh: Mesh, item: str) -> Params:
    groups = groups_in(checkpoint)
    abstract = abstract_groups(metadata, groups, mesh)
    return jax.tree.map(np.asarray, restore_groups(checkpoint, abstract, groups, item))


def _mean(trees: list[Params]) -> Params:
    """Adds in float64 and divides once."""

    def mean(*leaves: np.ndarray) -> np.ndarray:
        return (np.sum(leaves, axis=0, dtype=np.float64) / len(leaves)).astype(leaves[0].dtype)

    return jax.tree.map(mean, *trees)
