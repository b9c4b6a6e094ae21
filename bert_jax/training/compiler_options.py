"""Options of XLA by platform: each has its reason, and was kept because it paid."""

from jax.sharding import Mesh

_OPTIONS: dict[str, dict[str, bool | str]] = {
    "cpu": {
        # The new parameters are computed from the old moments, which the new ones then overwrite.
        # Without a look at the order of both, XLA copies all moments first: 0.9 GB in base.
        "xla_cpu_copy_insertion_use_region_analysis": True,
        # Products already take all cores, so nothing is won by an order that lets operations run
        # beside each other; one that keeps few values alive saves a tenth of the memory.
        "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    },
}


def compiler_options(mesh: Mesh) -> dict[str, bool | str]:
    """Returns the options for programs on a mesh's devices, as `jax.jit` takes them."""
    return dict(_OPTIONS.get(mesh.devices.flat[0].platform, {}))
