"""Changes of the parameters between two checkpoints, or along the steps of a run."""

import itertools
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from bert_jax.checkpoints.checkpoint import FOLDER, array_differences, find_checkpoint, steps_in
from bert_jax.errors import UserError
from bert_jax.inspection.stored import StoredCheckpoint
from bert_jax.inspection.tables import Table, by_layers

_Key = Callable[[str, int | None], dict[str, Any]]


def parameter_changes(
    before: StoredCheckpoint, after: StoredCheckpoint, *, match: str = "", by_array: bool = False
) -> Table:
    """Measures how far the parameters moved from one checkpoint to another.

    Groups that only one checkpoint has, such as heads after fine-tuning, are left out; see
    `only_in_one`. Two arrays at a time are in memory.

    Args:
      before: a checkpoint.
      after: another, whose encoder has the same shape.
      match: regular expression searched in the names of the arrays; '': all.
      by_array: one row for each array of each layer, instead of one for each layer.

    Returns:
      Rows of `part` ('embeddings', 'layer 1' for the lowest, 'pooler'; by array `layer` and
      `name`); `relative_change`, the norm of the difference over the norm before; `cosine`
      between before and after; `count` of parameters.

    Raises:
      UserError: if the checkpoints have no array in common, or one differs in shape.
    """
    names = [name for name in before.params.matching(match) if name in after.params]
    if not names:
        raise UserError(
            f"{before.path} and {after.path} have no parameters in common: compare checkpoints of"
            " one model, or widen match"
        )
    shapes = ({name: each.params.shapes[name] for name in names} for each in (before, after))
    if problems := array_differences(*shapes):
        raise UserError(
            f"{before.path} and {after.path} differ in shape: {problems[0]}; compare checkpoints of"
            " one model"
        )
    key: _Key = _array_key if by_array else _part_key
    sums: dict[tuple, tuple[dict[str, Any], np.ndarray]] = {}
    for name in names:
        parts = zip(
            by_layers(name, before.params[name]), by_layers(name, after.params[name]), strict=True
        )
        for (layer, old), (_, new) in parts:
            labels = key(name, layer)
            at = tuple(labels.values())
            total = sums.get(at, (labels, np.zeros(5)))[1]
            sums[at] = labels, total + _products(old.astype(np.float64), new.astype(np.float64))
    return Table(labels | _measures(total) for labels, total in sums.values())


def _part_key(name: str, layer: int | None) -> dict[str, Any]:
    if layer:
        return {"part": f"layer {layer}"}
    return {"part": name.removeprefix("encoder/").partition("/")[0]}


def _array_key(name: str, layer: int | None) -> dict[str, Any]:
    return {"layer": layer, "name": name}


def _products(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    pairs = (new - old, new - old), (old, old), (new, new), (old, new)
    return np.array([*(float(np.vdot(a, b)) for a, b in pairs), old.size])


def _measures(total: np.ndarray) -> dict[str, Any]:
    moved, old, new, both, count = total.tolist()
    return {
        "relative_change": math.sqrt(moved / old) if old else (math.inf if moved else 0.0),
        "cosine": both / math.sqrt(old * new) if old and new else 0.0,
        "count": int(count),
    }


def only_in_one(before: StoredCheckpoint, after: StoredCheckpoint) -> tuple[list[str], list[str]]:
    """Returns the groups that only the first checkpoint has, and those only the second has."""
    ours, theirs = (
        {name.partition("/")[0]: None for name in each.params} for each in (before, after)
    )
    return [name for name in ours if name not in theirs], [n for n in theirs if n not in ours]


def changes_by_step(
    workdir: str | os.PathLike[str], *, match: str = "", by_array: bool = False
) -> Table:
    """Measures how far the parameters moved from each checkpoint of a run to the next.

    Args:
      workdir: directory of the run.
      match: as in `parameter_changes`.
      by_array: as in `parameter_changes`.

    Returns:
      The columns of `parameter_changes` after `from` and `to`, two steps.

    Raises:
      UserError: if the run has fewer than two checkpoints.
    """
    run = find_checkpoint(workdir).parents[1]
    steps = steps_in(run)
    if len(steps) < 2:
        raise UserError(
            f"{run} has one checkpoint, but a comparison needs two: raise"
            " --config.keep_checkpoints, or name a second run"
        )
    opened = {step: StoredCheckpoint(run / FOLDER / str(step)) for step in steps}
    return Table(
        {"from": one, "to": other} | row
        for one, other in itertools.pairwise(steps)
        for row in parameter_changes(opened[one], opened[other], match=match, by_array=by_array)
    )
