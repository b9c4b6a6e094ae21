"""Rotary positions: the channels of a pair, distances, and far places in half precision."""

import ml_dtypes
import numpy as np
import pytest

from bert_jax.config import EncoderConfig, PositionEncoding
from bert_jax.model.rotary import rotate, rotations_of
from tests.fixtures import reference

K = 8


def turned(x: np.ndarray, places: np.ndarray, theta: float = 10_000.0) -> np.ndarray:
    """Turns [T, K] as the encoder does."""
    config = EncoderConfig(
        width=K,
        heads=1,
        max_length=int(places.max()) + 1,
        position_encoding=PositionEncoding.ROTARY,
        rope_theta=theta,
    )
    rotation, _ = rotations_of(config, places[None].astype(np.int32))
    assert rotation is not None
    return np.asarray(rotate(x[None, :, None], rotation))[0, :, 0]


def neighbours_turned(x: np.ndarray, theta: float) -> np.ndarray:
    """Turns the pairs (0, 1), (2, 3), ..., as models of the other layout do (NomicBERT's flag)."""
    order = np.concatenate([np.arange(0, K, 2), np.arange(1, K, 2)])
    out = np.empty_like(x)
    out[:, order] = reference.turned(x[:, order], theta)
    return out


def test_pairs_are_channels_of_two_halves() -> None:
    x = np.random.default_rng(0).standard_normal((16, K))
    ours = turned(x.astype(np.float32), np.arange(16), 100.0)
    np.testing.assert_allclose(ours, reference.turned(x, 100.0), atol=1e-5)
    other = neighbours_turned(x, 100.0)
    np.testing.assert_allclose(ours[0], other[0], atol=1e-6)  # nothing is turned at place 0
    assert np.abs(ours[1:] - other[1:]).max(axis=1).min() > 0.1


def test_a_token_sees_distances_alone() -> None:
    """A query and a key have the same product wherever they stand, to the end of long rows."""
    query, key = np.random.default_rng(0).standard_normal((2, 1, K)).astype(np.float32)
    starts = np.array([0, 100, 5_000, 8_180])
    queries = turned(np.tile(query, (4, 1)), starts + 11)
    keys = turned(np.tile(key, (4, 1)), starts)
    products = (queries * keys).sum(axis=1)
    np.testing.assert_allclose(products, products[0], atol=5e-3)
    near = turned(query, np.array([12]))[0] @ keys[0]
    assert abs(near - products[0]) > 0.05  # witness: another distance, another product


@pytest.mark.parametrize("place", [5, 257, 8_191])
def test_angles_keep_their_precision_in_bfloat16(place: int) -> None:
    """In bfloat16 the place 8,191 would be 8,192, and the angle of the first pair off by 1."""
    x = np.random.default_rng(0).standard_normal((1, K)).astype(ml_dtypes.bfloat16)
    ours = turned(x, np.array([place]))
    assert ours.dtype == ml_dtypes.bfloat16
    exact = reference.turned(np.tile(x.astype(np.float64), (place + 1, 1)), 10_000.0)[-1:]
    np.testing.assert_allclose(ours.astype(np.float64), exact, rtol=2**-8, atol=2**-9)
