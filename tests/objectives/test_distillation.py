"""Each lesson of a teacher against plain PyTorch code, and what a teacher must not do."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import DistillationConfig, DistilledTokens, EncoderConfig
from bert_jax.model.attention import tokens_of, visible
from bert_jax.model.heads import score_tokens, token_scorer
from bert_jax.model.observed import ObservedModel
from bert_jax.objectives import losses
from bert_jax.objectives.distillation import (
    agreement,
    cosine_total,
    hidden_total,
    make_distillation_loss,
    relation_total,
    soft_target_total,
    split_heads,
    taught_classes,
    taught_numbers,
    taught_spans,
)
from bert_jax.objectives.losses import mean
from bert_jax.training.state import run_key
from bert_jax.training.step import accumulate_gradient
from tests.fixtures.batches import make_batch, random_params, with_targets

EVERYTHING = DistillationConfig(
    mlm_weight=2.0,
    soft_weight=5.0,
    cosine_weight=1.0,
    attention_weight=1.0,
    query_weight=0.5,
    key_weight=0.25,
    value_weight=1.0,
    hidden_weight=1.0,
    hidden_pairs="-1:-1,0:1,1:2",
)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def slots(rows: int, length: int) -> np.ndarray:
    """Weights of rows of unequal length."""
    ends = np.random.default_rng(9).integers(1, length + 1, (rows, 1))
    return (np.arange(length) < ends).astype(np.float32)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_soft_targets(temperature: float) -> None:
    torch = pytest.importorskip("torch")
    student, teacher = 3 * draw(2, 8, 100), 3 * draw(2, 8, 100, seed=1)
    weights = slots(2, 8)
    total = soft_target_total(*map(jnp.array, (student, teacher, weights)), temperature)
    # DistilBERT's: "batchmean" over the chosen tokens, which are then the batch.
    chosen = torch.from_numpy(weights) > 0
    logits = [torch.from_numpy(each)[chosen] / temperature for each in (student, teacher)]
    divergence = torch.nn.KLDivLoss(reduction="batchmean")
    expected = divergence(logits[0].log_softmax(-1), logits[1].softmax(-1)) * temperature**2
    assert float(mean(total)) == pytest.approx(float(expected), rel=2e-6)
    # Neither the batch nor the length is in the mean.
    twice = [np.concatenate([each, each]) for each in (student, teacher, weights)]
    longer = [np.concatenate([each, each], axis=1) for each in (student, teacher, weights)]
    for more in (twice, longer):
        again = soft_target_total(*map(jnp.array, more), temperature)
        assert float(mean(again)) == pytest.approx(float(expected), rel=2e-6)


def test_gradients_of_soft_targets_have_one_size_at_all_temperatures() -> None:
    student, teacher = draw(2, 4, 50), jnp.array(draw(2, 4, 50, seed=1))

    def loss(logits: jax.Array, temperature: float) -> jax.Array:
        return mean(soft_target_total(logits, teacher, jnp.ones((2, 4)), temperature))

    sizes = [np.linalg.norm(jax.grad(loss)(student, each)) for each in (1.0, 2.0, 4.0)]
    assert max(sizes) < 2 * min(sizes)


def test_cosine_and_hidden() -> None:
    torch = pytest.importorskip("torch")
    student, teacher, weights = draw(3, 7, 12), draw(3, 7, 12, seed=1), slots(3, 7)
    chosen = torch.from_numpy(weights) > 0
    ours, theirs = (torch.from_numpy(each)[chosen] for each in (student, teacher))
    found = cosine_total(*map(jnp.array, (student, teacher, weights)))
    expected = torch.nn.CosineEmbeddingLoss()(ours, theirs, torch.ones(len(ours)))
    assert float(mean(found)) == pytest.approx(float(expected), rel=1e-5)
    found = hidden_total(*map(jnp.array, (student, teacher, weights)))
    assert float(mean(found)) == pytest.approx(float(torch.nn.MSELoss()(ours, theirs)), rel=1e-5)


@pytest.mark.parametrize("relation_heads", [2, 4, 12])
def test_relations(relation_heads: int) -> None:
    """MiniLM's formulas, a row, an example and a head at a time."""
    torch = pytest.importorskip("torch")
    heads = {"student": 4, "teacher": 6}  # of widths 3 and 4
    ids = np.array([[1, 1, 1, 2, 2, 0], [1, 2, 2, 2, 2, 2]], np.int32)
    vectors = {
        name: [draw(2, 6, count, 24 // count, seed=seed + count) for seed in (1, 2)]
        for name, count in heads.items()
    }
    weights = (ids > 0).astype(np.float32)
    tokens = tokens_of(jnp.array(ids))
    found = relation_total(
        *(
            tuple(split_heads(jnp.array(each), relation_heads) for each in vectors[name])
            for name in heads
        ),
        visible(tokens, tokens, causal=False),
        jnp.array(weights),
    )
    total = 0.0
    width = 24 // relation_heads
    for row in range(2):
        for example in (1, 2):
            own = np.flatnonzero(ids[row] == example)
            for head in range(relation_heads):
                logs = []
                for name in heads:
                    x, y = (
                        torch.from_numpy(each[row, own].reshape(len(own), 24))[
                            :, head * width : (head + 1) * width
                        ]
                        for each in vectors[name]
                    )
                    logs.append((x @ y.T / width**0.5).log_softmax(-1))
                divergence = torch.nn.functional.kl_div(*logs, reduction="sum", log_target=True)
                total += float(divergence) / relation_heads
    assert float(found.sum) == pytest.approx(total, rel=1e-5)
    assert float(found.weight) == weights.sum() == 11


def test_a_token_changes_its_own_row_and_column_alone() -> None:
    for heads in (12, 16):  # of widths 64, to 64 relation heads
        x = draw(1, 5, heads, 64)
        other = x.copy()
        other[0, 2] += 1
        scores = [
            np.einsum("bthk,bshk->bhts", *[np.array(split_heads(jnp.array(each), 64))] * 2)
            for each in (x, other)
        ]
        changed = (scores[0] != scores[1]).any(axis=(0, 1))
        expected = np.zeros((5, 5), bool)
        expected[2], expected[:, 2] = True, True
        np.testing.assert_array_equal(changed, expected)


def test_agreement() -> None:
    logits = np.zeros((1, 3, 4), np.float32)
    logits[0, [0, 1, 2], [1, 2, 3]] = 1
    other = logits.copy()
    other[0, 1, 0] = 2
    total = agreement(jnp.array(logits), jnp.array(other), jnp.array([[1.0, 1.0, 0.0]]))
    assert (float(total.sum), float(total.weight)) == (1, 2)


def masked(encoder: EncoderConfig, **sizes: int) -> Any:
    """A batch whose targets have 8 slots in a row, some of them empty, in no order."""
    batch = with_targets(make_batch(encoder, **sizes))
    order = np.argsort(-batch["mlm_weights"], axis=1, kind="stable")[:, 7::-1]
    fields = "mlm_positions", "mlm_labels", "mlm_weights"
    return batch | {name: np.take_along_axis(batch[name], order, axis=1) for name in fields}


def models(encoder: EncoderConfig, config: DistillationConfig) -> tuple[Any, Any, Any, Any, Any]:
    """A student of two layers, a teacher of three, their parameters, and a batch."""
    theirs = dataclasses.replace(encoder, layers=3, dropout_rate=0.5, attention_dropout_rate=0.5)
    student = ObservedModel(encoder, maps=config.hidden_pairs.count(":"), mapped_width=24)
    teacher = ObservedModel(theirs)
    batch = masked(encoder)
    params = random_params(student, batch, seed=1), random_params(teacher, batch, seed=2)
    return student, teacher, *params, batch


@pytest.mark.parametrize("tokens", list(DistilledTokens))
def test_every_lesson_together(tiny_encoder: EncoderConfig, tokens: DistilledTokens) -> None:
    """The totals are those of the parts, on what the models make of whole rows."""
    config = dataclasses.replace(EVERYTHING, tokens=tokens, student_layer=0, teacher_layer=-2)
    student, teacher, ours, theirs, batch = models(tiny_encoder, config)
    loss = make_distillation_loss(student, teacher, config)
    value, totals = loss.given(theirs)(ours, batch, None)

    def observe(model: Any, params: Any, hidden: list[int], layer: int) -> Any:
        observe = functools.partial(model.apply, {"params": params}, method="observe")
        return observe(batch, None, deterministic=True, hidden=hidden, heads_of=layer)

    mine, other = observe(student, ours, [-1, 0, 1], 0), observe(teacher, theirs, [-1, 1, 2], 1)
    rows = np.arange(16)[:, None]
    at = (rows, batch["mlm_positions"])
    real = (batch["example_ids"] > 0).astype(np.float32)
    counted = real if tokens is DistilledTokens.ALL else (batch["mlm_weights"] > 0).astype("f4")
    vectors = [
        each.vectors if tokens is DistilledTokens.ALL else each.vectors[at]
        for each in (mine, other)
    ]
    logits = [
        score_tokens(model.config, token_scorer(model.config, params), x)
        for model, params, x in zip((student, teacher), (ours, theirs), vectors, strict=True)
    ]
    expected = {
        "soft_loss": soft_target_total(*logits, counted, 2.0),
        "cosine_loss": cosine_total(*vectors, counted),
    }
    for name, total in expected.items():
        np.testing.assert_allclose(totals[name], total, rtol=1e-5)
    mapped = student.apply(
        {"params": ours}, [mine.hidden[each] for each in (-1, 0, 1)], method="map_hidden"
    )
    errors = [
        float(mean(hidden_total(x, other.hidden[number], real)))
        for x, number in zip(mapped, (-1, 1, 2), strict=True)
    ]
    assert float(mean(totals["hidden_loss"])) == pytest.approx(np.mean(errors), rel=1e-5)
    tokens_there = tokens_of(batch["example_ids"])
    mask = visible(tokens_there, tokens_there, causal=False)
    for name, (x, y) in {
        "attention": (0, 1),
        "query": (0, 0),
        "key": (1, 1),
        "value": (2, 2),
    }.items():
        pairs = [(each.heads[x], each.heads[y]) for each in (mine, other)]
        np.testing.assert_allclose(
            totals[f"{name}_loss"], relation_total(*pairs, mask, real), rtol=1e-5
        )
    weights = {name.removesuffix("_loss"): float(mean(total)) for name, total in totals.items()}
    terms = [
        getattr(config, f"{name}_weight") * weights[name]
        for name in ("mlm", "soft", "cosine", "attention", "query", "key", "value", "hidden")
    ]
    assert float(value) == pytest.approx(sum(terms), rel=1e-5)
    assert 0 <= float(mean(totals["agreement"])) <= 1 and "teacher_mlm_loss" in totals


def test_heads_are_compared_over_the_window_of_their_layer(tiny_encoder: EncoderConfig) -> None:
    windowed = dataclasses.replace(tiny_encoder, window=2, global_every=2)  # of layer 1
    config = DistillationConfig(
        attention_weight=1.0, query_weight=1.0, key_weight=1.0, value_weight=1.0, teacher_layer=1
    )
    student, teacher, ours, theirs, batch = models(windowed, config)

    def observe(model: Any, params: Any) -> Any:
        observe = functools.partial(model.apply, {"params": params}, method="observe")
        return observe(batch, None, deterministic=True, hidden=[], heads_of=1).heads

    mine, other = observe(student, ours), observe(teacher, theirs)
    _, totals = make_distillation_loss(student, teacher, config).given(theirs)(ours, batch, None)
    tokens, real = tokens_of(batch["example_ids"]), (batch["example_ids"] > 0).astype("f4")
    mask = visible(tokens, tokens, causal=False, window=2)
    for name, (x, y) in {"attention": (0, 1), "query": (0, 0), "key": (1, 1)}.items():
        pairs = [(each[x], each[y]) for each in (mine, other)]
        expected = relation_total(*pairs, mask, real)
        np.testing.assert_allclose(totals[f"{name}_loss"], expected, rtol=1e-5)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(tiny_encoder: EncoderConfig) -> None:
    config = dataclasses.replace(EVERYTHING, hidden_weight=0.0, hidden_pairs="")
    still = dataclasses.replace(tiny_encoder, dropout_rate=0.0, attention_dropout_rate=0.0)
    _, _, params, _, batch = models(still, config)
    restless = dataclasses.replace(still, dropout_rate=0.5, attention_dropout_rate=0.5)
    loss = make_distillation_loss(ObservedModel(still), ObservedModel(restless), config)
    for _ in range(2):  # the teacher has no dropout, whatever its config says
        _, totals = loss.given(params)(params, batch, run_key(0))
        for name, total in totals.items():
            if not name.startswith("mlm"):
                assert float(mean(total)) == pytest.approx(0, abs=2e-5), name
    learner = make_distillation_loss(ObservedModel(restless), ObservedModel(still), config)
    _, totals = learner.given(params)(params, batch, run_key(0))
    assert float(mean(totals["soft_loss"])) > 1e-3


def test_nothing_is_differentiated_by_the_teacher(tiny_encoder: EncoderConfig) -> None:
    student, teacher, ours, theirs, batch = models(tiny_encoder, EVERYTHING)
    loss = make_distillation_loss(student, teacher, EVERYTHING)

    def value(params: Any, batch: Any) -> jax.Array:
        return loss.given(theirs)(params, batch, None)[0]

    grads = jax.grad(value)(ours, batch)
    assert jax.tree.structure(grads) == jax.tree.structure(ours)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        if "kernel" in str(path):
            assert float(jnp.abs(leaf).max()) > 0, path


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("tokens", list(DistilledTokens))
def test_micro_batches_add_up(
    tiny_encoder: EncoderConfig, tokens: DistilledTokens, parts: int
) -> None:
    from bert_jax.config import MeshConfig
    from bert_jax.distributed.sharding import make_mesh

    config = dataclasses.replace(EVERYTHING, tokens=tokens)
    student, teacher, ours, theirs, batch = models(tiny_encoder, config)
    loss = make_distillation_loss(student, teacher, config).given(theirs)
    still = dataclasses.replace(tiny_encoder, dropout_rate=0.0, attention_dropout_rate=0.0)
    loss = make_distillation_loss(
        dataclasses.replace(student, config=still), teacher, config
    ).given(theirs)
    batch = {name: jnp.array(field) for name, field in batch.items()}
    (value, _), grads = jax.value_and_grad(loss, has_aux=True)(ours, batch, run_key(0))
    mesh = make_mesh(MeshConfig(data=2), jax.devices()[:2])
    (other, _), added = jax.jit(
        lambda params: accumulate_gradient(loss, params, batch, run_key(0), parts, mesh)
    )(ours)
    assert float(other) == pytest.approx(float(value), rel=1e-5)
    for one, two in zip(jax.tree.leaves(grads), jax.tree.leaves(added), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("tokens", list(DistilledTokens))
def test_long_rows_are_compared_a_part_at_a_time(
    tiny_encoder: EncoderConfig, tokens: DistilledTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many tokens are scored in parts, which changes neither totals nor gradients."""
    longer = dataclasses.replace(tiny_encoder, max_length=100)
    config = DistillationConfig(soft_weight=5.0, mlm_weight=2.0, cosine_weight=1.0, tokens=tokens)
    student, teacher = ObservedModel(longer), ObservedModel(dataclasses.replace(longer, layers=1))
    batch = with_targets(make_batch(longer, rows=3, length=100))  # every position is a slot
    ours, theirs = random_params(student, batch), random_params(teacher, batch, seed=1)
    loss = make_distillation_loss(student, teacher, config).given(theirs)

    def gradient() -> tuple[Any, Any]:
        step = jax.jit(jax.value_and_grad(lambda params: loss(params, batch, None), has_aux=True))
        assert ("3x100x60x" in step.lower(ours).as_text()) == (losses._CHUNK == 100)
        return step(ours)

    (value, totals), grads = gradient()
    monkeypatch.setattr(losses, "_CHUNK", 100)
    (whole, whole_totals), whole_grads = gradient()
    np.testing.assert_allclose(value, whole, rtol=1e-6)
    assert totals.keys() == whole_totals.keys()
    for name, total in totals.items():
        np.testing.assert_allclose(total, whole_totals[name], rtol=2e-6, err_msg=name)
    for one, other in zip(*map(jax.tree.leaves, (grads, whole_grads)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_answers_of_a_teacher_of_a_task() -> None:
    torch = pytest.importorskip("torch")
    outputs, taught, weights = draw(2, 5, 4), draw(2, 5, 4, seed=1), slots(2, 5)
    batch = {"taught": jnp.array(taught), "taught_weights": jnp.array(weights)}
    found = taught_classes(jnp.array(outputs), batch, 3.0)
    expected = soft_target_total(*map(jnp.array, (outputs, taught, weights)), 3.0)
    np.testing.assert_allclose(found, expected)
    numbers = taught_numbers(
        jnp.array(outputs[..., :1]), batch | {"taught": jnp.array(taught[..., :1])}, 3.0
    )
    assert float(mean(numbers)) == pytest.approx(
        np.mean((outputs - taught)[..., 0][weights > 0] ** 2), rel=1e-5
    )
    # Answers: two examples in a row, and padding.
    ids = np.array([[1, 1, 1, 2, 2, 0]], np.int32)
    logits, other = draw(1, 6, 2), draw(1, 6, 2, seed=1)
    batch = {"taught": jnp.array(other), "example_ids": jnp.array(ids)}
    batch["taught_weights"] = jnp.ones((1, 2))
    total = 0.0
    for example in (1, 2):
        own = torch.from_numpy(ids[0] == example)
        for side in range(2):
            pair = [torch.from_numpy(each)[0, own, side] / 2 for each in (logits, other)]
            logs = [each.log_softmax(-1) for each in pair]
            divergence = torch.nn.functional.kl_div(*logs, reduction="sum", log_target=True)
            total += 4 * float(divergence) / 2
    found = taught_spans(jnp.array(logits), batch, 2.0)
    assert float(found.sum) == pytest.approx(total, rel=1e-5) and float(found.weight) == 2
