"""The choices that a config leaves to the devices: attention's kernel, and unrolled layers.

docs/performance/README.md, "Choices by platform", has the figures behind each rule.
"""

import dataclasses
from collections.abc import Sequence

from jax.sharding import Mesh

from bert_jax.config import AttentionKernel, EncoderConfig, Norm, Remat
from bert_jax.errors import UserError
from bert_jax.model.fused_attention import check_fused

_FUSED_FROM = 512  # tokens in a row, the fewest for which both kernels were compared
_FEW_LAYERS = 4


def for_devices(config: EncoderConfig, mesh: Mesh, lengths: Sequence[int]) -> EncoderConfig:
    """Returns an encoder's config with `attention` and `unroll` chosen where it leaves them open.

    Args:
      config: of the encoder.
      mesh: from `sharding.make_mesh`.
      lengths: T of each kind of rows.

    Raises:
      UserError: if it asks for a kernel that the devices do not have.
    """
    platform = mesh.devices.flat[0].platform
    if config.attention is AttentionKernel.FUSED:
        check_fused(config, lengths, platform)
    kernel = config.attention
    if kernel is AttentionKernel.AUTO:
        fused = max(lengths) >= _FUSED_FROM and _can_fuse(config, lengths, platform)
        kernel = AttentionKernel.FUSED if fused else AttentionKernel.PRODUCTS
    unrolls = _unrolling_pays(config, platform, fully_sharded=mesh.shape["fsdp"] > 1)
    unroll = config.unroll or (config.layers if unrolls else 1)
    return dataclasses.replace(config, attention=kernel, unroll=unroll)


def _unrolling_pays(config: EncoderConfig, platform: str, *, fully_sharded: bool) -> bool:
    """Returns True where layers had better write no stacks of activations."""
    if platform == "cpu":
        # Few layers are as fast in a scan. Unrolled, XLA there computes a pre-norm stream again
        # wherever it is read, and what is to be computed again all at once: that saves no memory.
        keeps_all = config.remat is Remat.NONE and not fully_sharded
        return keeps_all and config.norm is Norm.POST and config.layers > _FEW_LAYERS
    return platform == "gpu" or not fully_sharded  # for a TPU these compile for very long


def _can_fuse(config: EncoderConfig, lengths: Sequence[int], platform: str) -> bool:
    if config.attention_dropout_rate:
        return False
    try:
        check_fused(config, lengths, platform)
    except UserError:
        return False
    return True


def describe_choices(config: EncoderConfig) -> str:
    """Tells what `for_devices` chose: "attention=products, unroll=1"."""
    return f"encoder.attention={config.attention.value}, encoder.unroll={config.unroll}"
