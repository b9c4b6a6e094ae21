"""Losses over all vectors of a batch, against plain PyTorch: values and gradients."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import EncoderConfig, MeshConfig, VectorLoss, VectorPooling, VectorsConfig
from bert_jax.distributed import sharding
from bert_jax.model.heads import VectorModel, normalised
from bert_jax.objectives.contrastive import (
    BatchTexts,
    contrastive_totals,
    counted_pairs,
    gather_texts,
    make_vector_loss,
)
from tests.fixtures.batches import Batch

E, G, D, R, N = 7, 4, 6, 11, 3  # examples, columns, width, rows, slots; 2 places have no text
MODEL = VectorModel(EncoderConfig(width=D), VectorPooling.MEAN, normalised=False)


@dataclasses.dataclass
class Problem:
    """A batch whose texts stand in its slots in a random order."""

    vectors: np.ndarray  # [E, G, D]
    numbers: np.ndarray  # [E, G]
    rights: np.ndarray  # [E, 2]
    scores: np.ndarray  # [E]
    slots: np.ndarray  # [R, N, D]
    batch: Batch


def problem(seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((E, G, D)).astype(np.float32)
    numbers = 1 + np.arange(E * G, dtype=np.int32).reshape(E, G)
    numbers[2, 1] = numbers[4, 1]  # one text is right for two queries
    numbers[5, 2] = numbers[0, 0]  # a wrong text that is another's query
    numbers[3, 3] = numbers[3, 1]  # a text that is right and wrong at once
    numbers[1, 3] = numbers[6, 3] = 0  # two examples have fewer wrong texts
    rights = np.stack([numbers[:, 1], np.zeros(E, np.int32)], axis=1)
    rights[6, 1] = numbers[0, 1]  # the file says so in a row that is not in this batch
    scores = rng.integers(0, 4, E).astype(np.float32)
    fields = ("places", "text_numbers")
    batch: Batch = {name: np.zeros((R, N), np.int32) for name in fields}
    batch |= {"right_numbers": np.zeros((R, N, 2), np.int32)}
    batch |= {"labels": np.zeros((R, N), np.float32)}
    slots = rng.standard_normal((R, N, D)).astype(np.float32)  # also where there is no text
    free = rng.permutation(R * N)
    for example, column in np.argwhere(numbers):
        at = np.unravel_index(free[0], (R, N))
        free = free[1:]
        batch["places"][at] = 1 + example * G + column
        batch["text_numbers"][at] = numbers[example, column]
        batch["right_numbers"][at] = rights[example] if column == 0 else 1  # read of queries alone
        batch["labels"][at] = scores[example]
        slots[at] = vectors[example, column]
    vectors[numbers == 0] = 0
    return Problem(vectors, numbers, rights, scores, slots, batch)


def counted_of(p: Problem) -> np.ndarray:
    """Returns [E, (G - 1) E] bool by the rule as it is told, pair by pair."""
    counted = np.zeros((E, (G - 1) * E), bool)
    for i in range(E):
        for column in range(1, G):
            for j in range(E):
                text = p.numbers[j, column]
                is_own = (j, column) == (i, 1)
                is_right = text in (p.numbers[i, 0], *p.rights[i])
                counted[i, (column - 1) * E + j] = text > 0 and (is_own or not is_right)
    return counted


def texts_of(p: Problem) -> BatchTexts:
    return BatchTexts(*map(jnp.asarray, (p.vectors, p.numbers, p.rights, p.scores)))


def test_texts_are_collected_from_the_slots_of_rows() -> None:
    p = problem()
    found = jax.jit(gather_texts, static_argnums=(2, 3))(p.slots, p.batch, E, G)
    for ours, theirs in zip(found, texts_of(p), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    parts = jax.tree.map(lambda x: x.reshape(1, R, *x.shape[1:]), (p.slots, p.batch))
    for ours, theirs in zip(gather_texts(*parts, E, G), texts_of(p), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_right_and_equal_texts_are_no_negatives() -> None:
    p = problem()
    expected = counted_of(p)
    np.testing.assert_array_equal(counted_pairs(texts_of(p)), expected)
    # Witness: the rule leaves out something of each kind.
    assert not expected[2, 4] and not expected[4, 2]  # the same right text
    assert not expected[0, E + 5]  # the query itself
    assert not expected[3, 2 * E + 3]  # wrong, and right
    assert not expected[6, 0]  # right elsewhere in the file
    assert expected[0, 6] and expected[:, :E].diagonal().all()


CASES = {
    "contrastive": VectorsConfig(temperature=0.3),
    "symmetric": VectorsConfig(temperature=0.2, symmetric=True),
    "plain": VectorsConfig(temperature=0.9, normalised=False, symmetric=True),
    "widths": VectorsConfig(temperature=0.3, widths="2,5"),
    "plain widths": VectorsConfig(temperature=0.9, normalised=False, widths="4"),
    "simcse": VectorsConfig(temperature=0.1, loss=VectorLoss.SIMCSE),
    "cosine": VectorsConfig(loss=VectorLoss.COSINE, highest_score=3.0),
    "cosent": VectorsConfig(loss=VectorLoss.COSENT, temperature=0.4, widths="3"),
}


def torch_loss(torch: Any, p: Problem, settings: VectorsConfig, x: Any) -> Any:
    """Returns the mean over widths of the published formulas."""
    widths = sorted({*map(int, filter(None, settings.widths.split(","))), D})
    return sum(_torch_at(torch, p, settings, x[..., :width]) for width in widths) / len(widths)


def _torch_at(torch: Any, p: Problem, settings: VectorsConfig, x: Any) -> Any:
    functional, scores = torch.nn.functional, torch.tensor(p.scores)
    near = functional.cosine_similarity(x[:, 0], x[:, 1])
    if settings.loss is VectorLoss.COSINE:
        return functional.mse_loss(near, scores / settings.highest_score)
    if settings.loss is VectorLoss.COSENT:
        terms = [torch.zeros(())]
        for i in range(E):
            for j in range(E):
                if scores[i] < scores[j]:
                    terms.append((near[i] - near[j]) / settings.temperature)
        return torch.logsumexp(torch.stack(terms), 0)
    x = functional.normalize(x, dim=-1) if settings.normalised else x
    found = torch.cat([x[:, column] for column in range(1, G)])
    logits = x[:, 0] @ found.T / settings.temperature
    logits = logits.masked_fill(~torch.tensor(counted_of(p)), -torch.inf)
    target = torch.arange(E)
    loss = functional.cross_entropy(logits, target)
    if settings.symmetric:
        loss = (loss + functional.cross_entropy(logits[:, :E].T, target)) / 2
    return loss


@pytest.mark.parametrize("case", CASES)
def test_losses_agree_with_torch(case: str) -> None:
    torch = pytest.importorskip("torch")
    settings = CASES[case]
    loss = make_vector_loss(MODEL, settings, examples=E, columns=G)

    @jax.jit
    def gradient_of(slots: jax.Array, batch: Batch) -> Any:
        def value(slots: jax.Array) -> Any:
            return loss.totals(normalised(slots) if settings.normalised else slots, batch)

        return jax.value_and_grad(value, has_aux=True)(slots)

    for seed in range(3):
        p = problem(seed)
        (ours, _), gradient = gradient_of(p.slots, p.batch)
        x = torch.tensor(p.vectors, requires_grad=True)
        theirs = torch_loss(torch, p, settings, x)
        theirs.backward()
        np.testing.assert_allclose(ours, theirs.item(), rtol=1e-5)
        filled = p.batch["places"] > 0
        at = np.unravel_index(p.batch["places"][filled] - 1, (E, G))
        expected = x.grad.numpy()[at]
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(gradient[filled], expected, rtol=1e-4, atol=2e-6)
        np.testing.assert_array_equal(gradient[~filled], 0)


def test_missing_examples_change_nothing() -> None:
    p = problem()
    for case in ("symmetric", "cosine", "cosent"):
        losses = [
            make_vector_loss(MODEL, CASES[case], examples=E + more, columns=G) for more in (0, 5)
        ]
        values = [jax.jit(loss.totals)(p.slots, p.batch) for loss in losses]
        for ours, theirs in zip(*map(jax.tree.leaves, values), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize(("devices", "wrong"), [(1, 1), (2, 0), (2, 3), (4, 1), (4, 3)])
def test_the_right_text_of_a_row_is_its_own_on_any_mesh(devices: int, wrong: int) -> None:
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:devices])
    examples, columns = 2 * devices, 2 + wrong
    eye = np.eye(examples * (1 + wrong), dtype=np.float32)
    vectors = np.zeros((examples, columns, len(eye)), np.float32)
    vectors[:, 0] = vectors[:, 1] = eye[:examples]
    vectors[:, 2:] = eye[examples:].reshape(examples, wrong, len(eye))
    numbers = 1 + np.arange(examples * columns).reshape(examples, columns)
    rights, scores = numbers[:, 1:2], np.zeros(examples)
    local = {
        "places": numbers,
        "text_numbers": numbers,
        "right_numbers": np.repeat(rights, columns, axis=1)[:, :, None],
        "labels": np.zeros(numbers.shape),
        "vectors": vectors,
    }
    rows = sharding.host_rows(examples, mesh)
    batch = sharding.global_batch({k: v[rows] for k, v in local.items()}, rows, examples, mesh)
    settings = VectorsConfig(temperature=0.05)
    model = VectorModel(EncoderConfig(width=len(eye)), VectorPooling.MEAN, normalised=True)
    loss = make_vector_loss(model, settings, examples=examples, columns=columns, mesh=mesh)
    value, totals = jax.jit(loss.totals)(batch["vectors"], batch)
    np.testing.assert_allclose(value, np.log1p((len(eye) - 1) * np.exp(-20)), rtol=1e-3, atol=1e-7)
    assert totals["accuracy"] == (examples, examples)
    assert totals["negatives"] == (examples * (len(eye) - 1), examples)
    # Witness: with another example's right texts it is far from 0.
    shifted = BatchTexts(*map(jnp.asarray, (vectors, numbers, rights, scores)))
    shifted = shifted._replace(vectors=shifted.vectors.at[:, 1].set(jnp.roll(eye[:examples], 1, 0)))
    other = contrastive_totals(shifted, settings, lambda x: x)
    assert other["loss"].sum / examples > 19 and other["accuracy"].sum == 0
