"""The encoder and its heads: against a NumPy oracle, and by properties with their witnesses."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from bert_jax.config import Activation, ComputeType, EncoderConfig, Norm, PositionInit
from bert_jax.model.attention import Tokens
from bert_jax.model.dropout import dropout
from bert_jax.model.encoder import Encoder, EncoderBlock
from bert_jax.model.heads import PretrainingModel
from bert_jax.model.layers import ACTIVATIONS, Dropout, gelu
from bert_jax.training.state import run_key
from tests.fixtures import reference
from tests.fixtures.batches import classification_model, make_batch, random_params, with_targets

replace = dataclasses.replace
without_dropout = functools.partial(replace, dropout_rate=0.0, attention_dropout_rate=0.0)


def forward(model: nn.Module) -> Any:
    """Returns the compiled model, (params, batch, dropout key) -> output; no key, no dropout."""

    @jax.jit
    def apply(params: Any, batch: Any, key: jax.Array | None = None) -> Any:
        rngs = None if key is None else {"dropout": key}
        return model.apply({"params": params}, batch, deterministic=key is None, rngs=rngs)

    return apply


def products(program: Any) -> Iterator[Any]:
    """Yields the equations of a jaxpr that multiply matrices, those inside loops too."""
    for equation in program.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from products(inner)


def paths(params: Any) -> dict[str, tuple[int, ...]]:
    """Names the leaves and gives their shapes."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(k.key for k in path): leaf.shape for path, leaf in leaves}


# --- against the oracle


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("norm", Norm)
def test_pretraining_model_agrees_with_numpy(tiny_encoder, norm, causal):
    config = replace(tiny_encoder, norm=norm, causal=causal)
    model, batch = PretrainingModel(config), make_batch(config)
    positions = np.random.default_rng(1).integers(0, 14, (16, 5), dtype=np.int32)
    batch["mlm_positions"] = positions
    params = random_params(model, batch)
    logits = forward(model)(params, batch)

    shape = reference.Shape(pre_norm=norm is Norm.PRE, causal=causal)
    oracle = reference.to_float64(params)
    tokens = oracle["encoder"]["embeddings"]["tokens"]
    compared = 0
    for row, example in zip(*np.nonzero(batch["weights"]), strict=True):
        own = np.nonzero(batch["example_ids"][row] == example + 1)[0]
        at = row, own
        x = reference.encode(
            oracle["encoder"], batch["token_ids"][at], batch["segment_ids"][at], shape
        )
        pooled = reference.pool(oracle["pooler"], x)
        nsp = reference.affine(oracle["nsp_head"]["dense"], pooled)
        np.testing.assert_allclose(logits.sentence[row, example], nsp, rtol=1e-5, atol=1e-5)
        mlm = reference.masked_lm_logits(oracle["mlm_head"], tokens, x, shape)
        for slot, position in enumerate(positions[row]):
            if position in own:
                expected = mlm[position - own[0]]
                np.testing.assert_allclose(logits.mlm[row, slot], expected, rtol=1e-5, atol=1e-5)
                compared += 1
    assert compared > 50


def test_classification_model_agrees_with_numpy(tiny_encoder):
    model, batch = classification_model(tiny_encoder), make_batch(tiny_encoder)
    params = random_params(model, batch)
    logits = forward(model)(params, batch)
    assert logits.shape == (16, 2, 3)

    oracle = reference.to_float64(params)
    for row in range(16):
        at = row, batch["example_ids"][row] == 1
        ids, segments = batch["token_ids"][at], batch["segment_ids"][at]
        x = reference.encode(oracle["encoder"], ids, segments, reference.Shape())
        pooled = reference.pool(oracle["pooler"], x)
        expected = reference.affine(oracle["classifier"]["dense"], pooled)
        np.testing.assert_allclose(logits[row, 0], expected, rtol=1e-5, atol=1e-5)


# --- who sees whom


