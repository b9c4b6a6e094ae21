"""Devices to compile for, by name: TPU slices, which need not exist, and this machine's CPU."""

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

# The slices of each generation in Google Cloud's documentation.
SLICES = {"v4": _CUBES, "v5e": _FLAT, "v5p": (*_CUBES, "16x16x24"), "v6e": _FLAT}

# Chips with two cores, which JAX shows as one device on the machine itself.
_TWO_CORES = ("v4", "v5p")
_MOST_CPU_DEVICES = 4096

# Without these the TPU compiler queries the network for the machine's type and logs warnings, and
# only one process at a time can load it.
_TPU_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def parse_topologies(text: str) -> list[str]:
    """Parses a comma-separated list of topologies, such as "v5e:4x4,cpu:8".

    Raises:
      UserError: if there is none, or one does not exist; the message lists those that do.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError("--topology is not set: for example --topology=v5e:4x4")
    for name in names:
        generation, _, shape = name.partition(":")
        if generation == "cpu" and re.fullmatch(r"[1-9]\d*", shape):
            if int(shape) > _MOST_CPU_DEVICES:
                raise UserError(f"--topology={name}: give at most cpu:{_MOST_CPU_DEVICES}")
        elif generation not in SLICES and generation != "cpu":
            raise UserError(
                f"--topology={name}: {generation!r} is unknown: choose one of"
                f" {', '.join(SLICES)} with a shape, such as v5e:4x4, or cpu:N"
            )
        elif generation == "cpu":
            raise UserError(f"--topology={name}: give a number of devices, such as cpu:8")
        elif shape not in SLICES[generation]:
            raise UserError(
                f"--topology={name} does not exist: choose one of the slices of {generation}:"
                f" {', '.join(SLICES[generation])}"
            )
    return names


def only_compile(names: Sequence[str]) -> None:
    """Sets this process up to compile for topologies; call it before JAX is used.

    Raises:
      UserError: if a TPU is named and its compiler is not installed.
    """
    _check_compiler(names)
    for name, value in _TPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    counts = [int(name.removeprefix("cpu:")) for name in names if name.startswith("cpu:")]
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # cannot reload programs for a TPU
    jax.config.update("jax_num_cpu_devices", max([1, *counts]))


def _check_compiler(names: Sequence[str]) -> None:
    wanted = next((name for name in names if not name.startswith("cpu:")), None)
    if wanted and importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--topology={wanted} needs libtpu, the compiler for TPUs (no TPU is needed): install"
            " it with pip install -e '.[plan]'"
        )


def topology_devices(name: str) -> list[Any]:
    """Returns the devices of a topology; those of a TPU can be compiled for, not run on.

    Args:
      name: from `parse_topologies`, after `only_compile`.
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
