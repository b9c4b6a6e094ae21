"""What Google Cloud calls the slices that `plan --topology` names, and how they lie on hosts."""

import math
from typing import NamedTuple

from bert_jax.errors import UserError
from experiments.study import Size


class Slice(NamedTuple):
    """A TPU slice as Google Cloud has it.

    Attributes:
      accelerator_type: of the Cloud TPU API.
      runtime_version: of its virtual machines, that is meant for JAX.
      node_label: of GKE's nodes, cloud.google.com/gke-tpu-accelerator.
      topology: of the chips; GKE's label cloud.google.com/gke-tpu-topology.
      hosts: virtual machines.
      chips: of each.
    """

    accelerator_type: str
    runtime_version: str
    node_label: str
    topology: str
    hosts: int
    chips: int


# Cloud TPU documentation, "TPU v4", "v5e", "v5p" and "v6e": the names of v4 and v5p count their
# TensorCores, two a chip, the others chips; "TPU software versions": what JAX wants. GKE
# documentation, "Plan TPUs in GKE": the labels. Read in 2026.
_GENERATIONS = {
    "v4": ("v4", 2, "tpu-ubuntu2204-base", "tpu-v4-podslice"),
    "v5e": ("v5litepod", 1, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice"),
    "v5p": ("v5p", 2, "v2-alpha-tpuv5", "tpu-v5p-slice"),
    "v6e": ("v6e", 1, "v2-alpha-tpuv6e", "tpu-v6e-slice"),
}


def slice_of(size: Size) -> Slice:
    """Returns the slice that a run of this size has.

    A virtual machine of a slice has four chips; only v5e and v6e have slices of one, four and eight
    chips on one machine (machine types ...-1t, -4t and -8t).

    Raises:
      UserError: if the size names none, or one that does not exist or has other hosts.
    """
    from bert_jax.planning.topologies import SLICES  # imports JAX, which other backends do without

    known = ", ".join(SLICES)
    if not size.accelerator:
        raise UserError(f"accelerator='' of the size: name a slice of {known}, such as 'v5e:4x4'")
    generation, _, topology = size.accelerator.partition(":")
    if topology not in SLICES.get(generation, ()):
        shapes = ", ".join(SLICES.get(generation, ()))
        raise UserError(
            f"accelerator={size.accelerator!r} of the size does not exist: "
            + (f"the slices of {generation} are {shapes}" if shapes else f"there are {known}")
        )
    chips = math.prod(int(side) for side in topology.split("x"))
    one_host = 8 if generation in ("v5e", "v6e") else 4
    hosts = 1 if chips <= one_host else chips // 4
    if size.hosts != hosts:
        raise UserError(
            f"hosts={size.hosts} of the size, and {size.accelerator} has {hosts}: set hosts={hosts}"
        )
    name, units, runtime, label = _GENERATIONS[generation]
    return Slice(f"{name}-{chips * units}", runtime, label, topology, hosts, chips // hosts)
