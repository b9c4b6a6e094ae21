"""Losses: against NumPy, and as sums that add."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_batch, random_params, with_targets

from bert_jax import losses
from bert_jax.heads import ClassificationModel, PretrainingModel
from bert_jax.training import run_key


@pytest.fixture
def slots() -> tuple[jax.Array, jax.Array, jax.Array]:
    """Logits, labels and fractional weights of 16 rows of 5 slots over 60 tokens."""
    rng = np.random.default_rng(0)
    logits = 4 * rng.standard_normal((16, 5, 60)) + 100  # far from 0: exp must not overflow
    weights = rng.choice([0, 0.5, 1, 2], (16, 5))
    return (
        jnp.asarray(logits, jnp.float32),
        jnp.asarray(rng.integers(0, 60, (16, 5)), jnp.int32),
        jnp.asarray(weights, jnp.float32),
    )


def test_cross_entropy_agrees_with_numpy(slots):
    logits, labels, weights = (np.asarray(x, np.float64) for x in slots)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = 0.0
    for row, slot in np.ndindex(*labels.shape):
        # The whole loss is on the label: no smoothing.
        label = int(labels[row, slot])
        expected -= weights[row, slot] * np.log(probabilities[row, slot, label])
    total = losses.cross_entropy(*slots)
    np.testing.assert_allclose(total.sum, expected, rtol=1e-5)
    assert total.weight == weights.sum()


def test_accuracy_agrees_with_numpy(slots):
    logits, labels, weights = slots
    labels = labels.at[:, :3].set(jnp.argmax(logits[:, :3], axis=-1))
    total = losses.accuracy(logits, labels, weights)
    hits = np.asarray(logits).argmax(axis=-1) == np.asarray(labels)
    assert 0.5 < hits.mean() < 1
    assert total.sum == np.asarray(weights)[hits].sum()
    assert total.weight == np.asarray(weights).sum()


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.accuracy])
def test_halves_add_to_the_whole(slots, loss):
    whole = loss(*slots)
    # Halves of unequal weight: a mean of their means would be wrong.
    first, second = (loss(*(x[rows] for x in slots)) for rows in (slice(3), slice(3, 16)))
    np.testing.assert_allclose(first.sum + second.sum, whole.sum, rtol=1e-6)
    assert first.weight + second.weight == whole.weight
    mean_of_means = (losses.mean(first) + losses.mean(second)) / 2
    assert abs(mean_of_means - losses.mean(whole)) > 1e-3


def test_mean_divides():
    assert losses.mean(losses.Total(jnp.float32(3), jnp.float32(4))) == 0.75


def test_no_weight_gives_zero_and_no_gradient(slots):
    logits, labels, weights = slots

    def loss(logits: jax.Array) -> jax.Array:
        return losses.mean(losses.cross_entropy(logits, labels, 0 * weights))

    value, gradient = jax.value_and_grad(loss)(logits)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_slots_without_weight_do_not_matter(slots):
    logits, labels, weights = slots
    other = jnp.where((weights == 0)[:, :, None], -7.0, logits)
    assert losses.cross_entropy(other, labels, weights) == losses.cross_entropy(*slots)


def test_pretraining_loss_is_the_sum_of_two_means(tiny_encoder):
    model = PretrainingModel(tiny_encoder)
    batch = with_targets(make_batch(tiny_encoder))
    batch["weights"][:4] = 0
    params = random_params(model, batch)
    loss_fn = jax.jit(losses.make_pretraining_loss(model))
    loss, totals = loss_fn(params, batch, None)
    logits = jax.jit(functools.partial(model.apply, deterministic=True))({"params": params}, batch)

    expected = {}
    for name, scores, labels, weights in (
        ("mlm", logits.mlm, batch["mlm_labels"], batch["mlm_weights"]),  # type: ignore[union-attr]
        ("nsp", logits.sentence, batch["labels"], batch["weights"]),  # type: ignore[union-attr]
    ):
        chosen, scores = (labels[weights > 0], np.asarray(scores, np.float64)[weights > 0])
        logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        expected[f"{name}_loss"] = -logs[np.arange(len(chosen)), chosen].mean()
        expected[f"{name}_accuracy"] = (scores.argmax(axis=1) == chosen).mean()
        assert totals[f"{name}_loss"].weight == totals[f"{name}_accuracy"].weight == len(chosen)
    expected["nsp_random_share"] = batch["labels"][batch["weights"] > 0].mean()
    assert 0 < expected["nsp_random_share"] < 1
    assert totals.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(losses.mean(totals[name]), value, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(loss, expected["mlm_loss"] + expected["nsp_loss"], rtol=1e-5)
    # Only a key turns dropout on.
    assert abs(loss_fn(params, batch, run_key(0))[0] - loss) > 1e-3


def test_classification_loss_is_a_mean_over_weighted_examples(tiny_encoder):
    model, batch = ClassificationModel(tiny_encoder, classes=3), make_batch(tiny_encoder)
    params = random_params(model, batch)
    logits = jax.jit(functools.partial(model.apply, deterministic=True))({"params": params}, batch)
    batch["labels"] = np.asarray(logits).argmax(axis=-1).astype(np.int32)
    batch["labels"][:5] = (batch["labels"][:5] + 1) % 3  # wrong in five rows
    loss, totals = jax.jit(losses.make_classification_loss(model))(params, batch, None)

    used = batch["weights"] > 0
    assert 0.5 < used.mean() < 1
    scores, labels = np.asarray(logits, np.float64)[used], batch["labels"][used]
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(loss, -logs[np.arange(len(labels)), labels].mean(), rtol=1e-5)
    hits = (scores.argmax(axis=1) == labels).mean()
    assert 0.6 < hits < 1
    np.testing.assert_allclose(losses.mean(totals["accuracy"]), hits, rtol=1e-6)
    assert totals["loss"].weight == totals["accuracy"].weight == used.sum()


def test_gradient_is_finite_for_a_batch_of_padding(tiny_encoder):
    model = PretrainingModel(tiny_encoder)
    batch = jax.tree.map(np.zeros_like, with_targets(make_batch(tiny_encoder)))
    params = random_params(model, batch)
    loss_fn = losses.make_pretraining_loss(model)
    grads, _ = jax.jit(jax.grad(loss_fn, has_aux=True))(params, batch, None)
    for leaf in jax.tree.leaves(grads):
        np.testing.assert_array_equal(leaf, 0)
