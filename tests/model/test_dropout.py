"""Dropout: no statistic that matters tells its hash from random words, and nothing else decides."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from bert_jax.config import MeshConfig
from bert_jax.distributed import sharding
from bert_jax.model.dropout import dropout, hash_bits

SHAPE = (16, 4, 64, 64)


def words(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.asarray(hash_bits(jax.random.key_data(jax.random.key(seed)), shape))


def assert_independent(one: np.ndarray, other: np.ndarray) -> None:
    """Each of the 32 bits of one is right about each of the other's half of the time."""
    bits = [(each.reshape(-1, 1) >> np.arange(32, dtype=np.uint32)) & 1 for each in (one, other)]
    one_bits, other_bits = (each.astype(np.float32) * 2 - 1 for each in bits)
    correlations = one_bits.T @ other_bits / one.size
    assert np.abs(correlations).max() < 5.5 / one.size**0.5  # of 1,024 normal ones


def test_every_bit_is_set_half_of_the_time():
    for seed in range(4):
        bits = (words(seed).reshape(-1, 1) >> np.arange(32, dtype=np.uint32)) & 1
        assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.5 * 5 / words(seed).size ** 0.5


@pytest.mark.parametrize("axis", range(4))
def test_neighbours_are_independent(axis):
    drawn = words(0)
    assert_independent(
        drawn.take(range(SHAPE[axis] - 1), axis), drawn.take(range(1, SHAPE[axis]), axis)
    )


def test_keys_are_independent():
    for other in (1, 2, 3):
        assert_independent(words(0), words(other))
    layers = [
        np.asarray(hash_bits(jax.random.key_data(key), SHAPE))
        for key in jax.random.split(jax.random.key(0), 4)
    ]
    for i in range(3):
        assert_independent(layers[i], layers[i + 1])


def test_words_are_spread_evenly_and_do_not_repeat_too_soon():
    drawn = words(0, (4, 1024, 1024)).reshape(4, -1)
    counts = np.stack([np.bincount(row >> 20, minlength=4096) for row in drawn])
    expected = drawn.shape[1] / 4096
    chi2 = ((counts - expected) ** 2 / expected).sum(axis=1)
    assert np.abs(chi2 - 4095).max() < 5 * (2 * 4095) ** 0.5
    for row in drawn:  # a row is a bijection of its places
        assert len(np.unique(row)) == len(row)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_and_the_scale(rate):
    x = jnp.ones((64, 64, 256))
    y = np.asarray(dropout(x, rate, jax.random.key(1)))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / (1 - rate))}
    spread = (rate * (1 - rate) / y.size) ** 0.5
    assert abs((y == 0).mean() - rate) < 5 * spread
    # Rows differ in how many they lose as independent draws do.
    of_rows = (y == 0).reshape(64, -1).mean(axis=1).std()
    assert 0.7 < of_rows / (rate * (1 - rate) / (64 * 256)) ** 0.5 < 1.3


def test_the_gradient_is_that_of_the_same_mask():
    x, key = jnp.linspace(-1, 1, 2 * 3 * 128).reshape(2, 3, 128), jax.random.key(3)
    value, pull = jax.vjp(lambda x: dropout(x, 0.3, key), x)
    (gradient,) = pull(jnp.full_like(x, 2.0))
    scale = np.where(np.asarray(value) != 0, np.float32(2 / 0.7), 0)
    np.testing.assert_allclose(gradient, scale, rtol=1e-6)
    assert dropout(x, 0.0, key) is x


def test_it_is_the_same_side_by_side_with_more_rows_and_on_a_mesh():
    x, mesh = jnp.ones((8, 5, 7)), sharding.make_mesh(MeshConfig())
    drop = functools.partial(dropout, rate=0.5)
    split = jax.device_put(x, NamedSharding(mesh, sharding.BATCH_SPEC))
    keys = [jax.random.key(seed) for seed in range(4)]
    alone = np.stack([drop(x, key=key) for key in keys])
    side_by_side = jax.vmap(lambda key: drop(x, key=key))(jnp.stack(keys))
    more_rows = np.stack([drop(jnp.ones((9, 5, 7)), key=key)[:8] for key in keys])
    on_mesh = jax.jit(drop)
    np.testing.assert_array_equal(side_by_side, alone)
    np.testing.assert_array_equal(more_rows, alone)
    np.testing.assert_array_equal(np.stack([on_mesh(split, key=key) for key in keys]), alone)
    # Each device draws its own rows alone: no array of the whole batch, and no exchange.
    program = on_mesh.lower(split, key=keys[0]).compile().as_text()
    assert "[8,5,7]" not in program.split("ENTRY")[1] and "all-" not in program
