"""The switches of the encoder, one at a time and together: against NumPy, and by properties."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import (
    Activation,
    ComputeType,
    EncoderConfig,
    InputPooling,
    MlpKind,
    Norm,
    NormKind,
    PoolerKind,
    PositionEncoding,
    Remat,
    validate_encoder,
)
from bert_jax.errors import UserError
from bert_jax.inspection.internals import encoder_internals
from bert_jax.model.encoder import Encoder
from bert_jax.model.flops import encoder_flops
from bert_jax.model.heads import PretrainingModel, TaskModel
from bert_jax.model.stack import layer_kinds
from bert_jax.training.parameter_rules import is_decayed
from bert_jax.training.state import run_key
from tests.fixtures import reference
from tests.fixtures.batches import Batch, make_batch, random_params

replace = dataclasses.replace
Shape = reference.Shape

PRE: dict[str, Any] = {"norm": Norm.PRE}
ROTARY: dict[str, Any] = {"position_encoding": PositionEncoding.ROTARY}
WINDOW: dict[str, Any] = {"window": 2, "layers": 4}
GATED: dict[str, Any] = {"mlp": MlpKind.GATED}
MODERN: dict[str, Any] = (
    PRE
    | ROTARY
    | GATED
    | {
        "window": 3,
        "global_every": 3,
        "layers": 8,
        "rope_theta": 500.0,
        "rope_theta_local": 50.0,
        "norm_kind": NormKind.RMS_NORM,
        "first_norm": False,
        "qk_norm": True,
        "biases": False,
        "segments": 0,
        "kv_heads": 2,
        "embedding_width": 16,
        "activation": Activation.SILU,
    }
)
MODERN_SHAPE = Shape(
    pre_norm=True,
    theta=500.0,
    theta_local=50.0,
    window=3,
    global_every=3,
    rms=True,
    first_norm=False,
    activation="silu",
)
SWITCHES: dict[str, tuple[dict[str, Any], Shape]] = {
    "rotary": (ROTARY | {"rope_theta": 100.0}, Shape(theta=100.0)),
    "no positions": ({"position_encoding": PositionEncoding.NONE}, Shape()),
    "fixed sinusoids": (
        {"position_encoding": PositionEncoding.SINUSOIDAL},
        Shape(sinusoids=0.02 * 2**0.5),
    ),
    "window": (WINDOW, Shape(window=2)),
    "window and global layers": (WINDOW | {"global_every": 3}, Shape(window=2, global_every=3)),
    "causal window": (WINDOW | {"causal": True}, Shape(window=2, causal=True)),
    "rotary window": (
        ROTARY | WINDOW | {"global_every": 2, "rope_theta_local": 20.0},
        Shape(theta=10_000.0, theta_local=20.0, window=2, global_every=2),
    ),
    "gated": (GATED, Shape()),
    "gated by ReLU": (GATED | {"activation": Activation.RELU}, Shape(activation="relu")),
    "SiLU": ({"activation": Activation.SILU}, Shape(activation="silu")),
    "norm without bias": ({"norm_kind": NormKind.LAYER_NORM_NO_BIAS}, Shape()),
    "RMS norm": ({"norm_kind": NormKind.RMS_NORM}, Shape(rms=True)),
    "no embedding norm": (PRE | {"embedding_norm": False}, Shape(pre_norm=True)),
    "no final norm": (PRE | {"final_norm": False}, Shape(pre_norm=True)),
    "no first norm": (
        PRE | {"first_norm": False, "layers": 3},
        Shape(pre_norm=True, first_norm=False),
    ),
    "no biases": ({"biases": False}, Shape()),
    "shared keys": ({"kv_heads": 2}, Shape()),
    "one key": ({"kv_heads": 1}, Shape()),
    "narrow tables": ({"embedding_width": 10}, Shape()),
    "norms of queries and keys": ({"qk_norm": True}, Shape()),
    "no segments": ({"segments": 0}, Shape()),
    "no transform": ({"mlm_transform": False}, Shape()),
    "untied": ({"mlm_tied": False}, Shape()),
    "no output bias": ({"mlm_bias": False}, Shape()),
    "all": (MODERN, MODERN_SHAPE),
}


def apply(model: nn.Module, params: Any, batch: Batch, *rest: Any, **options: Any) -> Any:
    return jax.jit(
        lambda params, batch: model.apply(
            {"params": params}, batch, *rest, deterministic=True, **options
        )
    )(params, batch)


@pytest.mark.parametrize("switch", SWITCHES)
def test_it_agrees_with_numpy(tiny_encoder: EncoderConfig, switch: str) -> None:
    changes, shape = SWITCHES[switch]
    config = replace(tiny_encoder, **changes)
    model, batch = PretrainingModel(config), make_batch(config, rows=6)
    batch["mlm_positions"] = np.tile(np.arange(14, dtype=np.int32), (6, 1))
    params = random_params(model, batch)
    logits = apply(model, params, batch)
    oracle = reference.to_float64(params)
    tokens = oracle["encoder"]["embeddings"]["tokens"]
    base = PretrainingModel(tiny_encoder)
    compared = 0
    for row, example in zip(*np.nonzero(batch["weights"]), strict=True):
        own = np.nonzero(batch["example_ids"][row] == example + 1)[0]
        ids, segments = batch["token_ids"][row, own], batch["segment_ids"][row, own]
        x = reference.encode(oracle["encoder"], ids, segments, shape)
        mlm = reference.masked_lm_logits(oracle["mlm_head"], tokens, x, shape)
        np.testing.assert_allclose(logits.mlm[row, own], mlm, rtol=2e-5, atol=2e-5)
        pooled = reference.pool(oracle["pooler"], x)
        nsp = reference.affine(oracle["nsp_head"]["dense"], pooled)
        np.testing.assert_allclose(logits.sentence[row, example], nsp, rtol=2e-5, atol=2e-5)
        compared += len(own)
    assert compared > 50
    # Witness: it changes the program, or the parameters.
    default = random_params(base, batch)
    same_tree = jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, default)
    assert not same_tree or np.abs(apply(base, params, batch).mlm - logits.mlm).max() > 1e-3


@pytest.mark.parametrize("window", [1, 5, 31, 32, 40])
@pytest.mark.parametrize("wanted", [0, 1, 60])
@pytest.mark.parametrize("causal", [False, True])
def test_blocks_of_a_long_row(
    tiny_encoder: EncoderConfig, window: int, wanted: int, causal: bool
) -> None:
    """Rows of 131 tokens are no whole number of blocks; `wanted` of them are read, 0: all."""
    config = replace(tiny_encoder, window=window, layers=2, max_length=131, causal=causal, **ROTARY)
    batch = make_batch(config, rows=2, length=131, examples=3)
    end = np.count_nonzero(batch["example_ids"][1])  # the second row is filled to its end
    batch["example_ids"][1, end:] = batch["example_ids"][1, end - 1]
    batch["position_ids"][1, end:] = batch["position_ids"][1, end - 1] + np.arange(1, 132 - end)
    model = Encoder(config)
    params = random_params(model, batch)
    positions = None
    if wanted:
        positions = np.random.default_rng(0).integers(0, 131, (2, wanted), dtype=np.int32)
        positions[:, 0] = 0, 130  # windows that end at the edges of a row
    x = apply(model, params, batch, positions)
    oracle = reference.to_float64(params)
    shape = Shape(theta=10_000.0, window=window, causal=causal)
    compared = 0
    for row, example in zip(*np.nonzero(batch["weights"]), strict=True):
        own = np.nonzero(batch["example_ids"][row] == example + 1)[0]
        ids, segments = batch["token_ids"][row, own], batch["segment_ids"][row, own]
        expected = reference.encode(oracle, ids, segments, shape)
        slots = np.arange(131) if positions is None else positions[row]
        for slot, place in enumerate(slots):
            if place in own:
                ours = x[row, slot]
                np.testing.assert_allclose(ours, expected[place - own[0]], rtol=2e-5, atol=2e-5)
                compared += 1
    assert compared >= min(wanted, 50)


@pytest.mark.parametrize("remat", Remat)
@pytest.mark.parametrize("layers", [1, 2, 3, 4, 5, 7, 8])
def test_periods_of_layers_have_the_gradient_of_a_loop(
    tiny_encoder: EncoderConfig, layers: int, remat: Remat
) -> None:
    """Whatever is left of a period, and with layer 0 apart: as one layer after another."""
    config = replace(tiny_encoder, **MODERN | {"layers": layers, "remat": remat})
    batch = make_batch(config, rows=4)
    params = random_params(Encoder(config), batch)
    weights = np.random.default_rng(0).standard_normal((4, 14, 24)).astype(np.float32)
    kinds = layer_kinds(config)
    assert [kind.window for kind in kinds] == [0 if n % 3 == 0 else 3 for n in range(layers)]

    def loss(params: Any, run: Any) -> jax.Array:
        return jnp.sum(weights * jnp.sin(run(params)))

    def in_turn(params: Any) -> jax.Array:
        hidden = encoder_internals(config, params, batch)[0][-1]
        scale = params["final_norm"]["scale"]
        mean_square = (hidden**2).mean(axis=-1, keepdims=True)
        return hidden * jax.lax.rsqrt(mean_square + config.norm_epsilon) * scale[None, None]

    def scanned(params: Any) -> Any:
        return Encoder(config).apply({"params": params}, batch, deterministic=True)

    ours, theirs = (
        jax.jit(jax.grad(functools.partial(loss, run=run)))(params) for run in (scanned, in_turn)
    )
    leaves = jax.tree_util.tree_leaves_with_path(ours)
    for (path, one), other in zip(leaves, jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4, err_msg=str(path))


def test_several_layers_of_a_period(tiny_encoder: EncoderConfig) -> None:
    config = replace(tiny_encoder, **MODERN | {"final_norm": False})
    batch = make_batch(config)
    params = random_params(Encoder(config), batch)
    hidden, _ = encoder_internals(config, params, batch)
    for layers in (1, 2, 4, 8):
        x = apply(Encoder(config), params, batch, layers=layers)
        expected = np.concatenate(hidden[-layers:], axis=-1)
        np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-4)


def test_internals_show_what_is_seen(tiny_encoder: EncoderConfig) -> None:
    config = replace(tiny_encoder, **MODERN)
    batch = make_batch(config, rows=3)
    params = random_params(Encoder(config), batch)
    _, attention = jax.device_get(encoder_internals(config, params, batch))
    oracle = reference.to_float64(params)
    for row, example in zip(*np.nonzero(batch["weights"]), strict=True):
        own = np.nonzero(batch["example_ids"][row] == example + 1)[0]
        ids, segments = batch["token_ids"][row, own], batch["segment_ids"][row, own]
        _, readings = reference.trace(oracle, ids, segments, MODERN_SHAPE)
        np.testing.assert_allclose(attention[:, row][:, :, own][..., own], readings, atol=1e-5)


@pytest.mark.parametrize("compute_type", ComputeType)
@pytest.mark.parametrize("length", [14, 150])
def test_padding_makes_nothing_that_is_not_finite(
    tiny_encoder: EncoderConfig, compute_type: ComputeType, length: int
) -> None:
    """A short example before a long tail of padding, whose windows hold nothing else; and none."""
    config = replace(tiny_encoder, max_length=length, compute_type=compute_type, **MODERN)
    batch = make_batch(config, rows=3, length=length)
    for field in ("token_ids", "example_ids", "position_ids"):
        batch[field][1, 5:] = 0
        batch[field][2] = 0
    params = random_params(Encoder(config), batch)

    def total(params: Any) -> tuple[jax.Array, jax.Array]:
        x = Encoder(config).apply({"params": params}, batch, deterministic=True)
        assert isinstance(x, jax.Array)
        return jnp.sum(jnp.sin(x.astype(jnp.float32)) * (batch["example_ids"] > 0)[..., None]), x

    gradients, x = jax.jit(jax.grad(total, has_aux=True))(params)
    assert all(
        np.isfinite(leaf.astype(np.float32)).all() for leaf in jax.tree.leaves([gradients, x])
    )


POOLINGS = [each for each in InputPooling if each is not InputPooling.OF_CHECKPOINT]
POOLERS = [each for each in PoolerKind if each is not PoolerKind.OF_CHECKPOINT]


@pytest.mark.parametrize(
    ("field", "value"),
    [("pooling", InputPooling.OF_CHECKPOINT), ("pooler", PoolerKind.OF_CHECKPOINT)],
)
def test_what_is_of_fine_tuning_is_refused(
    tiny_encoder: EncoderConfig, field: str, value: Any
) -> None:
    with pytest.raises(UserError, match=f"encoder.{field}=of_checkpoint is of fine-tuning: choose"):
        validate_encoder(replace(tiny_encoder, **{field: value}))


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("pooler", POOLERS)
def test_vectors_of_whole_inputs(
    tiny_encoder: EncoderConfig, pooler: PoolerKind, pooling: InputPooling
) -> None:
    config = replace(tiny_encoder, pooling=pooling, pooler=pooler)
    if (pooler, pooling) == (PoolerKind.NONE, InputPooling.LATE):
        with pytest.raises(UserError, match="pooling=late averages what the pooler makes"):
            validate_encoder(config)
        return
    task, batch = TaskModel(config, "classifier", 3, whole_inputs=True), make_batch(tiny_encoder)
    batch["mlm_positions"] = np.zeros((16, 1), np.int32)
    pretraining = PretrainingModel(config)
    params = random_params(pretraining, batch)
    params["classifier"] = random_params(task, batch)["classifier"]
    assert ("pooler" in params) == (pooler is not PoolerKind.NONE)
    sentence = apply(pretraining, params, batch).sentence
    logits = apply(task, params, batch)
    oracle = reference.to_float64(params)
    for row, example in zip(*np.nonzero(batch["weights"]), strict=True):
        own = np.nonzero(batch["example_ids"][row] == example + 1)[0]
        ids, segments = batch["token_ids"][row, own], batch["segment_ids"][row, own]
        x = reference.encode(oracle["encoder"], ids, segments, Shape())
        x = {InputPooling.CLS: x[:1], InputPooling.MEAN: x.mean(axis=0, keepdims=True)}.get(
            pooling, x
        )
        if pooler is not PoolerKind.NONE:
            x = np.stack([reference.pool(oracle["pooler"], one[None], pooler.value) for one in x])
        for ours, head in ((sentence, "nsp_head"), (logits, "classifier")):
            expected = reference.affine(oracle[head]["dense"], x.mean(axis=0))
            np.testing.assert_allclose(ours[row, example], expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("pooler", POOLERS)
def test_heads_of_tokens_read_a_transform_alone(
    tiny_encoder: EncoderConfig, pooler: PoolerKind
) -> None:
    config = replace(
        tiny_encoder, pooler=pooler, mlm_activation=Activation.RELU, pooling=InputPooling.MEAN
    )
    model, batch = TaskModel(config, "tagger", 3, whole_inputs=False), make_batch(tiny_encoder)
    params = random_params(model, batch)
    assert ("pooler" in params) == (pooler is PoolerKind.TRANSFORM)
    logits, oracle = apply(model, params, batch), reference.to_float64(params)
    own = np.nonzero(batch["example_ids"][0] == 1)[0]
    ids, segments = batch["token_ids"][0, own], batch["segment_ids"][0, own]
    x = reference.encode(oracle["encoder"], ids, segments, Shape())
    if pooler is PoolerKind.TRANSFORM:
        relu = Shape(activation="relu")
        x = np.stack([reference.pool(oracle["pooler"], one[None], "transform", relu) for one in x])
    expected = reference.affine(oracle["tagger"]["dense"], x)
    np.testing.assert_allclose(logits[0, own], expected, rtol=2e-5, atol=2e-5)


def test_the_transform_of_the_masked_lm_may_have_an_activation_of_its_own(
    tiny_encoder: EncoderConfig,
) -> None:
    config = replace(tiny_encoder, activation=Activation.SILU, mlm_activation=Activation.RELU)
    model, batch = PretrainingModel(config), make_batch(tiny_encoder)
    batch["mlm_positions"] = np.zeros((16, 1), np.int32)
    params = random_params(model, batch)
    found, oracle = apply(model, params, batch).mlm, reference.to_float64(params)
    own = np.nonzero(batch["example_ids"][0] == 1)[0]
    ids, segments = batch["token_ids"][0, own], batch["segment_ids"][0, own]
    x = reference.encode(oracle["encoder"], ids, segments, Shape(activation="silu"))[:1]
    tokens = oracle["encoder"]["embeddings"]["tokens"]
    expected = reference.masked_lm_logits(oracle["mlm_head"], tokens, x, Shape(activation="relu"))
    np.testing.assert_allclose(found[0], expected, rtol=2e-5, atol=2e-5)


def test_outputs_to_the_residual_begin_smaller(tiny_encoder: EncoderConfig) -> None:
    config = replace(tiny_encoder, layers=8, width=64, heads=4, mlp_width=128)
    spreads = {}
    for scaled in (False, True):
        model = Encoder(replace(config, depth_scaled_init=scaled))
        batch = make_batch(config, rows=1)
        params = nn.unbox(model.init(run_key(0), batch, deterministic=True))["params"]["layers"]
        spreads[scaled] = {
            f"{part}/{name}": float(params[part][name]["kernel"].std())
            for part, name in (
                ("attention", "out"),
                ("mlp", "down"),
                ("attention", "query"),
                ("mlp", "up"),
            )
        }
    for name, spread in spreads[False].items():
        wanted = 4.0 if name in ("attention/out", "mlp/down") else 1.0  # sqrt(2 L)
        np.testing.assert_allclose(spread / spreads[True][name], wanted, rtol=0.03)


@pytest.mark.parametrize(
    ("off", "moved"),
    [
        ({}, True),
        ({"attention_output_dropout_rate": 0.0, "mlp_output_dropout_rate": 0.0}, False),
        ({"attention_output_dropout_rate": 0.0}, True),
        ({"mlp_output_dropout_rate": 0.0}, True),
    ],
)
def test_outputs_have_rates_of_their_own(
    tiny_encoder: EncoderConfig, off: dict[str, float], moved: bool
) -> None:
    """Embeddings keep theirs: so the first layer's input is compared, by taking that out."""
    config = replace(tiny_encoder, dropout_rate=0.3, attention_dropout_rate=0.0, **off)
    batch = make_batch(config)
    model = Encoder(config)
    params = random_params(model, batch)
    for name in ("tokens", "positions", "segments"):  # nothing to drop
        params["embeddings"][name] = np.zeros_like(params["embeddings"][name])
    params["embeddings"]["norm"]["bias"] = np.zeros(24, np.float32)
    exact = model.apply({"params": params}, batch, deterministic=True)
    rngs = {"dropout": run_key(0)}
    x = model.apply({"params": params}, batch, deterministic=False, rngs=rngs)
    assert (np.abs(x - exact).max() > 1e-3) == moved


