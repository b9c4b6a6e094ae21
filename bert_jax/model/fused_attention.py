"""Attention by kernels that never write the scores to memory: TPU's flash attention, cuDNN's.

They belong to JAX. Both see examples by their ids, as `attention.attention` does, and neither has
a dropout that is the same on every mesh: so they are for an attention dropout of 0.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from bert_jax.config import ComputeType, EncoderConfig
from bert_jax.distributed.sharding import BATCH_SPEC, LOGICAL_AXIS_RULES
from bert_jax.errors import UserError
from bert_jax.model.attention import AttentionFn, Tokens, attention, tokens_of, visible

_BLOCK = 128  # tokens; on a TPU rows are whole blocks
_WIDEST_HEAD = 128  # that cuDNN takes on every GPU from Ampere on
_BY_HEAD = PartitionSpec(*BATCH_SPEC, None, dict(LOGICAL_AXIS_RULES)["heads"], None)


def check_fused(config: EncoderConfig, lengths: Sequence[int], platform: str) -> None:
    """Raises UserError unless a kind of device has a kernel for this encoder.

    Args:
      config: of the encoder.
      lengths: T of each phase.
      platform: of the devices, as JAX names it.
    """
    if platform == "tpu":
        for length in lengths:
            if length % _BLOCK:
                raise UserError(
                    f"--config.data.length={length}: encoder.attention=fused takes rows of whole"
                    f" blocks of {_BLOCK} tokens on a TPU: choose a multiple of it"
                )
        return
    if platform != "gpu":
        raise UserError(
            f"--config.encoder.attention=fused: there is no such kernel for {platform}:"
            " set it to products"
        )
    # What JAX asks of cuDNN's kernels.
    if config.compute_type is not ComputeType.BFLOAT16:
        raise UserError(
            f"--config.encoder.compute_type={config.compute_type.value}: encoder.attention=fused"
            " needs bfloat16 on a GPU"
        )
    head_width = config.width // config.heads
    if head_width % 8 or head_width > _WIDEST_HEAD:
        raise UserError(
            f"--config.encoder.heads={config.heads} makes heads {head_width} wide: on a GPU"
            f" encoder.attention=fused takes multiples of 8 up to {_WIDEST_HEAD}: choose other"
            " heads, or encoder.attention=products"
        )
    for length in lengths:
        if length % 2:
            raise UserError(
                f"--config.data.length={length}: encoder.attention=fused takes an even number of"
                " tokens on a GPU: choose one"
            )


def fused_attention(mesh: Mesh, platform: str) -> AttentionFn:
    """Returns the fused counterpart of `attention.attention` on a mesh.

    Small scores are left to `attention`: in the last layer, which computes only some queries, and
    in rows shorter than a block, such as those that parameters are initialised with. Windowed
    layers do not come here: `windowed_attention` has blocks of its own.

    Args:
      mesh: from `sharding.make_mesh`.
      platform: of its devices, 'tpu' or 'gpu'.
    """
    kernel = _on_tpu if platform == "tpu" else _on_gpu

    def attend(
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        queries: Tokens,
        keys: Tokens,
        *,
        causal: bool,
        dropout_rate: float,
        dropout_key: jax.Array | None,
    ) -> jax.Array:
        if query.shape[1] != key.shape[1] or key.shape[1] < _BLOCK:
            return attention(
                query,
                key,
                value,
                queries,
                keys,
                causal=causal,
                dropout_rate=dropout_rate,
                dropout_key=dropout_key,
            )
        assert dropout_key is None  # config.validate_encoder requires a rate of 0
        # The compiler cannot split a kernel over devices: each has whole rows and heads.
        each = jax.shard_map(
            functools.partial(kernel, causal=causal),
            mesh=mesh,
            in_specs=(_BY_HEAD, _BY_HEAD, _BY_HEAD, BATCH_SPEC),
            out_specs=_BY_HEAD,
            check_vma=False,
        )
        return each(query, key, value, keys.examples)

    return attend


def _on_tpu(query: Any, key: Any, value: Any, examples: Any, *, causal: bool) -> Any:
    from jax.experimental.pallas.ops.tpu import flash_attention as tpu  # loads Pallas

    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    return tpu.flash_attention(
        query,
        key,
        value,
        segment_ids=tpu.SegmentIds(examples, examples),
        causal=causal,
        sm_scale=query.shape[-1] ** -0.5,
    ).swapaxes(1, 2)


def _on_gpu(query: Any, key: Any, value: Any, examples: Any, *, causal: bool) -> Any:
    tokens = tokens_of(examples)
    # JAX has cuDNN compute the gradient of this mask, too, and has no argument against it.
    mask = visible(tokens, tokens, causal=causal)
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="cudnn")
