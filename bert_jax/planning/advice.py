"""Changes of a config that make a run fit into memory, and the search for the cheapest two."""

import copy
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from bert_jax.config import ComputeType, PretrainConfig, Remat

Overrides = dict[str, Any]  # dotted field -> value

_ENOUGH = 2  # changes to find
_ATTEMPTS = 2  # settings of a kind to compile before giving it up


class Change(NamedTuple):
    """A change of the config.

    Attributes:
      overrides: the fields.
      keeps: approximate share of the temporaries that remains, 0 to 1.
    """

    overrides: Overrides
    keeps: float


def possible_changes(
    config: PretrainConfig, devices: int, phase: int, rows: int
) -> list[list[Change]]:
    """Lists the changes that save memory, by kind; the settings of a kind start with the mildest.

    The cheapest kinds come first; those that change the training itself come last.

    Args:
      config: of the run.
      devices: number in the mesh.
      phase: the one that does not fit, from 0.
      rows: of its global batch.
    """
    mesh, micro_batches = config.mesh, config.micro_batches
    data = mesh.data or devices // (mesh.fsdp * mesh.tensor)
    own_rows = rows // (data * mesh.fsdp * micro_batches)  # of a row group, per micro-batch

    kinds: list[list[Change]] = [[] for _ in range(5)]
    types, accumulation, remat, sharded, smaller = kinds
    if config.encoder.compute_type is ComputeType.FLOAT32:
        types.append(Change({"encoder.compute_type": ComputeType.BFLOAT16}, 0.6))
    for factor in _powers_of_two(own_rows):
        accumulation.append(Change({"micro_batches": micro_batches * factor}, 1 / factor))
    if config.encoder.remat is Remat.NONE:
        remat.append(Change({"encoder.remat": Remat.PRODUCTS}, 0.5))
    if config.encoder.remat is not Remat.INPUTS:
        remat.append(Change({"encoder.remat": Remat.INPUTS}, 0.2))
    for factor in _powers_of_two(data):
        overrides: Overrides = {"mesh.fsdp": mesh.fsdp * factor}
        if mesh.data:
            overrides["mesh.data"] = data // factor
        sharded.append(Change(overrides, 1.0))
    field = f"phases[{phase}].batch_size" if config.phases else "batch_size"
    for factor in _powers_of_two(own_rows):
        smaller.append(Change({field: rows // factor}, 1 / factor))
    return [kind for kind in kinds if kind]


def _powers_of_two(most: int) -> list[int]:
    """Lists the powers of two above 1 that divide a number."""
    return [2**power for power in range(1, most.bit_length()) if most % 2**power == 0]


def find_changes(
    kinds: list[list[Change]],
    should_fit: Callable[[Overrides, float], bool],
    try_out: Callable[[Overrides], float | None],
) -> list[tuple[float, Overrides]]:
    """Finds up to two changes, or pairs of changes, that make a run fit.

    Args:
      kinds: from `possible_changes`.
      should_fit: (overrides, share of the temporaries that remains) -> True if the run should fit,
        by an estimate; fast.
      try_out: overrides -> cost of the changed run for as many tokens, or None if it does not fit;
        slow, it compiles.

    Returns:
      Costs and overrides, the cheapest first.
    """
    found: list[tuple[float, Overrides]] = []
    for settings in _candidates(kinds, should_fit):
        # Skip settings that only add to one that fits already.
        new = [each for each in settings if not any(f.items() <= each.items() for _, f in found)]
        for overrides in new[:_ATTEMPTS]:
            if (cost := try_out(overrides)) is not None:
                found.append((cost, overrides))
                break
        if len(found) == _ENOUGH:
            break
    return sorted(found, key=lambda each: each[0])


def _candidates(
    kinds: list[list[Change]], should_fit: Callable[[Overrides, float], bool]
) -> Iterator[list[Overrides]]:
    """Yields the settings that should fit: for each kind of change, then for each pair of kinds."""
    for count in (1, 2):
        for chosen in itertools.combinations(kinds, count):
            settings = []
            for changes in itertools.product(*chosen):
                overrides, keeps = {}, 1.0
                for change in changes:
                    overrides |= change.overrides
                    keeps *= change.keeps
                if should_fit(overrides, keeps):
                    settings.append(overrides)
            yield settings


def changed(config: PretrainConfig, overrides: Overrides) -> PretrainConfig:
    """Returns a copy of a config with some fields set, such as `phases[0].batch_size`."""
    config = copy.deepcopy(config)
    for path, value in overrides.items():
        *groups, field = path.split(".")
        group: Any = config
        for part in groups:
            name, number = re.fullmatch(r"(\w+)(?:\[(\d+)\])?", part).groups()  # pyright: ignore
            group = getattr(group, name)
            group = group[int(number)] if number else group
        setattr(group, field, value)
    return config


def as_flags(overrides: Overrides) -> str:
    """Formats overrides as flags: "--config.micro_batches=2 --config.mesh.fsdp=4"."""
    return " ".join(
        f"--config.{name}={getattr(value, 'value', value)}" for name, value in overrides.items()
    )
