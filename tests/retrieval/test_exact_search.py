"""Exact search: the same on any devices and in any blocks, ties too."""

import jax
import numpy as np
import pytest

from bert_jax.config import MeshConfig
from bert_jax.distributed.sharding import make_mesh
from bert_jax.errors import UserError
from bert_jax.inspection.choices import VectorType
from bert_jax.inspection.narrow_vectors import (
    Ranges,
    StoredVectors,
    load_ranges,
    narrowed,
    open_vectors,
    ranges_of,
    ranges_path,
)
from bert_jax.retrieval.exact_search import exact_search


def some_vectors(count: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def mesh_of(count: int) -> jax.sharding.Mesh:
    return make_mesh(MeshConfig(data=count), devices=jax.devices()[:count])


@pytest.mark.parametrize("block", [7, 300, 10_000])
def test_the_nearest_are_those_of_all_products(block: int) -> None:
    queries, documents = some_vectors(11, 24, seed=1), some_vectors(301, 24)
    found = exact_search(queries, StoredVectors(documents), 5, mesh_of(1), block=block)
    products = queries.astype(np.float64) @ documents.astype(np.float64).T
    best = np.argsort(-products, axis=1)[:, :5]
    np.testing.assert_array_equal(found.documents, best)
    np.testing.assert_allclose(found.scores, np.take_along_axis(products, best, 1), rtol=1e-6)
    assert exact_search(queries, StoredVectors(documents), 301, mesh_of(1)).scores.shape[1] == 301


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_neither_blocks_nor_devices_nor_places_change_a_bit(dtype: type) -> None:
    # Each text is there nine times, under different numbers: far more ties than candidates.
    rng = np.random.default_rng(2)
    different = some_vectors(30, 96)
    texts = rng.integers(30, size=700)
    queries = some_vectors(13, 96, seed=4)
    found = {}
    for count, block in ((1, 16384), (1, 37), (8, 64), (2, 700)):
        stored = StoredVectors(different[texts].astype(dtype))
        found[count, block] = exact_search(queries, stored, 60, mesh_of(count), block=block)
    first = found[1, 16384]
    for other in found.values():
        np.testing.assert_array_equal(other.documents, first.documents)
        np.testing.assert_array_equal(other.scores, first.scores)
    for documents, scores in zip(*first, strict=True):
        assert list(documents) == [n for _, n in sorted(zip(-scores, documents, strict=True))]
        assert len(set(scores)) < 5  # witness: ties, of equal texts
        # Of the last score, the lowest numbers were taken.
        equal = np.flatnonzero(texts == texts[documents[-1]])
        taken = documents[scores == scores[-1]]
        np.testing.assert_array_equal(taken, equal[: len(taken)])


def test_one_score_for_all() -> None:
    documents = StoredVectors(np.ones((500, 3), np.float32))
    found = exact_search(np.ones((2, 3), np.float32), documents, 4, mesh_of(1), block=64)
    assert found.documents.tolist() == [[0, 1, 2, 3]] * 2 and set(found.scores.flat) == {3.0}


def test_rounding_of_the_device_excludes_nothing() -> None:
    # The same numbers in other orders: one product, which float32 sums to several.
    rng = np.random.default_rng(6)
    numbers = some_vectors(1, 90)[0]
    documents = np.stack([rng.permutation(numbers) for _ in range(400)])
    query = np.ones((1, 90), np.float32)
    found = exact_search(query, StoredVectors(documents), 5, mesh_of(1), block=64)
    assert found.documents.tolist() == [[0, 1, 2, 3, 4]] and len(set(found.scores[0])) == 1
    device = np.asarray(jax.numpy.matmul(query, documents.T, precision="highest"))
    assert len(np.unique(device)) > 1  # witness


def test_a_search_in_a_file(tmp_path) -> None:
    documents, queries = some_vectors(90, 12), some_vectors(4, 12, seed=1)
    whole = exact_search(queries, StoredVectors(documents), 7, mesh_of(1))
    np.save(tmp_path / "v.npy", documents)
    stored = open_vectors(tmp_path / "v.npy")
    assert isinstance(stored.kept, np.memmap)
    np.testing.assert_array_equal(exact_search(queries, stored, 7, mesh_of(1)), whole)


def test_scores_are_of_values_and_not_of_codes() -> None:
    ranges = Ranges(np.array([-1, 0], "f4"), np.array([254, 0.51], "f4"), "lines.txt", 9)
    documents = np.array([[3, 0], [0, 0.5]], np.float32)
    codes = narrowed(documents, VectorType.INT8, ranges)
    query = np.array([[1, 4]], np.float32)
    found = exact_search(query, StoredVectors(codes, ranges), 2, mesh_of(1))
    assert found.documents.tolist() == [[0, 1]]
    np.testing.assert_allclose(found.scores, [[3, 2]], rtol=1e-6)
    raw = query @ codes.T.astype(np.float32)
    assert raw[0, 1] > raw[0, 0]  # witness


def test_codes_do_not_depend_on_their_neighbours() -> None:
    vectors = some_vectors(100, 5)
    vectors[:, 3] = 0.25  # constant
    ranges = ranges_of([vectors[:60], vectors[60:]], "sample.txt")
    assert ranges.count == 100 and ranges.sample == "sample.txt"
    codes = ranges.encode(vectors)
    for part in (vectors[:1], vectors[40:43]):
        at = np.flatnonzero((vectors == part[0]).all(1))[0]
        np.testing.assert_array_equal(ranges.encode(part), codes[at : at + len(part)])
    assert codes.min() == -128 and codes.max() == 127
    values = ranges.decode(codes)
    assert np.isfinite(values).all() and (values[:, 3] == np.float32(0.25)).all()
    step = (ranges.high - ranges.low).max() / 255
    assert np.abs(values - vectors).max() <= 0.51 * step
    assert (ranges.encode(100 * np.abs(vectors[:1]))[0, :3] == 127).all()  # beyond the range


def test_ranges_lie_beside_the_vectors(tmp_path) -> None:
    vectors = some_vectors(8, 6)
    ranges = ranges_of([vectors], "sample.txt")
    path = tmp_path / "v.npy"
    np.save(path, narrowed(vectors, VectorType.INT8, ranges))
    with pytest.raises(UserError, match="ranges, .*v.npy.ranges.json, are missing"):
        open_vectors(path)
    ranges.save(ranges_path(path))
    stored = open_vectors(path)
    np.testing.assert_array_equal(stored.values(slice(None)), ranges.decode(stored.kept))
    np.testing.assert_array_equal(load_ranges(ranges_path(path)).high, ranges.high)
    ranges_of([vectors[:, :4]], "other.txt").save(ranges_path(path))
    with pytest.raises(UserError, match="has ranges of 4 dimensions, and .* has 6"):
        open_vectors(path)
    ranges_path(path).write_text("{}")
    with pytest.raises(UserError, match="has no ranges of vectors"):
        open_vectors(path)
    np.save(path, np.arange(5))
    with pytest.raises(UserError, match=r"has int64 of shape \(5,\), not a vector for each line"):
        open_vectors(path)


def test_a_value_beyond_float16_is_told() -> None:
    with pytest.raises(UserError, match="--dtype=float16: a vector has the value 70000"):
        narrowed(np.array([[1, -70000.0]], np.float32), VectorType.FLOAT16, None)
