import numpy as np
import pytest

from bert_jax.data.packing.packing import pack, pack_each
from bert_jax.data.tasks import batches as task_batches
from bert_jax.data.tasks.batches import TaskBatches

LENGTHS = np.clip(np.random.default_rng(0).lognormal(3, 0.5, 1003).astype(np.int64), 3, 64)


def make_batches(lengths: np.ndarray = LENGTHS, **changes: int) -> TaskBatches:
    options = {"batch_size": 32, "max_examples_per_row": 64, "epochs": 2, "seed": 0} | changes
    return TaskBatches(lengths, 64, **options)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("batch_size", [1, 7, 32, 1003, 2000])
@pytest.mark.parametrize("most", [1, 3, 64])
def test_an_epoch_has_every_input_once_and_rows_hold_them(batch_size: int, most: int) -> None:
    batches = make_batches(batch_size=batch_size, max_examples_per_row=most)
    assert batches.per_epoch == -(-len(LENGTHS) // batch_size)
    orders = []
    for epoch in range(2):
        seen, fullest = [], 0
        for number in range(batches.per_epoch):
            inputs, inputs_in_row = batches.batch(epoch * batches.per_epoch + number)
            # Where they do not divide, the last window's batches share what is missing.
            assert batch_size // 2 < len(inputs) <= batch_size or len(LENGTHS) < batch_size
            assert inputs_in_row.shape == (batches.rows,) and inputs_in_row.sum() == len(inputs)
            assert inputs_in_row.max() <= batches.slots == most
            row = np.repeat(np.arange(batches.rows), inputs_in_row)
            assert np.bincount(row, LENGTHS[inputs]).max() <= 64
            seen += inputs.tolist()
            fullest = max(fullest, int((inputs_in_row > 0).sum()))
        assert sorted(seen) == list(range(len(LENGTHS))) and fullest <= batches.rows
        orders.append(seen)
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])


def test_batches_of_a_window_are_alike_and_full() -> None:
    batches = make_batches(epochs=3)
    tokens = [LENGTHS[batches.batch(number)[0]].sum() for number in range(31)]
    alike = np.random.default_rng(1).permutation(LENGTHS)[: 31 * 32].reshape(31, 32).sum(axis=1)
    assert np.std(tokens) < np.std(alike) / 5  # witness: batches that were not dealt
    assert sum(tokens) / (31 * batches.rows * 64) > 0.93
    padded = make_batches(max_examples_per_row=1)
    assert (padded.rows, padded.slots) == (32, 1)


def test_the_deal_is_the_seeds_own_and_the_devices_do_not_matter() -> None:
    one, again, other = make_batches(), make_batches(rows_multiple=8), make_batches(seed=1)
    assert again.rows % 8 == 0
    numbers = range(2 * one.per_epoch)
    assert all(np.array_equal(one.batch(n)[0], again.batch(n)[0]) for n in numbers)
    assert not all(np.array_equal(one.batch(n)[0], other.batch(n)[0]) for n in numbers)


def test_nothing_but_chance_decides_where_an_input_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_batches, "_WINDOW_BATCHES", 4)
    lengths = np.arange(3, 35)  # of one window: 4 batches of 8
    batches = make_batches(lengths, batch_size=8, epochs=400)
    where = np.zeros((32, 4))
    for number in range(4 * 400):
        where[batches.batch(number)[0], number % 4] += 1
    # 400 trials for each input: the longest is in each batch as often as the shortest.
    assert np.abs(where - 100).max() < 4.5 * np.sqrt(400 * 3 / 16)


@pytest.mark.parametrize("most", [1, 2, 20])
def test_small_batches_are_packed_as_large_ones_are(most: int) -> None:
    rng = np.random.default_rng(2)
    lengths = np.where(rng.random((60, 20)) < 0.1, 0, rng.integers(1, 31, (60, 20)))
    row_of = pack_each(lengths, 30, most)
    assert ((row_of < 0) == (lengths == 0)).all()
    for sizes, rows in zip(lengths, row_of, strict=True):
        there = sizes > 0
        assert np.bincount(rows[there], sizes[there]).max() <= 30
        assert np.bincount(rows[there]).max() <= most
        assert (np.bincount(rows[there]) > 0).all()  # no gaps
        assert rows.max() == pack(sizes[there], 30, most).max()  # as few rows


def test_an_input_goes_where_it_leaves_the_least_room() -> None:
    assert pack_each(np.array([[1, 8, 5, 6]]), 12, 4).tolist() == [[1, 0, 1, 1]]


def test_describe_has_the_share_of_tokens() -> None:
    batches = make_batches(np.full(64, 16), max_examples_per_row=4)
    assert batches.describe() == "2 batches of 32 in 8 rows of 64, 100.0 % full"
    batches = make_batches(np.full(64, 16), max_examples_per_row=2)
    assert batches.describe() == "2 batches of 32 in 16 rows of 64, 50.0 % full"
