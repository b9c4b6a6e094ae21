"""The schedule, AdamW against NumPy, weight decay by name, and frozen groups."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax.config import MlpKind, Norm, NormKind, Optimizer, OptimizerConfig, Schedule
from bert_jax.model.heads import PretrainingModel
from bert_jax.training.optimizer import layer_rates, make_optimizer, scale_by_layer_norms
from bert_jax.training.parameter_rules import is_decayed
from bert_jax.training.schedules import learning_rate_schedule, task_settings
from tests.fixtures.batches import classification_model, make_batch, random_params, with_targets


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [
        (10, {0: 0, 1: 0.1, 5: 0.5, 10: 1, 11: 29 / 30, 25: 0.5, 39: 1 / 30, 40: 0, 50: 0}),
        (0, {0: 1, 20: 0.5, 40: 0}),
    ],
)
def test_schedule_rises_to_the_rate_and_falls_to_zero(warmup, expected):
    config = OptimizerConfig(learning_rate=3e-3, warmup_steps=warmup)
    schedule = learning_rate_schedule(config, steps=40)
    for step, share in expected.items():
        np.testing.assert_allclose(schedule(step), 3e-3 * share, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"schedule": Schedule.POLYNOMIAL}, {5: 0.5, 10: 1, 25: 0.25, 40: 0}),
        ({"schedule": Schedule.COSINE}, {5: 0.5, 10: 1, 20: 0.75, 25: 0.5, 30: 0.25, 40: 0}),
        (
            {"schedule": Schedule.STABLE, "decay_share": 0.25},
            {5: 0.5, 10: 1, 25: 1, 30: 1, 35: 0.5, 40: 0},
        ),
        # There is no more to fall in than what the warm-up leaves.
        ({"schedule": Schedule.STABLE, "decay_share": 1.0}, {10: 1, 25: 0.5, 40: 0}),
    ],
)
def test_every_schedule_ends_at_zero(changes, expected):
    config = OptimizerConfig(learning_rate=3e-3, warmup_steps=10, **changes)
    schedule = learning_rate_schedule(config, steps=40)
    for step, share in expected.items():
        np.testing.assert_allclose(schedule(step), 3e-3 * share, rtol=1e-5, atol=1e-9)


def descend(
    tx: optax.GradientTransformation,
    params: Any,
    gradients: list[Any],
    rate: optax.Schedule = lambda step: 0.1,
    weight_decay: float = 0.01,
) -> Any:
    """Takes a step for each gradient; returns the last parameters and optimizer state."""
    tx = optax.with_extra_args_support(tx)
    params = jax.tree.map(jnp.asarray, params)
    state = tx.init(params)
    for step, gradient in enumerate(gradients):
        updates, state = tx.update(gradient, state, params, weight_decay=weight_decay)
        params = jax.tree.map(lambda p, u, step=step: p - rate(step) * u, params, updates)
    return params, state


def numpy_adamw(config, params, gradients, steps):
    """AdamW by the formulas of Loshchilov and Hutter (2019), in float64."""
    params = {name: value.astype(np.float64) for name, value in params.items()}
    m = {name: np.zeros_like(value) for name, value in params.items()}
    v = {name: np.zeros_like(value) for name, value in params.items()}
    for step, gradient in enumerate(gradients):
        rising = step / config.warmup_steps
        falling = (steps - step) / (steps - config.warmup_steps)
        rate = config.learning_rate * min(rising, falling)
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradient.values()))
        shrink = min(1, config.clip_norm / norm) if config.clip_norm else 1
        for name, g in gradient.items():
            m[name] = config.beta1 * m[name] + (1 - config.beta1) * g * shrink
            v[name] = config.beta2 * v[name] + (1 - config.beta2) * (g * shrink) ** 2
            m_hat, v_hat = m[name], v[name]
            if config.bias_correction:
                m_hat = m_hat / (1 - config.beta1 ** (step + 1))
                v_hat = v_hat / (1 - config.beta2 ** (step + 1))
            decay = config.weight_decay if name in ("kernel", "tokens") else 0
            update = m_hat / (np.sqrt(v_hat) + config.epsilon) + decay * params[name]
            params[name] = params[name] - rate * update
    return params


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize("bias_correction", [True, False])
def test_five_steps_agree_with_numpy(bias_correction, clip_norm):
    config = OptimizerConfig(
        learning_rate=0.1,
        warmup_steps=2,
        beta1=0.8,
        beta2=0.95,
        epsilon=1e-3,
        weight_decay=0.3,
        bias_correction=bias_correction,
        clip_norm=clip_norm,
    )
    rng = np.random.default_rng(0)
    shapes = {"kernel": (4, 3), "tokens": (5, 2), "bias": (3,), "scale": (2, 4)}
    # Norms below and above the one that clips.
    gradients = [
        {
            name: (size * rng.standard_normal(shape)).astype(np.float32)
            for name, shape in shapes.items()
        }
        for size in (0.05, 3, 0.01, 0.5, 1)
    ]
    norms = [float(optax.tree.norm(gradient)) for gradient in gradients]
    assert min(norms) < 1 < max(norms)
    start = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}

    rate = learning_rate_schedule(config, 7)
    params, _ = descend(make_optimizer(config), start, gradients, rate, weight_decay=0.3)
    expected = numpy_adamw(config, start, gradients, steps=7)
    for name in shapes:
        np.testing.assert_allclose(params[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_biases_and_layer_norms_are_not_decayed(tiny_encoder):
    model = PretrainingModel(tiny_encoder)
    decayed = is_decayed(random_params(model, with_targets(make_batch(tiny_encoder))))
    leaves = jax.tree_util.tree_leaves_with_path(decayed)
    names = {"/".join(k.key for k in path): bool(leaf) for path, leaf in leaves}
    layer = "encoder/layers"
    assert {name for name, leaf in names.items() if leaf} == {
        "encoder/embeddings/tokens",
        "encoder/embeddings/positions",
        "encoder/embeddings/segments",
        *(f"{layer}/attention/{part}/kernel" for part in ("query", "key", "value", "out")),
        f"{layer}/mlp/up/kernel",
        f"{layer}/mlp/down/kernel",
        "mlm_head/transform/kernel",
        "nsp_head/dense/kernel",
        "pooler/dense/kernel",
    }


@pytest.mark.parametrize("rule", Optimizer)
def test_what_is_no_kernel_or_table_never_decays(rule: Optimizer, tiny_encoder) -> None:
    """(families.md, 16) Every norm there is, by its role and not by its name."""
    encoder = dataclasses.replace(
        tiny_encoder,
        norm=Norm.PRE,
        norm_kind=NormKind.RMS_NORM,
        qk_norm=True,
        biases=False,
        embedding_width=16,
        mlp=MlpKind.GATED,
    )
    start = random_params(PretrainingModel(encoder), with_targets(make_batch(encoder)))
    zeros = jax.tree.map(jnp.zeros_like, start)
    tx = make_optimizer(OptimizerConfig(rule=rule))
    moved, _ = descend(tx, start, [zeros], lambda step: 0.5, weight_decay=0.1)
    leaves = jax.tree_util.tree_leaves_with_path(start)
    for (path, before), after in zip(leaves, jax.tree.leaves(moved), strict=True):
        name = "/".join(key.key for key in path)
        is_kernel = name.endswith(("kernel", "embeddings/tokens", "positions", "segments"))
        # LAMB gives an update of decay alone the norm of its parameter.
        share = (0.5 if rule is Optimizer.LAMB else 0.05) if is_kernel else 0.0
        np.testing.assert_allclose(after, before * (1 - share), rtol=1e-5, err_msg=name)


@pytest.mark.hf
def test_20_steps_of_stable_adamw_agree_with_a_torch_loop(tiny_encoder) -> None:
    """As ModernBERT trains: debiased betas, a spread for each array, decay by rate / highest."""
    torch = pytest.importorskip("torch")
    config = OptimizerConfig(
        rule=Optimizer.STABLE_ADAMW,
        learning_rate=0.02,
        warmup_steps=5,
        beta2=0.98,
        weight_decay=0.05,
        decoupled_decay=True,
        clip_norm=0.0,
    )
    params = random_params(classification_model(tiny_encoder), make_batch(tiny_encoder))
    rng = np.random.default_rng(0)
    # Each step's gradients have another size, so that some surprise.
    gradients = [
        jax.tree.map(
            lambda p, size=size: (size * rng.standard_normal(p.shape)).astype(np.float32), params
        )
        for size in np.exp(rng.standard_normal(20))
    ]
    settings = task_settings(config, 20)
    ours, state = jax.tree.map(jnp.asarray, params), None
    tx = make_optimizer(config)
    state = tx.init(ours)
    for step, gradient in enumerate(gradients):
        now = settings(step)
        updates, state = tx.update(gradient, state, ours, weight_decay=now.weight_decay)
        ours = jax.tree.map(lambda p, u, now=now: p - now.learning_rate * u, ours, updates)

    def by_layer(tree: Any) -> dict[str, np.ndarray]:
        found = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = "/".join(key.key for key in path)
            parts = enumerate(leaf) if "layers" in name else [(0, leaf)]
            found |= {f"{name} {number}": np.asarray(part) for number, part in parts}
        return found

    weights = {name: torch.tensor(value) for name, value in by_layer(params).items()}
    first = {name: torch.zeros_like(value) for name, value in weights.items()}
    second = {name: torch.zeros_like(value) for name, value in weights.items()}
    slowed = 0
    for step, gradient in enumerate(map(by_layer, gradients)):
        rate = config.learning_rate * min(step / 5, (20 - step) / 15)
        beta1, beta2 = (
            (beta ** (step + 1) - beta) / (beta ** (step + 1) - 1)
            for beta in (config.beta1, config.beta2)
        )
        for name, weight in weights.items():
            g = torch.tensor(gradient[name])
            first[name] = torch.lerp(g, first[name], beta1)
            second[name] = beta2 * second[name] + (1 - beta2) * g * g
            spread = (g**2 / second[name].clamp(min=config.epsilon**2)).mean().sqrt()
            slowed += spread > 1.05
            if not name.split(" ")[0].endswith(("bias", "scale")):
                weight = weight * (1 - config.weight_decay * rate / config.learning_rate)
            update = first[name] / (second[name].sqrt() + config.epsilon)
            weights[name] = weight - rate / max(1, spread) * update
    assert slowed > 20
    for name, value in by_layer(ours).items():
        np.testing.assert_allclose(value, weights[name], rtol=0, atol=5e-6, err_msg=name)


@pytest.mark.parametrize("bias_correction", [True, False])
def test_frozen_groups_keep_their_values_and_have_no_moments(tiny_encoder, bias_correction):
    model, batch = classification_model(tiny_encoder), make_batch(tiny_encoder)
    start = random_params(model, batch)
    config = OptimizerConfig(warmup_steps=0, bias_correction=bias_correction)
    tx = make_optimizer(config, frozen=frozenset({"encoder", "pooler"}))
    params, state = descend(tx, start, 3 * [jax.tree.map(jnp.ones_like, start)])
    classifier = sum(leaf.size for leaf in jax.tree.leaves(start["classifier"]))
    assert sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim) == 2 * classifier
    for group in ("encoder", "pooler"):
        for leaf, before in zip(
            jax.tree.leaves(params[group]), jax.tree.leaves(start[group]), strict=True
        ):
            np.testing.assert_array_equal(leaf, before)
    for name, leaf in params["classifier"]["dense"].items():
        assert (leaf != start["classifier"]["dense"][name]).all()


def test_frozen_gradients_do_not_count_in_clipping():
    params = {"encoder": {"kernel": jnp.ones(3)}, "classifier": {"bias": jnp.ones(2)}}
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=0, bias_correction=False)
    tx = make_optimizer(config, frozen=frozenset({"encoder"}))
    small = jax.tree.map(lambda leaf: 0.1 * jnp.ones_like(leaf), params)
    huge = small | {"encoder": {"kernel": 1e6 * jnp.ones(3)}}
    (expected, _), (clipped, _) = (descend(tx, params, [g]) for g in (small, huge))
    np.testing.assert_array_equal(clipped["classifier"]["bias"], expected["classifier"]["bias"])
    assert (clipped["classifier"]["bias"] != 1).all()


def test_layer_rates_fall_from_the_head_down(tiny_encoder):
    model, batch = classification_model(tiny_encoder), make_batch(tiny_encoder)
    start = random_params(model, batch)
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=0, weight_decay=0.0, clip_norm=0.0)
    rates = functools.partial(layer_rates, decay=0.5, head=4.0)
    moved, _ = descend(
        make_optimizer(config, relative_rates=rates),
        start,
        [jax.tree.map(jnp.ones_like, start)],
        weight_decay=0.0,
    )
    steps = jax.tree.map(lambda a, b: np.asarray(a - b), start, moved)
    for leaf in jax.tree.leaves(steps["encoder"]["layers"]):
        np.testing.assert_allclose(leaf[1], 0.1 * 0.5, rtol=1e-3)
        np.testing.assert_allclose(leaf[0], 0.1 * 0.25, rtol=1e-3)
    for leaf in jax.tree.leaves(steps["encoder"]["embeddings"]):
        np.testing.assert_allclose(leaf, 0.1 * 0.125, rtol=1e-3)
    for group in ("pooler", "classifier"):
        for leaf in jax.tree.leaves(steps[group]):
            np.testing.assert_allclose(leaf, 0.4, rtol=1e-3)


def test_lamb_on_stacked_layers_is_optax_lamb_on_the_layers_one_by_one(tiny_encoder):
    batch = make_batch(tiny_encoder)
    start = random_params(classification_model(tiny_encoder), batch)
    config = OptimizerConfig(
        rule=Optimizer.LAMB, learning_rate=0.01, warmup_steps=2, weight_decay=0.1, clip_norm=0.0
    )
    rng = np.random.default_rng(0)
    gradients = [
        jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), start)
        for _ in range(4)
    ]
    rate = learning_rate_schedule(config, 9)
    ours, _ = descend(make_optimizer(config), start, gradients, rate, weight_decay=0.1)

    def unstack(tree: Any) -> Any:
        layers = tree["encoder"]["layers"]
        one_by_one = [jax.tree.map(lambda leaf, n=n: leaf[n], layers) for n in range(2)]
        return tree | {"encoder": tree["encoder"] | {"layers": dict(enumerate(one_by_one))}}

    lamb = optax.lamb(
        rate,
        config.beta1,
        config.beta2,
        config.epsilon,
        weight_decay=config.weight_decay,
        mask=is_decayed,
    )
    theirs, _ = descend(
        lamb, unstack(start), [unstack(each) for each in gradients], lambda step: -1.0
    )
    for one, other in zip(*map(jax.tree.leaves, (unstack(ours), theirs)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_lamb_leaves_the_update_of_a_zero_parameter_as_it_is():
    params = {"a": jnp.zeros(3), "b": jnp.array([3.0, 4.0])}
    updates = {"a": jnp.array([1.0, 2.0, 2.0]), "b": jnp.array([0.0, 2.0])}
    scaled, _ = scale_by_layer_norms().update(updates, optax.EmptyState(), params)
    np.testing.assert_allclose(scaled["a"], updates["a"])
    np.testing.assert_allclose(scaled["b"], [0.0, 5.0])
