"""The fused kernels: what attention says, and told in a line where there is none."""

import dataclasses
import importlib.metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import NamedSharding

from bert_jax.checkpoints.transfer import task_encoder
from bert_jax.config import (
    AttentionKernel,
    ComputeType,
    EncoderConfig,
    FinetuneConfig,
    MeshConfig,
    validate_encoder,
)
from bert_jax.distributed import sharding
from bert_jax.errors import UserError
from bert_jax.model.attention import Tokens, attention, tokens_of
from bert_jax.model.fused_attention import check_fused, fused_attention
from bert_jax.planning.gpus import GPUS, gpu_devices

FUSED = EncoderConfig(
    attention=AttentionKernel.FUSED,
    attention_dropout_rate=0.0,
    compute_type=ComputeType.BFLOAT16,
)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_a_kernel_is_attention_and_has_its_gradient(platform, causal, monkeypatch):
    """On a mesh of rows and heads; examples of uneven lengths, padding.

    TPU's kernel is interpreted. JAX's own products stand for cuDNN, which takes the same arguments.
    """
    of_jax = jax.nn.dot_product_attention

    def not_by_cudnn(*args: Any, implementation: str, **kwargs: Any) -> jax.Array:
        assert implementation == "cudnn" and args[0].shape[:3] == (2, 128, 1)  # of a device
        return of_jax(*args, implementation="xla", **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", not_by_cudnn)
    rng = np.random.default_rng(0)
    query, key, value = (
        jnp.asarray(rng.standard_normal((4, 128, 2, 64)), jnp.float32) for _ in range(3)
    )
    examples = np.zeros((4, 128), np.int32)
    for row in range(4):
        examples[row, : 100 + 7 * row] = 1 + np.sort(rng.integers(0, 3, 100 + 7 * row))
    tokens = Tokens(jnp.asarray(examples), jnp.arange(128, dtype=jnp.int32)[None])
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=1, tensor=2), jax.devices()[:4])

    def outcome(attend: Any) -> Any:
        def total(query: Any, key: Any, value: Any) -> Any:
            out = attend(
                query,
                key,
                value,
                tokens,
                tokens,
                causal=causal,
                dropout_rate=0.0,
                dropout_key=None,
            )
            return jnp.sum(jnp.sin(out) * (examples > 0)[:, :, None, None]), out

        return jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(query, key, value)

    with pltpu.force_tpu_interpret_mode():
        ours = outcome(fused_attention(mesh, platform))
    for one, other in zip(*map(jax.tree.leaves, (ours, outcome(attention))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("fsdp", "tensor"), [(8, 1), (4, 2), (1, 1)])
def test_a_split_encoder_compiles_with_the_kernel_of_a_gpu(fsdp, tensor):
    for distribution in ("nvidia-cudnn-cu13", "nvidia-cuda-nvcc"):
        try:
            importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{distribution} is missing")
    devices = gpu_devices(GPUS["h100"], 1, 8)
    mesh = sharding.make_mesh(MeshConfig(fsdp=fsdp, tensor=tensor), devices)
    by_row = NamedSharding(mesh, sharding.BATCH_SPEC)
    vectors, names = (
        jax.ShapeDtypeStruct(shape, dtype, sharding=by_row)
        for shape, dtype in (((16, 256, 4, 64), jnp.bfloat16), ((16, 256), jnp.int32))
    )

    def total(query: Any, examples: Any) -> Any:
        tokens = tokens_of(examples)
        options: dict[str, Any] = {"causal": False, "dropout_rate": 0.0, "dropout_key": None}
        attend = fused_attention(mesh, "gpu")
        return jnp.sum(attend(query, query, query, tokens, tokens, **options), dtype=jnp.float32)

    text = jax.jit(jax.grad(total)).lower(vectors, names).compile().as_text()
    assert text and "__cudnn$fmhaScaleBiasSoftmaxBackward" in text
    assert f"bf16[{16 // (8 // tensor)},256,{4 // tensor},64]" in text


def test_few_scores_are_left_to_products():
    mesh = sharding.make_mesh(MeshConfig())
    query, key = jnp.ones((8, 3, 2, 16)), jnp.ones((8, 128, 2, 16))
    asked, seen = jnp.ones((8, 3), jnp.int32), jnp.ones((8, 128), jnp.int32)
    arguments = (query, key, key, Tokens(asked, asked), Tokens(seen, seen))
    options: dict[str, Any] = {"causal": False, "dropout_rate": 0.0, "dropout_key": None}
    ours = fused_attention(mesh, "tpu")(*arguments, **options)
    expected = attention(*arguments, **options)
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(
    ("platform", "lengths", "changes", "message"),
    [
        ("cpu", [128], {}, "no such kernel for cpu: set it to products"),
        ("tpu", [128, 200], {}, "data.length=200: .* choose a multiple of it"),
        ("gpu", [100], {"compute_type": ComputeType.FLOAT32}, "needs bfloat16 on a GPU"),
        ("gpu", [100], {"heads": 1, "width": 256}, "heads=1 makes heads 256 wide: .* up to 128"),
        ("gpu", [100, 101], {}, "data.length=101: .* an even number"),
    ],
)
def test_what_a_platform_has_no_kernel_for_is_refused(platform, lengths, changes, message):
    config = dataclasses.replace(FUSED, **changes)
    with pytest.raises(UserError, match=message):
        check_fused(config, lengths, platform)


def test_fine_tuning_computes_products_and_may_drop():
    encoder = task_encoder(FUSED, FinetuneConfig(dropout_rate=0.2))
    assert encoder.attention is AttentionKernel.PRODUCTS
    validate_encoder(encoder)


@pytest.mark.parametrize(("platform", "lengths"), [("tpu", [128, 512]), ("gpu", [100])])
def test_what_a_platform_has_a_kernel_for_is_taken(platform, lengths):
    check_fused(FUSED, lengths, platform)