def test_padding_changes_nothing(tiny_encoder):
    model, batch = Encoder(tiny_encoder), make_batch(tiny_encoder, length=14)
    params = random_params(model, batch)
    names = ("token_ids", "example_ids", "segment_ids", "position_ids")
    longer = batch | {name: np.pad(batch[name], ((0, 0), (0, 4))) for name in names}
    padding = longer["example_ids"] == 0
    longer["token_ids"][padding] = 33  # what a padded place holds must not matter either
    longer["position_ids"][padding] = 5
    real = batch["example_ids"] > 0

    encode = forward(model)
    x = encode(params, batch)
    np.testing.assert_allclose(encode(params, longer)[:, :14][real], x[real], atol=1e-5)
    # Witness: the same tokens, when they belong to the example, do change it.
    seen = longer | {"example_ids": np.maximum(longer["example_ids"], 1)}
    changed = np.abs(encode(params, seen)[:, :14] - x).max(axis=-1)
    assert changed[batch["example_ids"] == 1].min() > 1e-3


def test_rows_do_not_depend_on_their_order(tiny_encoder):
    model = PretrainingModel(tiny_encoder)
    batch = with_targets(make_batch(tiny_encoder))
    params = random_params(model, batch)
    order = np.random.default_rng(0).permutation(16)
    score = forward(model)
    logits = score(params, batch)
    shuffled = score(params, {name: field[order] for name, field in batch.items()})
    np.testing.assert_allclose(shuffled.mlm, logits.mlm[order], atol=1e-5)
    np.testing.assert_allclose(shuffled.sentence, logits.sentence[order], atol=1e-5)
    assert np.abs(shuffled.sentence - logits.sentence).max() > 0.01  # witness: the rows do differ


def test_examples_of_one_row_do_not_see_each_other(tiny_encoder):
    model, batch = Encoder(tiny_encoder), make_batch(tiny_encoder)
    params, encode = random_params(model, batch), forward(model)
    pairs = np.nonzero(batch["weights"].all(axis=1))[0]
    assert len(pairs) > 4
    changed = batch | {"token_ids": batch["token_ids"].copy()}
    changed["token_ids"][batch["example_ids"] == 2] = 7

    def move(before: Any, after: Any) -> Any:
        return np.abs(encode(params, after) - encode(params, before)).max(axis=-1)[pairs]

    ids = batch["example_ids"][pairs]
    moved = move(batch, changed)
    np.testing.assert_allclose(moved[ids == 1], 0, atol=1e-6)
    assert moved[ids == 2].max() > 0.1
    # Witness: with one id for both, the first does see the second.
    joined = {"example_ids": np.minimum(batch["example_ids"], 1)}
    assert move(batch | joined, changed | joined)[ids == 1].min() > 1e-3


@pytest.mark.parametrize("chosen", [False, True])
def test_a_causal_encoder_does_not_look_ahead(tiny_encoder, chosen):
    """One token of each example is changed, in rows of one or two examples."""
    causal, both_ways = (Encoder(replace(tiny_encoder, causal=c, layers=3)) for c in (True, False))
    batch = make_batch(tiny_encoder)
    params, ids = random_params(causal, batch), batch["example_ids"]
    place = np.tile(np.arange(14), (16, 1))
    at = np.where(ids == 1, 3, batch["pool_positions"][:, 1:] + 2)  # where its example changes
    changed = batch | {"token_ids": np.where(place == at, 9, batch["token_ids"])}
    changed["token_ids"] = changed["token_ids"].astype(np.int32)
    positions = None
    if chosen:
        positions = np.random.default_rng(0).permuted(place, axis=1)[:, :11].astype(np.int32)
        place, at, ids = (np.take_along_axis(field, positions, 1) for field in (place, at, ids))

    def moves(model: Encoder) -> np.ndarray:
        encode = jax.jit(
            lambda batch: model.apply({"params": params}, batch, positions, deterministic=True)
        )
        return np.abs(encode(changed) - encode(batch)).max(axis=-1)

    earlier, later = (ids > 0) & (place < at), (ids > 0) & (place > at)
    assert earlier.sum() > 40 and ids[earlier].max() == 2
    moved = moves(causal)
    np.testing.assert_allclose(moved[earlier], 0, atol=1e-6)
    # Witnesses: later tokens do look back, and in an ordinary encoder all look both ways.
    assert np.median(moved[later]) > 1e-3
    assert np.median(moves(both_ways)[earlier]) > 1e-3


