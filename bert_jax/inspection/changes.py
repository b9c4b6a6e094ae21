"""What moved between two checkpoints, and between the steps of a run."""

import itertools
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from bert_jax.checkpoints.checkpoint import FOLDER, differences, find_checkpoint, steps_in
from bert_jax.errors import UserError
from bert_jax.inspection.stored import StoredCheckpoint
from bert_jax.inspection.tables import Table, by_layers

_Key = Callable[[str, int | None], dict[str, Any]]


def changes(
    before: StoredCheckpoint, after: StoredCheckpoint, *, match: str = "", by_array: bool = False
) -> Table:
    """Tells how far the parameters moved from one checkpoint to another.

    Groups that only one of them has, such as the heads after fine-tuning, are left out
    (`only_in_one` names them). Two arrays at a time are in memory.

    Args:
      before: a checkpoint.
      after: another, of an encoder of the same shape.
      match: a regular expression that is searched in the names; '': all.
      by_array: a row for each array of each layer, rather than for each layer.

    Returns:
      `part` ('embeddings', 'layer 1' from below, 'pooler'; by array its `layer` and `name`);
      `relative_change`, the norm of the difference over the norm before; `cosine` of before and
      after; `count` of parameters.

    Raises:
      UserError: if they have no array in common, or one of another shape.
    """
    names = [name for name in before.params.matching(match) if name in after.params]
    if not names:
        raise UserError(f"{before.path} and {after.path} have no parameters in common")
    shapes = ({name: each.params.shapes[name] for name in names} for each in (before, after))
    if problems := differences(*shapes):
        raise UserError(f"{before.path} does not compare with {after.path}: {problems[0]}")
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
    """Names the parameter groups that only the first checkpoint has, and only the second."""
    ours, theirs = (
        {name.partition("/")[0]: None for name in each.params} for each in (before, after)
    )
    return [name for name in ours if name not in theirs], [n for n in theirs if n not in ours]


def changes_by_step(
    workdir: str | os.PathLike[str], *, match: str = "", by_array: bool = False
) -> Table:
    """Tells how far the parameters moved from each checkpoint of a run to the next.

    Args:
      workdir: of the run.
      match: as in `changes`.
      by_array: as in `changes`.

    Returns:
      `from` and `to`, steps, and the columns of `changes`.

    Raises:
      UserError: if the run has fewer than two checkpoints.
    """
    run = find_checkpoint(workdir).parents[1]
    steps = steps_in(run)
    if len(steps) < 2:
        raise UserError(
            f"{run} has one checkpoint, and a change needs two: raise --config.keep_checkpoints,"
            " or compare with another run"
        )
    opened = {step: StoredCheckpoint(run / FOLDER / str(step)) for step in steps}
    return Table(
        {"from": one, "to": other} | row
        for one, other in itertools.pairwise(steps)
        for row in changes(opened[one], opened[other], match=match, by_array=by_array)
    )
