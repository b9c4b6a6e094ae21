"""Devices to compile for, by name: TPU slices that need not be there, and this machine's CPU."""

import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from bert_jax.errors import UserError

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
_CUBES += ("8x16x16", "16x16x16")

# The slices of each generation that Google Cloud lists in its documentation.
SLICES = {"v4": _CUBES, "v5e": _FLAT, "v5p": (*_CUBES, "16x16x24"), "v6e": _FLAT}

# A chip of these has two cores that work as one device, as JAX has it on the machine itself.
_TWO_CORES = ("v4", "v5p")
_MOST_CPU_DEVICES = 4096

# Without these the TPU compiler asks the network which machine this is, and complains; and it
# refuses to work for two processes at once, as chips would.
_TPU_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def parse_topologies(text: str) -> list[str]:
    """Reads the names of a flag, separated by commas, and says what is wrong with one.

    Raises:
      UserError: for a name that does not exist, with those that do.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError("--topology is not set: for example --topology=v5e:4x4")
    for name in names:
        generation, _, shape = name.partition(":")
        if generation == "cpu" and re.fullmatch(r"[1-9]\d*", shape):
            if int(shape) > _MOST_CPU_DEVICES:
                raise UserError(f"--topology={name}: {_MOST_CPU_DEVICES} CPU devices at most")
        elif generation not in SLICES and generation != "cpu":
            raise UserError(
                f"--topology={name}: there is no {generation!r}: choose one of"
                f" {', '.join(SLICES)} with a shape, such as v5e:4x4, or cpu:N"
            )
        elif generation == "cpu":
            raise UserError(f"--topology={name}: give a number of devices, such as cpu:8")
        elif shape not in SLICES[generation]:
            raise UserError(
                f"--topology={name} does not exist: the slices of {generation} are"
                f" {', '.join(SLICES[generation])}"
            )
    return names


def only_compile(names: Sequence[str]) -> None:
    """Sets this process up to compile for topologies; to be called before JAX is used.

    Raises:
      UserError: where a TPU is named and its compiler is not installed.
    """
    _check_compiler(names)
    for name, value in _TPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    counts = [int(name.removeprefix("cpu:")) for name in names if name.startswith("cpu:")]
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # it cannot read what is for a TPU
    jax.config.update("jax_num_cpu_devices", max([1, *counts]))


def _check_compiler(names: Sequence[str]) -> None:
    wanted = next((name for name in names if not name.startswith("cpu:")), None)
    if wanted and importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--topology={wanted} needs libtpu, the compiler for TPUs (no TPU is needed):"
            " pip install -e '.[plan]'"
        )


def topology_devices(name: str) -> list[Any]:
    """Returns the devices of a topology; those of a TPU are described, not there.

    Args:
      name: from `parse_topologies`, of a compiler that is installed.
    """
    generation, _, shape = name.partition(":")
    if generation == "cpu":
        return jax.devices("cpu")[: int(shape)]
    options: dict[str, Any] = {}
    if generation in _TWO_CORES:
        options["chip_config_name"] = "megacore"
    if shape == "1x1":
        options["chips_per_host_bounds"] = (1, 1, 1)
    return list(topologies.get_topology_desc(name, platform="tpu", **options).devices)
