"""Google Cloud's names for the slices of `plan --topology`, with their hosts and chips."""

import math
from typing import NamedTuple

from bert_jax.errors import UserError
from experiments.study import Size


class Slice(NamedTuple):
    """A TPU slice in Google Cloud.

    Attributes:
      accelerator_type: in the Cloud TPU API.
      runtime_version: of its virtual machines, for JAX.
      node_label: GKE's node label cloud.google.com/gke-tpu-accelerator.
      topology: GKE's node label cloud.google.com/gke-tpu-topology, such as "4x4".
      hosts: number of virtual machines.
      chips: of each virtual machine.
    """

    accelerator_type: str
    runtime_version: str
    node_label: str
    topology: str
    hosts: int
    chips: int


# (prefix, units per chip, runtime, node label). Prefixes: Cloud TPU documentation, "TPU v4", "v5e",
# "v5p" and "v6e"; v4 and v5p count TensorCores, two per chip, the others chips. Runtimes for JAX:
# "TPU software versions". Labels: GKE documentation, "Plan TPUs in GKE". Read in 2026.
_GENERATIONS = {
    "v4": ("v4", 2, "tpu-ubuntu2204-base", "tpu-v4-podslice"),
    "v5e": ("v5litepod", 1, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice"),
    "v5p": ("v5p", 2, "v2-alpha-tpuv5", "tpu-v5p-slice"),
    "v6e": ("v6e", 1, "v2-alpha-tpuv6e", "tpu-v6e-slice"),
}


def slice_of(size: Size) -> Slice:
    """Returns the slice for a run of this size.

    A virtual machine of a slice has four chips; only v5e and v6e have slices of one, four and eight
    chips on one machine (machine types ...-1t, -4t and -8t).

    Raises:
      UserError: if the size names no slice, or one that does not exist or has another number of
        hosts.
    """
    from bert_jax.planning.topologies import SLICES  # imports JAX, which other backends do not need

    known = ", ".join(SLICES)
    if not size.accelerator:
        raise UserError(f"accelerator='' of the size: name a slice of {known}, such as 'v5e:4x4'")
    generation, _, topology = size.accelerator.partition(":")
    if topology not in SLICES.get(generation, ()):
        shapes = ", ".join(SLICES.get(generation, ()))
        raise UserError(
            f"accelerator={size.accelerator!r} of the size does not exist: choose one of "
            + (f"the slices of {generation}: {shapes}" if shapes else f"the slices of {known}")
        )
    chips = math.prod(int(side) for side in topology.split("x"))
    one_host = 8 if generation in ("v5e", "v6e") else 4
    hosts = 1 if chips <= one_host else chips // 4
    if size.hosts != hosts:
        raise UserError(
            f"hosts={size.hosts} of the size, but {size.accelerator} has {hosts}: set hosts={hosts}"
        )
    name, units, runtime, label = _GENERATIONS[generation]
    return Slice(f"{name}-{chips * units}", runtime, label, topology, hosts, chips // hosts)
