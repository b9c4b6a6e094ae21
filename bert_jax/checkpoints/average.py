"""Averages of parameters: of several checkpoints, or the one that a run kept while it trained."""

import pathlib
from typing import Any

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from bert_jax.checkpoints.checkpoint import (
    AVERAGE,
    array_differences,
    arrays_in,
    find_checkpoint,
    read_array,
    read_metadata,
    write_parameters,
)
from bert_jax.checkpoints.continued import OF_RUN
from bert_jax.checkpoints.literal_path import literal_path
from bert_jax.errors import UserError
from bert_jax.files import check_new, given_path, new_folder, path_list
from bert_jax.objectives.losses import Params

_PARAMS = "params"  # the item of a checkpoint


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
    given = path_list(sources)
    if "" in given:
        raise UserError(f"--average={sources} has a comma without a checkpoint: leave it out")
    checkpoints = [find_checkpoint(source) for source in given]
    if len({checkpoint.resolve() for checkpoint in checkpoints}) < len(checkpoints):
        raise UserError(f"--average={sources} names a checkpoint twice: leave one out")
    first, *others = checkpoints
    metadata = {checkpoint: read_metadata(checkpoint) for checkpoint in checkpoints}
    for other in others:
        _check_alike(first, other, metadata)
    item, told = _PARAMS, f"the mean of {len(checkpoints)} checkpoints"
    if not others:
        if not (first / AVERAGE).is_dir():
            raise UserError(
                f"--average={sources} has no moving average: train with"
                " --config.average_decay=0.999, or name several checkpoints with commas between"
            )
        item, told = AVERAGE, f"the moving average of {first}"
    kept = {name: value for name, value in metadata[first].items() if name != "cursor"}
    kept["average_of"] = [str(checkpoint) for checkpoint in checkpoints]
    with new_folder(path) as made:
        params = _mean(metadata, item)
        write_parameters(made, params, kept)
    leaves = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"{target}: {told}, {leaves:,} parameters")


def _check_alike(
    first: pathlib.Path, other: pathlib.Path, metadata: dict[pathlib.Path, dict[str, Any]]
) -> None:
    """Raises UserError unless two checkpoints have parameters that can be added."""
    ours, theirs = metadata[first], metadata[other]
    fields = ours["encoder"].keys() | theirs["encoder"].keys()
    # How a run computes may change when it goes on; what its tokens see is part of the model.
    changed = sorted(
        field
        for field in fields - (OF_RUN - {"causal"})
        if ours["encoder"].get(field) != theirs["encoder"].get(field)
    )
    same = {
        "kinds": ours["kind"] == theirs["kind"],
        f"encoders ({', '.join(changed)})": not changed,
        "labels": ours.get("labels") == theirs.get("labels"),
        "tokenizers": ours["tokenizer"]["fingerprint"] == theirs["tokenizer"]["fingerprint"],
    }
    for what, is_same in same.items():
        if not is_same:
            raise UserError(f"{first} and {other} have different {what}: average those of one run")
    if problems := array_differences(arrays_in(other, _PARAMS), arrays_in(first, _PARAMS)):
        raise UserError(
            f"{other} does not fit {first}: {'; '.join(problems[:3])}: average those of one run"
        )


def _mean(metadata: dict[pathlib.Path, dict[str, Any]], item: str) -> Params:
    """Averages an item of checkpoints, array by array: sums in float64 and one division."""
    means = {}
    first = next(iter(metadata))
    for name, (_, dtype) in arrays_in(first, item).items():
        total = sum(
            read_array(checkpoint, item, name, own).astype(np.float64)
            for checkpoint, own in metadata.items()
        )
        means[name] = np.asarray(total / len(metadata), dtype)
    return unflatten_dict(means, sep="/")
