"""What would make a run fit: changes of the config, and which of them are worth compiling."""

import copy
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from bert_jax.config import ComputeType, PretrainConfig, Remat

Overrides = dict[str, Any]  # dotted field -> value

_ENOUGH = 2  # changes to name
_ATTEMPTS = 2  # settings of a kind to try out, before it is given up


class Change(NamedTuple):
    """A change of the config.

    Attributes:
      overrides: the fields.
      keeps: the share of the temporaries that is left, about.
    """

    overrides: Overrides
    keeps: float


def changes(config: PretrainConfig, devices: int, phase: int, rows: int) -> list[list[Change]]:
    """Lists what can be changed: for each kind of change its settings, the mildest first.

    The kinds that cost least come first: those that change what is learned are the last.

    Args:
      config: of the run.
      devices: in the mesh.
      phase: that does not fit, from 0.
      rows: in a batch of it.
    """
    mesh, parts = config.mesh, config.micro_batches
    data = mesh.data or devices // (mesh.fsdp * mesh.tensor)
    own_rows = rows // (data * mesh.fsdp * parts)  # of a group of devices, at a time

    kinds: list[list[Change]] = [[] for _ in range(5)]
    types, in_parts, again, split, smaller = kinds
    if config.encoder.compute_type is ComputeType.FLOAT32:
        types.append(Change({"encoder.compute_type": ComputeType.BFLOAT16}, 0.6))
    for factor in _powers_of_two(own_rows):
        in_parts.append(Change({"micro_batches": parts * factor}, 1 / factor))
    if config.encoder.remat is Remat.NONE:
        again.append(Change({"encoder.remat": Remat.PRODUCTS}, 0.5))
    if config.encoder.remat is not Remat.INPUTS:
        again.append(Change({"encoder.remat": Remat.INPUTS}, 0.2))
    for factor in _powers_of_two(data):
        overrides: Overrides = {"mesh.fsdp": mesh.fsdp * factor}
        if mesh.data:
            overrides["mesh.data"] = data // factor
        split.append(Change(overrides, 1.0))
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
    """Looks for two changes, or pairs of changes, that make a run fit.

    Args:
      kinds: from `changes`.
      should_fit: whether a changed run should fit, by an estimate: overrides and the share of the
        temporaries that is left. It is cheap.
      try_out: what the changed run costs; None where it does not fit after all. It is dear.

    Returns:
      Costs and overrides, the cheapest first.
    """
    found: list[tuple[float, Overrides]] = []
    for settings in _candidates(kinds, should_fit):
        # One that holds another which fits already is no news.
        news = [each for each in settings if not any(f.items() <= each.items() for _, f in found)]
        for overrides in news[:_ATTEMPTS]:
            if (cost := try_out(overrides)) is not None:
                found.append((cost, overrides))
                break
        if len(found) == _ENOUGH:
            break
    return sorted(found, key=lambda each: each[0])


def _candidates(
    kinds: list[list[Change]], should_fit: Callable[[Overrides, float], bool]
) -> Iterator[list[Overrides]]:
    """Yields, for each kind of change and then for each two, the settings that should fit."""
    for count in (1, 2):
        for chosen in itertools.combinations(kinds, count):
            settings = []
            for parts in itertools.product(*chosen):
                overrides, keeps = {}, 1.0
                for part in parts:
                    overrides |= part.overrides
                    keeps *= part.keeps
                if should_fit(overrides, keeps):
                    settings.append(overrides)
            yield settings


def changed(config: PretrainConfig, overrides: Overrides) -> PretrainConfig:
    """Returns a copy of a config with fields set, such as `phases[0].batch_size`."""
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
    """Writes overrides as a user types them."""
    return " ".join(
        f"--config.{name}={getattr(value, 'value', value)}" for name, value in overrides.items()
    )
