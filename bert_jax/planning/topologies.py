"""Devices to compile for, by name: TPU slices and GPUs, which need not exist, and the CPU."""

import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from bert_jax.errors import UserError
from bert_jax.planning.gpus import GPUS, check_gpu_compiler, gpu_devices

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
_CUBES += ("8x16x16", "16x16x16")

# The slices of each generation in Google Cloud's documentation.
SLICES = {"v4": _CUBES, "v5e": _FLAT, "v5p": (*_CUBES, "16x16x24"), "v6e": _FLAT}

# Chips with two cores, which JAX shows as one device on the machine itself.
_TWO_CORES = ("v4", "v5p")
_MOST_DEVICES = 4096  # of a CPU, or GPUs

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
    """Parses a comma-separated list of topologies, such as "v5e:4x4,h100:2x8,cpu:8".

    Raises:
      UserError: if there is none, or one does not exist; the message lists those that do.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError("--topology is not set: for example --topology=v5e:4x4")
    for name in names:
        kind, _, shape = name.partition(":")
        if kind == "cpu":
            _check_cpu(name, shape)
        elif kind in GPUS:
            _check_gpu(name, kind, shape)
        elif kind not in SLICES:
            raise UserError(
                f"--topology={name}: {kind!r} is unknown: choose one of {', '.join(SLICES)} with a"
                f" shape, such as v5e:4x4, one of {', '.join(GPUS)} with a number of devices, such"
                " as h100:8, or cpu:N"
            )
        elif shape not in SLICES[kind]:
            raise UserError(
                f"--topology={name} does not exist: choose one of the slices of {kind}:"
                f" {', '.join(SLICES[kind])}"
            )
    return names


def _check_cpu(name: str, shape: str) -> None:
    if not re.fullmatch(r"[1-9]\d*", shape):
        raise UserError(f"--topology={name}: give a number of devices, such as cpu:8")
    if int(shape) > _MOST_DEVICES:
        raise UserError(f"--topology={name}: give at most cpu:{_MOST_DEVICES}")


def _check_gpu(name: str, kind: str, shape: str) -> None:
    most = GPUS[kind].per_host
    if not re.fullmatch(r"([1-9]\d*x)?[1-9]\d*", shape):
        raise UserError(
            f"--topology={name}: give a number of GPUs, such as {kind}:{most}, or of hosts and of"
            f" GPUs on each, such as {kind}:2x{most}"
        )
    hosts, each = _hosts(shape)
    if each > most:
        raise UserError(
            f"--topology={name}: a host has at most {most} of them: name the hosts, such as"
            f" {kind}:{-(-each // most)}x{most}"
        )
    if hosts * each > _MOST_DEVICES:
        raise UserError(f"--topology={name}: give at most {_MOST_DEVICES} devices")


def _hosts(shape: str) -> tuple[int, int]:
    """Returns the hosts and the GPUs of each: of "2x8", or of "8" for one host."""
    *hosts, each = map(int, shape.split("x"))
    return (hosts[0] if hosts else 1), each


def only_compile(names: Sequence[str]) -> None:
    """Sets this process up to compile for topologies; call it before JAX is used.

    Raises:
      UserError: if the compiler of a device that is named is not installed.
    """
    _check_compiler(names)
    for name, value in _TPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    counts = [int(name.removeprefix("cpu:")) for name in names if name.startswith("cpu:")]
    jax.config.update("jax_platforms", "cpu")
    # Programs for devices that are not there cannot be read back.
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_num_cpu_devices", max([1, *counts]))


def _check_compiler(names: Sequence[str]) -> None:
    for name in names:
        kind = name.partition(":")[0]
        if kind in GPUS:
            check_gpu_compiler(name)
        elif kind in SLICES and importlib.util.find_spec("libtpu") is None:
            raise UserError(
                f"--topology={name} needs libtpu, the compiler for TPUs (no TPU is needed):"
                " install it with pip install -e '.[plan]'"
            )


def topology_devices(name: str) -> list[Any]:
    """Returns the devices of a topology; only those of the CPU can also run a program.

    Args:
      name: from `parse_topologies`, after `only_compile`.
    """
    kind, _, shape = name.partition(":")
    if kind == "cpu":
        return jax.devices("cpu")[: int(shape)]
    if kind in GPUS:
        return gpu_devices(GPUS[kind], *_hosts(shape))
    options: dict[str, Any] = {}
    if kind in _TWO_CORES:
        options["chip_config_name"] = "megacore"
    if shape == "1x1":
        options["chips_per_host_bounds"] = (1, 1, 1)
    return list(topologies.get_topology_desc(name, platform="tpu", **options).devices)
