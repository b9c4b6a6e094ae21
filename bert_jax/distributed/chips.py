"""Peak figures and prices of chips, for estimates of time and cost, and for utilisation."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak figures of a chip.

    Attributes:
      name: as people call it.
      flops: bfloat16 operations (products and additions) a second, without sparsity.
      memory_bytes: main memory; of a TPU, what a program may use of it.
      memory_bandwidth: bytes a second between main memory and chip.
      link_bandwidth: bytes a second that the chip sends over all its links to other chips.
      price: dollars for an hour, on demand; None: not known.
      linked_hosts: hosts whose chips the links join. Between others runs a network.
      network_bandwidth: bytes a second that the chip sends over that network; None: the links join
        all chips.
      float32_flops: operations a second of float32, as JAX multiplies it by default: on these GPUs
        in TF32. None: as many as `flops`, as on TPU, where it multiplies in bfloat16.
    """

    name: str
    flops: float
    memory_bytes: float
    memory_bandwidth: float
    link_bandwidth: float
    price: float | None = None
    linked_hosts: int = 1
    network_bandwidth: float | None = None
    float32_flops: float | None = None


_GIB = 2.0**30

# TPUs: Google Cloud's documentation, "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e", key
# specifications, read in 2025. Google adds up both directions of the links (v5e 400, v5p 1200, v6e
# 800 GB/s); the table has half of that. Links of v4: Jouppi et al., "TPU v4: An Optically
# Reconfigurable Supercomputer" (2023), table 4: six links of 50 GB/s. Memory: the share that libtpu
# 0.0.42 leaves to a program (in its message "exceeds available HBM").
_V4 = Chip("TPU v4", 275e12, 30.75 * _GIB, 1200e9, 300e9)
_V5E = Chip("TPU v5e", 197e12, 15.75 * _GIB, 819e9, 200e9)
_V5P = Chip("TPU v5p", 459e12, 95.74 * _GIB, 2765e9, 600e9)
_V6E = Chip("TPU v6e", 918e12, 31.25 * _GIB, 1638e9, 400e9)

# NVIDIA: the data sheets "A100 Tensor Core GPU", "H100 Tensor Core GPU", "H200 Tensor Core GPU",
# "DGX B200" (a figure of 8 GPUs) and "GB200 NVL72" (of 72). Figures with sparsity are halved, and
# so are those of NVLink, which add up both directions. TF32 has half of bfloat16's peak. Networks:
# a card for each GPU, of 200 Gb/s in a DGX A100 and 400 Gb/s in the later ones; 18 hosts of 4 GPUs
# share the NVLink of a GB200 NVL72. Prices: a GPU's share of a host on demand, CoreWeave's list
# of February 2026 as kaelresearch.com, "GPU Economics", has it; those of TPUs were not found.
_A100_40 = Chip("A100 40 GB", 312e12, 40 * _GIB, 1555e9, 300e9, None, 1, 25e9, 156e12)
_A100_80 = Chip("A100 80 GB", 312e12, 80 * _GIB, 2039e9, 300e9, 2.70, 1, 25e9, 156e12)
_A100_80_PCIE = Chip("A100 80 GB PCIe", 312e12, 80 * _GIB, 1935e9, 300e9, float32_flops=156e12)
_H100 = Chip("H100", 989e12, 80 * _GIB, 3350e9, 450e9, 6.155, 1, 50e9, 494.5e12)
_H100_PCIE = Chip("H100 PCIe", 756e12, 80 * _GIB, 2000e9, 300e9, float32_flops=378e12)
_H100_NVL = Chip("H100 NVL", 835e12, 94 * _GIB, 3900e9, 300e9, float32_flops=417.5e12)
_H200 = Chip("H200", 989e12, 141 * _GIB, 4800e9, 450e9, 6.305, 1, 50e9, 494.5e12)
_B200 = Chip("B200", 2250e12, 180 * _GIB, 8000e9, 900e9, 8.60, 1, 50e9, 1125e12)
_GB200 = Chip("GB200", 2500e12, 186 * _GIB, 8000e9, 900e9, 10.50, 18, 50e9, 1250e12)

# `device_kind` of a JAX device -> its chip.
_CHIPS = {
    "TPU v4": _V4,
    "TPU v5 lite": _V5E,
    "TPU v5e": _V5E,
    "TPU v5": _V5P,
    "TPU v5p": _V5P,
    "TPU v6 lite": _V6E,
    "TPU v6e": _V6E,
    "NVIDIA A100-SXM4-40GB": _A100_40,
    "NVIDIA A100-PCIE-40GB": _A100_40,
    "NVIDIA A100-SXM4-80GB": _A100_80,
    "NVIDIA A100 80GB PCIe": _A100_80_PCIE,
    "NVIDIA H100 80GB HBM3": _H100,
    "NVIDIA H100 PCIe": _H100_PCIE,
    "NVIDIA H100 NVL": _H100_NVL,
    "NVIDIA H200": _H200,
    "NVIDIA B200": _B200,
    "NVIDIA GB200": _GB200,
}


def find_chip(device_kind: str) -> Chip | None:
    """Returns the chip of a JAX `device_kind`; None if the table lacks it, as for CPUs."""
    return _CHIPS.get(device_kind)