# --- the last layer


@pytest.mark.parametrize(
    ("layers", "norm", "causal"),
    [
        # Each two of the choices meet; the other four are slow.
        pytest.param(*case, marks=[] if number in (0, 3, 5, 6) else pytest.mark.slow)
        for number, case in enumerate(itertools.product([1, 3], Norm, [False, True]))
    ],
)
def test_chosen_positions_get_the_vectors_that_all_would_get(tiny_encoder, norm, layers, causal):
    model = Encoder(replace(tiny_encoder, norm=norm, layers=layers, causal=causal))
    batch = make_batch(tiny_encoder)
    params = random_params(model, batch)
    positions = np.random.default_rng(0).integers(0, 14, (16, 5), dtype=np.int32)
    rows = np.arange(16)[:, None]
    weights = np.random.default_rng(1).standard_normal((16, 5, 24), dtype=np.float32)

    def encode(params: Any, *positions: Any) -> Any:
        return model.apply({"params": params}, batch, *positions, deterministic=True)

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        x = encode(params, positions)
        return jnp.sum(weights * x), x

    def loss_of_all(params: Any) -> tuple[jax.Array, jax.Array]:
        x = encode(params)[rows, positions]
        return jnp.sum(weights * x), x

    (gradient, x), (expected, wanted) = (
        jax.jit(jax.grad(f, has_aux=True))(params) for f in (loss, loss_of_all)
    )
    np.testing.assert_allclose(x, wanted, atol=1e-5)
    for leaf, wanted in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, wanted, atol=1e-5 * max(1, np.abs(wanted).max()))


def test_heads_make_the_last_layer_compute_only_what_they_read(tiny_encoder):
    """The products of the last feed-forward have a row for each masked or pooled slot alone."""
    batch = with_targets(make_batch(tiny_encoder))
    slots = batch["mlm_positions"].shape[1] + batch["pool_positions"].shape[1]
    assert slots != 14
    for model, wanted in (
        (PretrainingModel(tiny_encoder), slots),
        (classification_model(tiny_encoder), batch["pool_positions"].shape[1]),
    ):
        program = jax.make_jaxpr(forward(model))(random_params(model, batch), batch)
        shapes = [each.outvars[0].aval.shape for each in products(program.jaxpr)]
        lengths = [shape[1] for shape in shapes if shape[::2] == (16, 40)]
        assert sorted(lengths) == sorted([14, wanted])


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_gelu_is_the_exact_one(kind):
    x = jnp.linspace(-12, 12, 4001).astype(kind)
    wide = np.asarray(x, np.float64)
    exact = wide * np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in wide])
    y = gelu(x)
    assert y.dtype == x.dtype
    # Within a rounding of the result, and of 1 + erf in float32.
    error = np.abs(np.asarray(y, np.float64) - exact)
    step = float(jnp.finfo(kind).eps)
    assert (error <= step * np.abs(exact) + 3e-7 * np.abs(wide)).all()


@pytest.mark.parametrize(
    ("activation", "formula"),
    [
        (
            Activation.GELU_TANH,
            lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        ),
        (Activation.RELU, lambda x: np.maximum(x, 0)),
    ],
)
def test_other_activations(activation, formula):
    x = jnp.linspace(-6, 6, 401)
    expected = formula(np.asarray(x, np.float64))
    np.testing.assert_allclose(ACTIVATIONS[activation](x), expected, atol=1e-6)
    assert ACTIVATIONS[activation](x.astype("bfloat16")).dtype == "bfloat16"


# --- dropout


@pytest.mark.parametrize("rate", [0.0, 1e-9, 1 - 1e-9])
def test_dropout_stays_finite_at_the_ends_of_its_range(rate):
    x = dropout(jnp.ones((7, 9)), rate, run_key(0))
    assert np.isfinite(x).all()
    assert (np.asarray(x) == 1).all() == (rate < 0.5)


