"""Attention of a block of queries at a time: the same values and gradients as all at once."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.model import attention as wing
from bert_jax.model.attention import Tokens, attention, tokens_of


@pytest.fixture
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cuts 20 queries into three blocks, of which the last is not full."""
    monkeypatch.setattr(wing, "_MOST_QUERIES", 10)
    monkeypatch.setattr(wing, "_BLOCK", 8)


def arrays(queries: int = 20, length: int = 20) -> tuple[jax.Array, ...]:
    """Returns query, key and value of two rows."""
    rng = np.random.default_rng(0)
    shapes = (2, queries, 3, 4), (2, length, 3, 4), (2, length, 3, 4)
    return tuple(jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes)


def tokens(length: int = 20) -> Tokens:
    """Returns rows of two examples and padding."""
    return tokens_of(jnp.asarray([[1] * 7 + [2] * 11 + [0] * 2, [1] * 15 + [2] * 5])[:, :length])


def plain(query: Any, key: Any, value: Any, mask: Any) -> jax.Array:
    """Computes attention in one piece, in the words of Vaswani et al., equation 1."""
    scores = jnp.einsum("bthk,bshk->bhts", query, key) / math.sqrt(query.shape[-1])
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e30), axis=-1)
    return jnp.einsum("bhts,bshk->bthk", weights, value)


@pytest.mark.parametrize(("causal", "window"), [(False, 0), (True, 0), (False, 3)])
def test_values_and_gradients_are_those_of_one_piece(short_blocks, causal, window) -> None:
    rows = tokens()
    place = np.arange(20)
    mask = np.asarray(rows.examples)[:, None, :, None] == np.asarray(rows.examples)[:, None, None]
    if causal:
        mask = mask & (place[:, None] >= place)[None, None]
    if window:
        mask = mask & (abs(place[:, None] - place) <= window)[None, None]

    def blocked(*inputs: Any) -> jax.Array:
        return attention(
            *inputs, rows, rows, causal=causal, window=window, dropout_rate=0.0, dropout_key=None
        )

    inputs = arrays()
    pull = jnp.asarray(np.random.default_rng(1).standard_normal((2, 20, 3, 4)), jnp.float32)
    ours, ours_back = jax.vjp(blocked, *inputs)
    theirs, theirs_back = jax.vjp(lambda *each: plain(*each, mask), *inputs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    for one, other in zip(ours_back(pull), theirs_back(pull), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert "scan" in str(jax.make_jaxpr(blocked)(*inputs))  # it was cut


def test_each_run_of_a_vmap_has_its_own_blocks_in_bfloat16(short_blocks) -> None:
    rows = tokens()
    runs = [jnp.stack([each, 2 * each]).astype(jnp.bfloat16) for each in arrays()]

    def loss(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        options: dict[str, Any] = {"causal": False, "dropout_rate": 0.2}
        out = attention(query, key, value, rows, rows, dropout_key=jax.random.key(0), **options)
        return (out.astype(jnp.float32) ** 2).sum()

    back = jax.grad(loss, (0, 1, 2))
    side_by_side = jax.vmap(back)(*runs)
    for number in range(2):
        alone = back(*(each[number] for each in runs))
        for one, other in zip(side_by_side, alone, strict=True):
            assert one.dtype == jnp.bfloat16
            np.testing.assert_allclose(
                one[number].astype(np.float32), other.astype(np.float32), rtol=0.02, atol=0.02
            )


def test_some_queries_are_picked_before_the_cut(short_blocks) -> None:
    rows, positions = tokens(), jnp.asarray([[*range(0, 20, 2), 3], [*range(11)]])
    query, key, value = arrays(queries=11)
    options: dict[str, Any] = {"causal": False, "dropout_rate": 0.0, "dropout_key": None}
    few = attention(query, key, value, rows.at(positions), rows, **options)
    whole = jnp.zeros((2, 20, 3, 4)).at[jnp.arange(2)[:, None], positions].set(query)
    full = attention(whole, key, value, rows, rows, **options)
    picked = jnp.take_along_axis(full, positions[:, :, None, None], axis=1)
    np.testing.assert_allclose(few, picked, rtol=1e-5, atol=1e-6)


def test_each_block_draws_dropout_of_its_own_and_the_same_backward(short_blocks) -> None:
    query, key, _ = arrays()
    rows = tokens_of(jnp.ones((2, 20), jnp.int32))

    def dropped(value: jax.Array) -> jax.Array:
        return attention(
            jnp.zeros_like(query),
            jnp.zeros_like(key),
            value,
            rows,
            rows,
            causal=False,
            dropout_rate=0.5,
            dropout_key=jax.random.key(0),
        )

    # Uniform probabilities of one-hot values show which keys each query keeps.
    eye = jnp.broadcast_to(jnp.eye(20)[None, :, None, :], (2, 20, 3, 20))
    kept = dropped(eye) > 0
    assert 0.4 < kept.mean() < 0.6
    patterns = np.moveaxis(np.asarray(kept), 2, 1).reshape(2 * 3 * 20, 20)
    assert len(np.unique(patterns, axis=0)) == len(patterns)
    # The gradient of each value is the sum of the probabilities that read it.
    gradient = jax.grad(lambda value: dropped(value).sum())(eye)
    expected = jnp.einsum("bths->bsh", dropped(eye))
    np.testing.assert_allclose(gradient, np.broadcast_to(expected[..., None], (2, 20, 3, 20)), 1e-5)


def test_a_long_row_keeps_no_probabilities() -> None:
    size = 4096
    rows = tokens_of(jnp.ones((1, size), jnp.int32))
    shape = jax.ShapeDtypeStruct((1, size, 2, 8), jnp.float32)

    def loss(query: Any, key: Any, value: Any) -> jax.Array:
        options: dict[str, Any] = {"causal": False, "dropout_rate": 0.0, "dropout_key": None}
        out = attention(query, key, value, rows, rows, **options)
        return (out**2).sum()

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(shape, shape, shape).compile()
    probabilities = 4 * 2 * size * size
    memory = compiled.memory_analysis()
    assert memory is not None and memory.temp_size_in_bytes < probabilities / 2
