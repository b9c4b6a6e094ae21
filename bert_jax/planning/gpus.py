"""NVIDIA GPUs to compile for where there is none: their description for XLA, and JAX's memory.

XLA compiles for a GPU from a target config, a text that says what a driver would tell of it.
"""

import dataclasses
import importlib.metadata
import os
from typing import Any

from jax.experimental import topologies

from bert_jax.distributed.chips import Chip, find_chip
from bert_jax.errors import UserError

# Distributions that have the compiler: XLA's, NVIDIA's assembler ptxas, and its library libdevice.
_COMPILER = ("jax-cuda13-plugin", "jax-cuda13-pjrt", "nvidia-cuda-nvcc", "nvidia-nvvm")
_CUDNN = "nvidia-cudnn-cu13"
_MEMORY_SHARES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")  # new, old name
_DEFAULT_SHARE = 0.75  # JAX's documentation, "GPU memory allocation"


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A kind of GPU, as XLA wants it described beside the figures of its `Chip`.

    Attributes:
      device_kind: JAX's name of it.
      capability: CUDA's compute capability, major and minor.
      cores: streaming multiprocessors.
      lanes: float32 units of a core.
      shared_memory: bytes of a core.
      cache: bytes of the L2 cache.
      clock: GHz, at most.
      per_host: most GPUs of a host.
    """

    device_kind: str
    capability: tuple[int, int]
    cores: int
    lanes: int
    shared_memory: int
    cache: int
    clock: float
    per_host: int = 8


_KIB, _MIB = 2**10, 2**20

# Topology -> GPU, all with SXM sockets. NVIDIA's white papers on the Ampere, Hopper and Blackwell
# architectures; shared memory: the CUDA programming guide's table of compute capabilities. Cores,
# cache and clock of Blackwell are what CUDA tells of such GPUs.
GPUS = {
    "a100-40": Gpu("NVIDIA A100-SXM4-40GB", (8, 0), 108, 64, 164 * _KIB, 40 * _MIB, 1.41),
    "a100": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 164 * _KIB, 40 * _MIB, 1.41),
    "h100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 228 * _KIB, 50 * _MIB, 1.98),
    "h200": Gpu("NVIDIA H200", (9, 0), 132, 128, 228 * _KIB, 50 * _MIB, 1.98),
    "b200": Gpu("NVIDIA B200", (10, 0), 148, 128, 228 * _KIB, 126 * _MIB, 1.965),
    "gb200": Gpu("NVIDIA GB200", (10, 0), 152, 128, 228 * _KIB, 126 * _MIB, 2.062, 4),
}

# Limits that all of them share: the CUDA programming guide's table of compute capabilities. The
# version of cuDNN is the oldest one that knows Blackwell.
_TARGET = """
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  core_count: {cores}
  fpus_per_core: {lanes}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared_memory}
  shared_memory_per_block_optin: {shared_memory_of_block}
  l2_cache_size: {cache}
  memory_bandwidth: {bandwidth:.0f}
  clock_rate_ghz: {clock}
  device_memory_size: {memory:.0f}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 7 }}
device_description_str: "{device_kind}"
"""


def target_config(gpu: Gpu) -> str:
    """Returns the text that describes a GPU to XLA.

    Raises:
      ValueError: if a figure is missing or 0; XLA would compile for a GPU without it.
    """
    chip = find_chip(gpu.device_kind)
    if chip is None:
        raise ValueError(f"{gpu.device_kind!r} is not in distributed/chips.py")
    figures = {
        **dataclasses.asdict(gpu),
        "major": gpu.capability[0],
        "shared_memory_of_block": gpu.shared_memory - _KIB,  # CUDA keeps one
        "bandwidth": chip.memory_bandwidth,
        "memory": chip.memory_bytes,
    }
    if missing := [name for name, figure in figures.items() if not figure]:
        raise ValueError(f"{gpu.device_kind}: {', '.join(missing)} must be given")
    return _TARGET.format(**figures, minor=gpu.capability[1])


def gpu_devices(gpu: Gpu, hosts: int, each: int) -> list[Any]:
    """Returns GPUs to compile for, after `topologies.only_compile`.

    Args:
      gpu: their kind.
      hosts: number.
      each: GPUs of a host.

    Raises:
      RuntimeError: if XLA understood less than it was told.
    """
    devices = topologies.get_topology_desc(
        platform="cuda", topology=f"1x{hosts}x{each}", target_config=target_config(gpu)
    ).devices
    capability = ".".join(map(str, gpu.capability))
    for device in devices:
        told = device.device_kind, device.core_count, device.compute_capability
        if told != (gpu.device_kind, gpu.cores, capability):
            raise RuntimeError(f"XLA takes {gpu.device_kind} for {told}: install requirements.txt")
    return list(devices)


def check_gpu_compiler(name: str, *, fused: bool = False) -> None:
    """Raises UserError unless the compiler for GPUs is installed.

    Args:
      name: the topology.
      fused: True: cuDNN's attention is to be compiled; JAX asks for the version of cuDNN.
    """
    missing = [each for each in _COMPILER if not _is_installed(each)]
    if missing:
        raise UserError(
            f"--topology={name} needs {', '.join(missing)} (no GPU and no driver are needed):"
            " install them with pip install -e '.[plan]'"
        )
    if fused and not _is_installed(_CUDNN):
        raise UserError(
            f"encoder.attention=fused on {name} needs {_CUDNN}, whose version JAX asks for:"
            f" pip install {_CUDNN}, or plan with --config.encoder.attention=products"
        )


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def memory_share() -> float:
    """Returns the share of a GPU's memory that JAX lets a program have, as the environment says.

    Raises:
      UserError: if the variable is not above 0 and at most 1.
    """
    name = next((name for name in _MEMORY_SHARES if os.environ.get(name)), None)
    if name is None:
        return _DEFAULT_SHARE
    given = os.environ[name]
    try:
        share = float(given)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UserError(f"{name}={given} must be above 0 and at most 1, such as 0.9")
    return share


def caveats(chip: Chip) -> list[str]:
    """Returns the lines that say what a plan for a GPU does not prove."""
    return [
        f"JAX lets a program have {memory_share():g} of the memory of {chip.name}:"
        f" {_MEMORY_SHARES[0]} sets it.",
        "Compiled without a GPU, so these are not proven: the kernels, which nothing tuned; that",
        "cuDNN has a plan for its calls (fused attention), and its workspace; any time. An L2",
        "cache saves some of the traffic. Not in the memory: the program itself, the CUDA context,",
        "and the buffers of NCCL and cuBLAS.",
    ]