@pytest.mark.parametrize("field", ["dropout_rate", "attention_dropout_rate"])
def test_each_dropout_acts_only_when_asked(tiny_encoder, field):
    model = Encoder(replace(without_dropout(tiny_encoder), **{field: 0.3}))
    batch = make_batch(tiny_encoder)
    params, encode = random_params(model, batch), forward(model)
    real = batch["example_ids"] > 0
    still, first, again, other = (
        np.asarray(encode(params, batch, key))[real]
        for key in (None, run_key(1), run_key(1), run_key(2))
    )
    np.testing.assert_array_equal(still, np.asarray(encode(params, batch))[real])
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - still).max() > 0.1
    assert np.abs(first - other).max() > 0.1


def test_a_key_alone_does_not_turn_dropout_on():
    x, rngs = jnp.ones((7, 9)), {"dropout": run_key(0)}
    for rate, deterministic, unchanged in (
        (0.5, True, True),
        (0.0, False, True),
        (0.5, False, False),
    ):
        y: Any = Dropout().apply({}, x, rate, deterministic=deterministic, rngs=rngs)
        assert bool((y == x).all()) == unchanged


def test_classifier_has_dropout_of_its_own(tiny_encoder):
    batch = make_batch(tiny_encoder)
    model = classification_model(replace(tiny_encoder, attention_dropout_rate=0.0))
    params, score = random_params(model, batch), forward(model)
    # All that the classifier sees is tanh(1), whatever is dropped before it.
    params["pooler"]["dense"] = {"kernel": np.zeros((24, 24)), "bias": np.ones(24)}
    assert np.abs(score(params, batch, run_key(1)) - score(params, batch)).max() > 0.01


def test_layers_and_sublayers_drop_different_elements(tiny_encoder):
    model = Encoder(replace(tiny_encoder, norm=Norm.PRE, dropout_rate=0.5))
    batch = make_batch(tiny_encoder)
    params = jax.tree.map(np.zeros_like, random_params(model, batch))
    params["final_norm"]["scale"] += 1
    # The residual stream starts at 0, and each of the four branches adds its own 0 or 2.
    for branch, last in (("attention", "out"), ("mlp", "down")):
        params["layers"][branch][last]["bias"] += 1
    x = np.asarray(forward(model)(params, batch, run_key(0)))
    sums = [len(np.unique(token)) for token in x.reshape(-1, 24).round(4)]
    assert max(sums) == 5  # 0, 2, 4, 6 and 8


# --- the residual stream


def test_pre_norm_block_without_branches_is_the_identity(tiny_encoder):
    x = np.random.default_rng(0).standard_normal((16, 14, 24)).astype(np.float32)
    places = np.arange(14, dtype=np.int32)[None]
    seen = Tokens(make_batch(tiny_encoder)["example_ids"], places), None

    def output(norm: Norm) -> jax.Array:
        block = EncoderBlock(replace(tiny_encoder, norm=norm))
        variables = nn.unbox(block.init(run_key(0), x, *seen, deterministic=True))
        for branch, last in (("attention", "out"), ("mlp", "down")):
            leaves = variables["params"][branch]
            leaves[last] = jax.tree.map(jnp.zeros_like, leaves[last])
        return block.apply(variables, x, *seen, deterministic=True)  # type: ignore[return-value]

    np.testing.assert_array_equal(output(Norm.PRE), x)
    assert np.abs(output(Norm.POST) - x).max() > 0.1


