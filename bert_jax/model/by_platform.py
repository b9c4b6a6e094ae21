"""The choices that a config leaves to the devices: attention's kernel, and unrolled layers.

docs/performance/README.md, "Choices by platform", has the figures behind each rule.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh

from bert_jax.config import AttentionKernel, EncoderConfig, Norm, Remat
from bert_jax.distributed.sharding import describe
from bert_jax.errors import UserError
from bert_jax.model.fused_attention import check_fused

_FUSED_FROM = 512  # tokens in a row, the fewest for which both kernels were compared
_FEW_LAYERS = 4  # a CPU runs as many as fast in a scan, and 12 not; between was not measured


def for_devices(config: EncoderConfig, mesh: Mesh, lengths: Sequence[int]) -> EncoderConfig:
    """Returns an encoder's config with `attention` and `unroll` chosen where it leaves them open.

    Args:
      config: of the encoder.
      mesh: from `sharding.make_mesh`.
      lengths: T of each kind of rows.

    Raises:
      UserError: if it asks for a kernel that the devices do not have.
    """
    device = mesh.devices.flat[0]
    if config.attention is AttentionKernel.FUSED:
        check_fused(config, lengths, device.platform)
    kernel = config.attention
    if kernel is AttentionKernel.AUTO:
        fuses = _fusing_pays(config, lengths, device)
        kernel = AttentionKernel.FUSED if fuses else AttentionKernel.PRODUCTS
    unrolls = _unrolling_pays(config, device.platform, fully_sharded=mesh.shape["fsdp"] > 1)
    unroll = config.unroll or (config.layers if unrolls else 1)
    return dataclasses.replace(config, attention=kernel, unroll=unroll)


def _fusing_pays(config: EncoderConfig, lengths: Sequence[int], device: Any) -> bool:
    all_windowed = config.window and not config.global_every  # those have blocks of their own
    if config.attention_dropout_rate or all_windowed or max(lengths) < _FUSED_FROM:
        return False
    if device.platform == "gpu" and not _is_ampere_or_later(device):
        return False
    try:
        check_fused(config, lengths, device.platform)
    except UserError:
        return False
    return True


def _is_ampere_or_later(device: Any) -> bool:
    """Returns True for an NVIDIA GPU with a kernel; AMD's capability is no number."""
    capability = getattr(device, "compute_capability", "")
    return capability.replace(".", "").isdecimal() and float(capability) >= 8


def _unrolling_pays(config: EncoderConfig, platform: str, *, fully_sharded: bool) -> bool:
    """Returns True where layers had better write no stacks of activations."""
    if platform == "cpu":
        # Unrolled, XLA on a CPU computes a pre-norm residual stream again at every use, and what is
        # to be computed again in all layers at once, which saves no memory.
        keeps_all = config.remat is Remat.NONE and not fully_sharded
        return keeps_all and config.norm is Norm.POST and config.layers > _FEW_LAYERS
    # For a TPU, fully sharded layers compile for very long unrolled.
    return platform == "gpu" or not fully_sharded


def describe_choices(config: EncoderConfig, mesh: Mesh) -> str:
    """Tells the devices and what `for_devices` chose: "..., encoder.attention=products, ..."."""
    attention, unroll = config.attention.value, config.unroll
    return f"{describe(mesh)}, encoder.attention={attention}, encoder.unroll={unroll}"
