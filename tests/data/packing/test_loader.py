"""The loader: the same batches as without its threads, in order, and errors as they were."""

import threading

import numpy as np
import pytest

from bert_jax.config import PretrainDataConfig
from bert_jax.data.corpus.corpus import Corpus
from bert_jax.data.packing.loader import load_batches
from bert_jax.data.pretraining.rows import RowStream, row_format
from bert_jax.errors import UserError
from tests.fixtures.data import SPECIAL, make_documents, write_corpus

CONFIG = PretrainDataConfig(length=24, max_examples_per_row=3, block_examples=60)
BATCH_SIZE, BATCHES = 8, 40


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    documents = make_documents(40, seed=6)
    return write_corpus(tmp_path_factory.mktemp("loader") / "corpus", documents)


def stream(corpus: Corpus) -> RowStream:
    return RowStream(corpus, CONFIG, row_format(CONFIG, SPECIAL), seed=7)


def load(make_rows, host_rows: np.ndarray) -> list[dict[str, np.ndarray]]:
    batches = load_batches(make_rows, batches=BATCHES, batch_size=BATCH_SIZE, host_rows=host_rows)
    return list(batches)


@pytest.mark.parametrize("host_rows", [np.arange(8), np.arange(4, 8), np.array([1, 2, 7])], ids=str)
def test_batches_are_those_made_without_threads(corpus, host_rows):
    made = load(stream(corpus).rows, host_rows)
    assert len(made) == BATCHES
    source = stream(corpus)
    assert source.position(BATCHES * BATCH_SIZE).epoch >= 1  # the test passes a border of epochs
    for index, batch in enumerate(made):
        expected = source.rows(index * BATCH_SIZE + host_rows)
        assert batch.keys() == expected.keys()
        for name in batch:
            assert batch[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(batch[name], expected[name], err_msg=name)


@pytest.mark.parametrize("hosts", [2, 4])
def test_the_batches_of_several_hosts_are_those_of_one(corpus, hosts):
    whole = load(stream(corpus).rows, np.arange(BATCH_SIZE))
    parts = [
        load(stream(corpus).rows, host_rows) for host_rows in np.split(np.arange(BATCH_SIZE), hosts)
    ]
    for index, batch in enumerate(whole):
        for name in batch:
            joined = np.concatenate([part[index][name] for part in parts])
            np.testing.assert_array_equal(joined, batch[name], err_msg=name)


def test_rows_are_made_on_other_threads_and_not_too_far_ahead():
    threads, made, slow = set(), [], threading.Lock()

    def make_rows(rows: np.ndarray) -> dict[str, np.ndarray]:
        with slow:
            threads.add(threading.current_thread())
            made.append(int(rows[0]) // BATCH_SIZE)
        return {"rows": rows}

    batches = load_batches(
        make_rows, batches=BATCHES, batch_size=BATCH_SIZE, host_rows=np.arange(BATCH_SIZE)
    )
    for index, batch in enumerate(batches):
        np.testing.assert_array_equal(batch["rows"], index * BATCH_SIZE + np.arange(BATCH_SIZE))
        assert len(made) <= index + 12
    assert sorted(made) == list(range(BATCHES))  # each once
    assert threading.current_thread() not in threads


def test_a_users_error_comes_through_as_it_is():
    def make_rows(rows: np.ndarray) -> dict[str, np.ndarray]:
        if rows[0] >= 3 * BATCH_SIZE:
            raise UserError("the thing, its value, the remedy")
        return {"rows": rows}

    batches = load_batches(
        make_rows, batches=BATCHES, batch_size=BATCH_SIZE, host_rows=np.arange(BATCH_SIZE)
    )
    assert [int(next(batches)["rows"][0]) for _ in range(3)] == [0, 8, 16]
    with pytest.raises(UserError) as error:
        next(batches)
    assert str(error.value) == "the thing, its value, the remedy"