@pytest.mark.parametrize("norm", Norm)
def test_output_is_normalised(tiny_encoder, norm):
    model, batch = Encoder(replace(tiny_encoder, norm=norm)), make_batch(tiny_encoder)
    params = random_params(model, batch)
    last = params["final_norm"] if norm is Norm.PRE else params["layers"]["mlp_norm"]
    last["scale"], last["bias"] = (np.ones_like(last["scale"]), np.zeros_like(last["bias"]))
    x = np.asarray(forward(model)(params, batch))
    np.testing.assert_allclose(x.mean(axis=-1), 0, atol=1e-5)
    np.testing.assert_allclose(x.var(axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize("unroll", [2, 3])
def test_unroll_changes_neither_tree_nor_values(tiny_encoder, unroll):
    batch = make_batch(tiny_encoder)
    rolled, unrolled = (
        Encoder(replace(tiny_encoder, layers=3, unroll=times)) for times in (1, unroll)
    )
    params = random_params(rolled, batch)
    assert paths(random_params(unrolled, batch)) == paths(params)
    expected, x = forward(rolled)(params, batch), forward(unrolled)(params, batch)
    np.testing.assert_allclose(x, expected, atol=1e-5)
    # Witness: the program does have that many layers in a row.
    assert f"unroll={unroll}" in str(jax.make_jaxpr(forward(unrolled))(params, batch))


def test_bfloat16_keeps_float32_parameters_and_is_close(tiny_encoder):
    batch = with_targets(make_batch(tiny_encoder))
    model = PretrainingModel(tiny_encoder)
    low = PretrainingModel(replace(tiny_encoder, compute_type=ComputeType.BFLOAT16))
    params = random_params(low, batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    exact, near = forward(model)(params, batch), forward(low)(params, batch)
    assert near.mlm.dtype == near.sentence.dtype == jnp.float32
    assert forward(Encoder(low.config))(params["encoder"], batch).dtype == jnp.bfloat16
    # Every product multiplies bfloat16.
    program = jax.make_jaxpr(forward(low))(params, batch)
    operands = [operand for each in products(program.jaxpr) for operand in each.invars]
    assert len(operands) > 16
    assert {operand.aval.dtype for operand in operands} == {np.dtype("bfloat16")}
    real = batch["example_ids"] > 0
    error = np.abs(near.mlm - exact.mlm)[real]
    spread = np.std(exact.mlm[real])
    assert 1e-4 * spread < error.mean() < 0.02 * spread


# --- parameters


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (EncoderConfig(vocab_size=30522), 110_106_428),  # BERT base
        (
            EncoderConfig(vocab_size=30522, width=1024, layers=24, heads=16, mlp_width=4096),
            336_226_108,  # BERT large
        ),
    ],
)
def test_published_sizes_have_their_published_counts(config, count):
    model = PretrainingModel(config)
    batch = {name: jnp.zeros((1, 1), jnp.int32) for name in with_targets(make_batch(config))}
    init = functools.partial(model.init, deterministic=True)
    leaves = jax.tree.leaves(jax.eval_shape(init, run_key(0), batch))
    assert sum(leaf.size for leaf in leaves) == count


def test_parameter_paths_and_shapes(tiny_encoder):
    """Checkpoints carry these names: a change needs a way to read the old ones."""
    batch = with_targets(make_batch(tiny_encoder))
    encoder = {
        "encoder/embeddings/norm/bias": (24,),
        "encoder/embeddings/norm/scale": (24,),
        "encoder/embeddings/positions": (18, 24),
        "encoder/embeddings/segments": (2, 24),
        "encoder/embeddings/tokens": (60, 24),
        "encoder/layers/attention/key/bias": (2, 4, 6),
        "encoder/layers/attention/key/kernel": (2, 24, 4, 6),
        "encoder/layers/attention/out/bias": (2, 24),
        "encoder/layers/attention/out/kernel": (2, 4, 6, 24),
        "encoder/layers/attention/query/bias": (2, 4, 6),
        "encoder/layers/attention/query/kernel": (2, 24, 4, 6),
        "encoder/layers/attention/value/bias": (2, 4, 6),
        "encoder/layers/attention/value/kernel": (2, 24, 4, 6),
        "encoder/layers/attention_norm/bias": (2, 24),
        "encoder/layers/attention_norm/scale": (2, 24),
        "encoder/layers/mlp/down/bias": (2, 24),
        "encoder/layers/mlp/down/kernel": (2, 40, 24),
        "encoder/layers/mlp/up/bias": (2, 40),
        "encoder/layers/mlp/up/kernel": (2, 24, 40),
        "encoder/layers/mlp_norm/bias": (2, 24),
        "encoder/layers/mlp_norm/scale": (2, 24),
        "pooler/dense/bias": (24,),
        "pooler/dense/kernel": (24, 24),
    }
    pretraining = encoder | {
        "mlm_head/bias": (60,),
        "mlm_head/norm/bias": (24,),
        "mlm_head/norm/scale": (24,),
        "mlm_head/transform/bias": (24,),
        "mlm_head/transform/kernel": (24, 24),
        "nsp_head/dense/bias": (2,),
        "nsp_head/dense/kernel": (24, 2),
    }
    classification = encoder | {"classifier/dense/bias": (3,), "classifier/dense/kernel": (24, 3)}
    assert paths(random_params(PretrainingModel(tiny_encoder), batch)) == pretraining
    assert paths(random_params(classification_model(tiny_encoder), batch)) == classification
    pre_norm = PretrainingModel(replace(tiny_encoder, norm=Norm.PRE))
    final = {"encoder/final_norm/bias": (24,), "encoder/final_norm/scale": (24,)}
    assert paths(random_params(pre_norm, batch)) == pretraining | final


def initial_params(config: EncoderConfig) -> Any:
    model, batch = PretrainingModel(config), with_targets(make_batch(config))
    variables = jax.jit(functools.partial(model.init, deterministic=True))(run_key(0), batch)
    return nn.unbox(variables)["params"]


def test_initial_values_are_the_published_ones(tiny_encoder):
    params = initial_params(replace(tiny_encoder, width=96, mlp_width=160))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        leaf, name = np.asarray(leaf), path[-1].key
        if name in ("bias", "scale"):
            np.testing.assert_array_equal(leaf, 1 if name == "scale" else 0)
        else:
            assert np.abs(leaf).max() <= 0.04  # cut at two standard deviations
            if leaf.size > 1000:  # of the cut distribution: 0.8796 x 0.02
                np.testing.assert_allclose(leaf.std(), 0.01759, rtol=0.1)
        if path[1].key == "layers" and name == "kernel":
            assert (leaf[0] != leaf[1]).mean() > 0.99


def test_a_sinusoidal_position_table_begins_as_published(tiny_encoder):
    config = replace(tiny_encoder, position_init=PositionInit.SINUSOIDAL)
    drawn, params = initial_params(tiny_encoder), initial_params(config)
    table = params["encoder"]["embeddings"].pop("positions")
    assert table.shape == drawn["encoder"]["embeddings"].pop("positions").shape
    jax.tree.map(np.testing.assert_array_equal, params, drawn)  # no other value depends on it
    # Vaswani et al., section 3.5, with the channels of one kind side by side.
    for position in (0, 1, 7, config.max_length - 1):
        for channel in (0, 1, config.width // 2 - 1):
            angle = position / 10_000 ** (2 * channel / config.width)
            found = table[position, [channel, channel + config.width // 2]] / 0.02 / 2**0.5
            np.testing.assert_allclose(found, [math.sin(angle), math.cos(angle)], atol=1e-5)


@pytest.mark.parametrize("norm", list(Norm))
def test_the_last_layers_side_by_side(tiny_encoder, norm):
    config = replace(tiny_encoder, layers=4, norm=norm)
    batch = make_batch(config)
    positions = batch["pool_positions"]
    encoder = Encoder(config)
    params = random_params(encoder, batch)
    apply = functools.partial(encoder.apply, deterministic=True)
    together = apply({"params": params}, batch, positions, layers=3)
    assert together.shape == (16, 2, 3 * 24)
    for number, layers in enumerate((2, 3, 4)):
        # Witness: encoders that end earlier.
        shallow = Encoder(replace(config, layers=layers))
        cut = params | {"layers": jax.tree.map(lambda leaf, n=layers: leaf[:n], params["layers"])}
        alone = shallow.apply({"params": cut}, batch, positions, deterministic=True)
        part = together[:, :, 24 * number : 24 * (number + 1)]
        np.testing.assert_allclose(part, alone, rtol=1e-5, atol=1e-5)
