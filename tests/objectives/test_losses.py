"""Losses: against NumPy, and as sums that add."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import EncoderConfig
from bert_jax.data.tasks.rows import BatchFormat, TaskInputs, TaskStream, input_sizes
from bert_jax.model.heads import PretrainingModel, TaskModel
from bert_jax.objectives import losses
from bert_jax.training.state import run_key
from tests.fixtures.batches import classification_model, make_batch, random_params, with_targets
from tests.fixtures.data import SPECIAL


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


def test_the_first_of_equal_logits_counts_and_nan_never_is_right():
    nan = float("nan")
    logits = jnp.array([[[1, 2, 2], [2, 2, 1], [0, 0, 0], [nan, 1, 0], [nan, nan, nan]]] * 3)
    labels = jnp.repeat(jnp.arange(3, dtype=jnp.int32)[:, None], 5, axis=1)
    ones = jnp.ones(labels.shape)
    right = np.argmax(logits[:, :3], axis=-1) == labels[:, :3]
    for slot in range(3):
        total = losses.accuracy(logits[:, [slot]], labels[:, [slot]], ones[:, [slot]])
        assert total == (right[:, slot].sum(), 3)
    assert losses.accuracy(logits[:, 3:], labels[:, 3:], ones[:, 3:]) == (0, 6)


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
    model, batch = classification_model(tiny_encoder), make_batch(tiny_encoder)
    params = random_params(model, batch)
    logits = jax.jit(functools.partial(model.apply, deterministic=True))({"params": params}, batch)
    batch["labels"] = np.asarray(logits).argmax(axis=-1).astype(np.int32)
    batch["labels"][:5] = (batch["labels"][:5] + 1) % 3  # wrong in five rows
    loss, totals = jax.jit(losses.make_task_loss(model, losses.class_totals))(params, batch, None)

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


def test_smoothing_and_class_weights_agree_with_numpy(slots):
    logits, labels, weights = slots
    of_class = np.random.default_rng(1).uniform(0.5, 2, 60)
    batch = {"labels": labels, "weights": weights}
    totals = losses.class_totals(
        logits, batch, label_smoothing=0.1, class_weights=tuple(of_class.tolist())
    )
    loss = losses.mean(totals["loss"])
    scores = np.asarray(logits, np.float64)
    logs = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    target = 0.9 * np.eye(60)[np.asarray(labels)] + 0.1 / 60
    in_loss = np.asarray(weights) * of_class[np.asarray(labels)]
    expected = -((logs * target).sum(axis=-1) * in_loss).sum() / in_loss.sum()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    # How often it is right is told of the examples as they are.
    assert totals["accuracy"] == losses.accuracy(*slots)


def test_the_error_of_numbers_agrees_with_numpy():
    rng = np.random.default_rng(0)
    values, labels = rng.standard_normal((5, 3, 1)), rng.standard_normal((5, 3))
    weights = rng.choice([0.0, 1.0], (5, 3))
    batch = {"labels": jnp.asarray(labels), "weights": jnp.asarray(weights)}
    total = losses.number_totals(jnp.asarray(values), batch)["loss"]
    expected = ((values[:, :, 0] - labels) ** 2)[weights > 0].mean()
    np.testing.assert_allclose(losses.mean(total), expected, rtol=1e-5)
    assert total.weight == weights.sum()


def test_span_loss_agrees_with_numpy(tiny_encoder):
    batch = make_batch(tiny_encoder)
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((16, 14, 2)).astype(np.float32)
    batch["labels"] = np.zeros((16, 2, 2), np.int32)
    expected, right = [], 0
    for row, slot in zip(*np.nonzero(batch["weights"]), strict=True):
        own = np.flatnonzero(batch["example_ids"][row] == slot + 1)
        labels = np.sort(rng.integers(0, len(own), 2))
        if rng.random() < 0.3:
            labels = logits[row, own].argmax(axis=0)
        batch["labels"][row, slot] = labels
        scores = np.asarray(logits[row, own], np.float64)
        logs = scores - np.log(np.exp(scores).sum(axis=0))
        expected.append(-(logs[labels[0], 0] + logs[labels[1], 1]) / 2)
        right += bool((labels == scores.argmax(axis=0)).all())
    totals = losses.span_totals(jnp.asarray(logits), batch)
    np.testing.assert_allclose(losses.mean(totals["loss"]), np.mean(expected), rtol=1e-5)
    assert totals["accuracy"] == (right, len(expected)) and right > 0


def packed_and_padded(task: str) -> tuple[dict, dict, TaskModel]:
    """Returns the same inputs, several in a row and one in a row, and a model for them."""
    encoder = EncoderConfig(vocab_size=60, width=24, layers=2, heads=4, mlp_width=40, max_length=32)
    rng = np.random.default_rng(0)
    a = [rng.integers(5, 60, rng.integers(1, 8)).astype(np.int32) for _ in range(23)]
    b = [rng.integers(5, 60, rng.integers(1, 8)).astype(np.int32) for _ in range(23)]
    sizes = input_sizes(a, b, SPECIAL)
    labels = {
        "classes": lambda: rng.integers(0, 3, 23).astype(np.int32),
        "spans": lambda: np.sort(rng.integers(0, sizes[:, None], (23, 2)).astype(np.int32), axis=1),
        "tags": lambda: [rng.integers(-1, 3, size).astype(np.int32) for size in sizes],
    }[task]()
    inputs = TaskInputs(a, b, labels, np.arange(23), SPECIAL)
    batches = []
    for most in (4, 1):
        batch_format = BatchFormat(32, most, SPECIAL, False, 23)
        dealt = batch_format.deal(inputs, epochs=1, seed=0, rows_multiple=1)
        batches.append(TaskStream(inputs, dealt, batch_format).rows(np.arange(dealt.rows)))
    assert len(batches[0]["token_ids"]) < 0.6 * len(batches[1]["token_ids"]) == 0.6 * 23
    head, outputs = {"classes": ("classifier", 3), "spans": ("span", 2), "tags": ("tagger", 3)}[
        task
    ]
    return *batches, TaskModel(encoder, head, outputs, whole_inputs=task == "classes")


@pytest.mark.parametrize("task", ["classes", "spans", "tags"])
def test_packed_and_padded_rows_have_one_loss_and_gradient(task):
    packed, padded, model = packed_and_padded(task)
    totals_of = losses.span_totals if task == "spans" else losses.class_totals
    params = random_params(model, padded)
    loss_fn = losses.make_task_loss(model, totals_of)
    step = jax.jit(jax.value_and_grad(functools.partial(loss_fn, dropout_key=None), has_aux=True))
    (loss, totals), grads = step(params, packed)
    (expected, expected_totals), expected_grads = step(params, padded)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    for name, total in totals.items():
        assert total.weight == expected_totals[name].weight
    for ours, theirs in zip(*map(jax.tree.leaves, (grads, expected_grads)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_frozen_encoder_has_no_gradient_and_no_dropout(tiny_encoder):
    batch, key = make_batch(tiny_encoder), run_key(0)
    trained = classification_model(tiny_encoder)
    params = random_params(trained, batch)
    for frozen in (False, True):
        model = trained.clone(frozen_encoder=frozen)
        loss_fn = losses.make_task_loss(model, losses.class_totals)
        grads, _ = jax.grad(loss_fn, has_aux=True)(params, batch, key)
        assert all(np.any(leaf) != frozen for leaf in jax.tree.leaves(grads["encoder"]["layers"]))
        assert all(np.any(leaf) for leaf in jax.tree.leaves(grads["classifier"]))
        variables, rngs = {"params": params}, {"dropout": key}
        features = functools.partial(model.apply, variables, batch, method="features", rngs=rngs)
        same = np.array_equal(features(deterministic=False), features(deterministic=True))
        assert same == frozen


def test_a_head_on_given_features_is_the_head_on_the_encoder(tiny_encoder):
    model, batch = classification_model(tiny_encoder), make_batch(tiny_encoder)
    params = random_params(model, batch)
    apply = functools.partial(model.apply, {"params": params}, deterministic=True)
    features = apply(batch, method="features")
    np.testing.assert_array_equal(apply(batch | {"features": features}), apply(batch))


@pytest.mark.parametrize("tied", [True, False])
def test_scoring_some_slots_at_a_time_changes_no_sum(tiny_encoder, tied, monkeypatch):
    model = PretrainingModel(dataclasses.replace(tiny_encoder, mlm_tied=tied))
    batch = with_targets(make_batch(tiny_encoder))  # every position is a slot
    params = random_params(model, batch)
    loss = losses.make_pretraining_loss(model)
    slots = batch["mlm_labels"].shape[1]

    def gradient() -> tuple:
        return jax.jit(jax.value_and_grad(lambda p: loss(p, batch, run_key(0)), has_aux=True))(
            params
        )

    monkeypatch.setattr(losses, "_CHUNK", 5)
    assert slots % 5  # the last chunk is not full
    (value, totals), grads = gradient()
    text = str(jax.make_jaxpr(lambda p: loss(p, batch, None)[0])(params))
    rows, size = len(batch["token_ids"]), tiny_encoder.vocab_size
    assert f"{rows},5,{size}" in text and f"{rows},{slots},{size}" not in text
    monkeypatch.setattr(losses, "_CHUNK", slots)
    (whole, whole_totals), whole_grads = gradient()
    np.testing.assert_allclose(value, whole, rtol=1e-6)
    for name, total in totals.items():
        np.testing.assert_allclose(total, whole_totals[name], rtol=1e-6, err_msg=name)
    for one, other in zip(*map(jax.tree.leaves, (grads, whole_grads)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)