def test_only_kernels_and_tables_are_decayed(tiny_encoder: EncoderConfig) -> None:
    config = replace(tiny_encoder, **MODERN | {"biases": True, "mlm_tied": False})
    batch = make_batch(config) | {"mlm_positions": np.zeros((16, 1), np.int32)}
    params = random_params(PretrainingModel(config), batch)
    decayed = jax.tree_util.tree_leaves_with_path(is_decayed(params))
    names = {"/".join(key.key for key in path): each for path, each in decayed}
    kept = {name for name, each in names.items() if not each}
    assert {name.rpartition("/")[2] for name in kept} == {"scale", "bias"}
    assert {name for name in names if "norm" in name} <= kept
    assert names["mlm_head/output"] and names["encoder/embeddings/projection/kernel"]
    assert "encoder/layers/attention/query_norm/scale" in kept


def test_operations_count_windows_gates_and_shared_keys(tiny_encoder: EncoderConfig) -> None:
    base = replace(tiny_encoder, layers=6)
    at = functools.partial(encoder_flops, length=1024)
    width, mlp = base.width, base.mlp_width
    windowed = replace(base, window=10, global_every=3)
    assert at(base) - at(windowed) == 4 * 4 * width * (1024 - 21)
    assert at(replace(base, mlp=MlpKind.GATED)) - at(base) == 6 * 2 * width * mlp
    assert at(base) - at(replace(base, kv_heads=1)) == 6 * 4 * width**2 * 3 / 4
    assert at(replace(base, embedding_width=8)) - at(base) == 2 * width * 8
    assert at(replace(base, embedding_width=width)) == at(base)  # no map is needed
