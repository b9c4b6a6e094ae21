"""Planned examples as rows, and the stream of rows through blocks and epochs."""

import concurrent.futures
import dataclasses
import hashlib
import json

import numpy as np
import pytest

from bert_jax.config import PretrainDataConfig
from bert_jax.data.corpus.corpus import Corpus
from bert_jax.data.pretraining import rows as rows_module
from bert_jax.data.pretraining.plan import BlockPlan, blocks_per_epoch, plan_block
from bert_jax.data.pretraining.rows import (
    Position,
    RowStream,
    held_out_rows,
    make_rows,
    pack_epoch,
    row_format,
    row_ids,
)
from bert_jax.errors import UserError
from docs.formats.make_page import combinations, title
from tests.fixtures.data import (
    FIRST_ID,
    SPECIAL,
    as_pairs,
    make_documents,
    number_tokens,
    write_corpus,
)

LENGTH, SLOTS, SEED = 32, 3, 7
CONFIG = PretrainDataConfig(length=LENGTH, max_examples_per_row=SLOTS, block_examples=60)

Batch = dict[str, np.ndarray]
Example = tuple[tuple[int, ...], tuple[int, ...], int]  # ids of A, ids of B, label


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    documents = make_documents(70, seed=4)
    return write_corpus(tmp_path_factory.mktemp("rows") / "corpus", documents, shards=2)


@pytest.fixture(scope="module")
def rows_per_epoch(corpus) -> list[int]:
    """Rows of epochs 0 and 1, whose blocks are several."""
    blocks = blocks_per_epoch(corpus, CONFIG)
    assert blocks >= 3
    return [
        sum(
            plan_block(corpus, CONFIG, seed=SEED, epoch=epoch, block=block).rows
            for block in range(blocks)
        )
        for epoch in range(2)
    ]


def stream(corpus: Corpus, start: Position = rows_module.START, seed: int = SEED) -> RowStream:
    return RowStream(corpus, CONFIG, row_format(CONFIG, SPECIAL), seed=seed, start=start)


def take(source: RowStream, begin: int, end: int) -> Batch:
    return source.rows(np.arange(begin, end))


def assert_equal_batches(one: Batch, other: Batch) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def decode(batch: Batch) -> list[Example]:
    """Reads the examples back out of rows, checking everything that surrounds them."""
    examples = []
    for row in range(len(batch["token_ids"])):
        field = {name: batch[name][row] for name in batch}
        begin = 0
        count = int(field["example_ids"].max())
        for slot in range(count):
            size = int((field["example_ids"] == slot + 1).sum())
            at = slice(begin, begin + size)  # examples lie side by side, in order
            assert (field["example_ids"][at] == slot + 1).all()
            ids = field["token_ids"][at]
            assert ids[0] == SPECIAL.cls
            first, last = np.flatnonzero(ids == SPECIAL.sep)
            assert last == size - 1
            np.testing.assert_array_equal(field["position_ids"][at], np.arange(size))
            np.testing.assert_array_equal(field["segment_ids"][at], np.arange(size) > first)
            assert field["pool_positions"][slot] == begin
            assert field["weights"][slot] == 1
            a, b = ids[1:first], ids[first + 1 : last]
            assert min(len(a), len(b)) >= 1
            assert min(a.min(), b.min()) >= FIRST_ID
            examples.append((tuple(a.tolist()), tuple(b.tolist()), int(field["labels"][slot])))
            begin += size
        for name, fill in (
            ("token_ids", SPECIAL.pad),
            ("example_ids", 0),
            ("segment_ids", 0),
            ("position_ids", 0),
        ):
            assert (field[name][begin:] == fill).all()
        for name in ("pool_positions", "labels", "weights"):
            assert not field[name][count:].any()
    return examples


def planned(plan: BlockPlan) -> list[Example]:
    """Reads the examples of a plan, in a corpus whose token i has the id FIRST_ID + i."""

    def ids(begin: int, length: int) -> tuple[int, ...]:
        return tuple(range(FIRST_ID + begin, FIRST_ID + begin + length))

    pairs = as_pairs(plan)
    fields = (pairs.a_begin, pairs.a_length, pairs.b_begin, pairs.b_length, pairs.is_random)
    return [
        (ids(a, a_length), ids(b, b_length), int(random))
        for a, a_length, b, b_length, random in zip(
            *(field.tolist() for field in fields), strict=True
        )
    ]


# --- rows


@pytest.mark.parametrize("length", [8, 32, 100])
@pytest.mark.parametrize("slots", [1, 4])
def test_rows_hold_the_planned_examples_in_order(corpus, length, slots):
    config = PretrainDataConfig(length=length, max_examples_per_row=slots, block_examples=10**6)
    plan = plan_block(corpus, config, seed=SEED, epoch=0, block=0)
    layout = row_format(config, SPECIAL)
    batch = make_rows(corpus, plan, np.arange(plan.rows), layout, epoch=0, block=0)
    assert decode(batch) == planned(plan)
    assert {0, 1} == set(plan.examples.labels.tolist())


def test_rows_have_the_promised_shapes_and_types(corpus):
    batch = take(stream(corpus), 0, 11)
    expected = {
        "token_ids": ((11, LENGTH), np.int32),
        "example_ids": ((11, LENGTH), np.int32),
        "segment_ids": ((11, LENGTH), np.int32),
        "position_ids": ((11, LENGTH), np.int32),
        "pool_positions": ((11, SLOTS), np.int32),
        "labels": ((11, SLOTS), np.int32),
        "weights": ((11, SLOTS), np.float32),
        "row_ids": ((11, 2), np.uint32),
    }
    assert {name: (field.shape, field.dtype) for name, field in batch.items()} == expected


def test_rows_may_be_any_of_a_plan(corpus):
    plan = plan_block(corpus, CONFIG, seed=SEED, epoch=0, block=0)

    def rows(chosen: np.ndarray) -> Batch:
        return make_rows(corpus, plan, chosen, row_format(CONFIG, SPECIAL), epoch=0, block=0)

    whole = rows(np.arange(plan.rows))
    chosen = np.array([5, 0, plan.rows - 1, 5])
    assert_equal_batches(rows(chosen), {name: field[chosen] for name, field in whole.items()})


def test_an_example_is_pooled_at_its_last_token_with_pool_last(corpus):
    first = take(stream(corpus), 0, 40)
    layout = row_format(CONFIG, SPECIAL, pool_last=True)
    last = RowStream(corpus, CONFIG, layout, seed=SEED).rows(np.arange(40))
    for row, slot in zip(*np.nonzero(first["weights"]), strict=True):
        places = np.flatnonzero(first["example_ids"][row] == slot + 1)
        assert first["pool_positions"][row, slot] == places[0]
        assert last["pool_positions"][row, slot] == places[-1]


# --- row ids


def test_row_ids_keep_epoch_block_and_row_apart():
    ids = {
        tuple(row_id)
        for phase in (0, 1, 15)
        for corpus in (0, 1, 15)
        for epoch in (0, 1, 2**16 - 1)
        for block in (0, 1, 2**18 - 1)
        for row_id in row_ids(
            pack_epoch(phase, corpus, epoch), block, np.array([0, 1, 2**22 - 1])
        ).tolist()
    }
    assert len(ids) == 3**5


@pytest.mark.parametrize(("epoch", "block"), [(2**16, 0), (0, 2**18)])
def test_row_ids_beyond_64_bits_are_refused(epoch, block):
    with pytest.raises(UserError) as error:
        row_ids(pack_epoch(0, 0, epoch), block, np.array([0]))
    assert (f"epoch {epoch}" if epoch else f"block {block}") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_block_of_too_many_rows_is_refused(corpus, monkeypatch):
    monkeypatch.setattr(rows_module, "_ROW_BITS", 2)
    with pytest.raises(UserError) as error:
        take(stream(corpus), 0, 1)
    assert "--config.data.block_examples=60" in str(error.value)
    assert "\n" not in str(error.value)


def test_row_ids_are_unique_in_a_run(corpus, rows_per_epoch):
    ids = take(stream(corpus), 0, sum(rows_per_epoch))["row_ids"]
    assert len(np.unique(ids, axis=0)) == sum(rows_per_epoch)


# --- the stream


def test_each_planned_example_appears_once_in_an_epoch(corpus, rows_per_epoch):
    rows = take(stream(corpus), 0, sum(rows_per_epoch))
    begin = 0
    for epoch, count in enumerate(rows_per_epoch):
        part = {name: field[begin : begin + count] for name, field in rows.items()}
        begin += count
        expected = [
            example
            for block in range(blocks_per_epoch(corpus, CONFIG))
            for example in planned(plan_block(corpus, CONFIG, seed=SEED, epoch=epoch, block=block))
        ]
        assert decode(part) == expected
        assert len(set(expected)) == len(expected)


def test_epochs_and_seeds_differ(corpus, rows_per_epoch):
    first, second = rows_per_epoch
    one = take(stream(corpus), 0, 50)["token_ids"]
    assert not np.array_equal(one, take(stream(corpus), first, first + 50)["token_ids"])
    assert not np.array_equal(one, take(stream(corpus, seed=SEED + 1), 0, 50)["token_ids"])


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_the_rows_of_several_hosts_are_those_of_one(corpus, rows_per_epoch, parts):
    batch_size = 8
    whole = stream(corpus)
    hosts = [stream(corpus) for _ in range(parts)]
    for begin in range(0, sum(rows_per_epoch) + batch_size, batch_size):
        shares = np.split(np.arange(begin, begin + batch_size), parts)
        made = [host.rows(share) for host, share in zip(hosts, shares, strict=True)]
        joined = {name: np.concatenate([part[name] for part in made]) for name in made[0]}
        assert_equal_batches(joined, take(whole, begin, begin + batch_size))


def test_rows_apart_from_one_another_are_the_same(corpus, rows_per_epoch):
    chosen = np.arange(0, sum(rows_per_epoch), 13)  # over several borders at once
    whole = take(stream(corpus), 0, sum(rows_per_epoch))
    expected = {name: field[chosen] for name, field in whole.items()}
    assert_equal_batches(stream(corpus).rows(chosen), expected)


def test_a_stream_continues_from_a_position(corpus, rows_per_epoch):
    whole = stream(corpus)
    end = sum(rows_per_epoch) + 10
    expected = take(whole, 0, end)
    visited = set()
    for row in range(0, end, 7):
        position = whole.position(row)
        visited.add(position[:2])
        again = stream(corpus, Position(*json.loads(json.dumps(list(position)))))
        count = min(end - row, 30)
        assert_equal_batches(
            take(again, 0, count),
            {name: field[row : row + count] for name, field in expected.items()},
        )
        assert again.position(0) == position
        assert again.position(count) == whole.position(row + count)
    assert len(visited) == 2 * blocks_per_epoch(corpus, CONFIG) + 1


def test_positions_are_plain_and_count_within_blocks(corpus, rows_per_epoch):
    source = stream(corpus)
    first_block = plan_block(corpus, CONFIG, seed=SEED, epoch=0, block=0).rows
    assert source.position(0) == (0, 0, 0)
    assert source.position(first_block - 1) == (0, 0, first_block - 1)
    assert source.position(first_block) == (0, 1, 0)
    assert source.position(rows_per_epoch[0]) == (1, 0, 0)
    assert source.position(3) == (0, 0, 3)  # backwards too
    assert {type(part) for part in source.position(first_block + 1)} == {int}


def test_threads_in_any_order_get_the_same_rows(corpus, rows_per_epoch):
    batches = list(np.split(np.arange(sum(rows_per_epoch) // 8 * 8), sum(rows_per_epoch) // 8))
    calm, shared = stream(corpus), stream(corpus)
    shuffled = np.random.default_rng(0).permutation(len(batches))
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda index: shared.rows(batches[index]), shuffled.tolist()))
    for index, batch in zip(shuffled, made, strict=True):
        assert_equal_batches(batch, calm.rows(batches[index]))


def test_few_plans_are_held_and_none_is_made_twice(corpus, rows_per_epoch, monkeypatch):
    made = []

    def counting_plan(*args, **name) -> BlockPlan:
        made.append((name["epoch"], name["block"]))
        return plan_block(*args, **name)

    monkeypatch.setattr(rows_module, "plan_block", counting_plan)
    source = stream(corpus)
    take(source, 0, 8)
    assert list(source._plans) == [0, 1]  # the next one is on its way
    for begin in range(0, sum(rows_per_epoch), 8):
        # One thread may be a batch ahead of another.
        for first in (begin + 8, begin):
            take(source, first, first + 8)
            assert len(source._plans) <= 3
    assert len(made) == len(set(made))
    assert made == sorted(made)


PINNED = {
    "format=segment_pair random_b_rate=0.5 objective=nsp": "542a0f20a5b8c270",
    "format=segment_pair random_b_rate=0 objective=sop": "4a6664405c110f6c",
    "format=segment_pair random_b_rate=0 objective=none": "880777878d27e56f",
    "format=segment_pair random_b_rate=0.5 objective=none": "57206d2fc623c8e3",
    "format=sentence_pair random_b_rate=0.5 objective=nsp": "39e67a5d1d00cb6b",
    "format=sentence_pair random_b_rate=0 objective=sop": "b10850429fe59326",
    "format=sentence_pair random_b_rate=0 objective=none": "5407382bd4809f29",
    "format=sentence_pair random_b_rate=0.5 objective=none": "8cacf5a97508c63e",
    "format=full_sentences objective=none": "0cb80b18149d0d4f",
    "format=doc_sentences objective=none": "a037d1bfe78432af",
}


@pytest.mark.parametrize("config", list(combinations()), ids=title)
def test_the_first_thousand_rows_are_pinned(tmp_path, config):
    """If this fails, runs cannot be continued from older checkpoints: change it knowingly."""
    sizes = [[1 + (7 * i + 5 * j) % 17 for j in range(1 + 5 * i % 12)] for i in range(300)]
    corpus = write_corpus(tmp_path / "c", number_tokens(sizes), shards=3)
    data = dataclasses.replace(config.data, length=48, max_examples_per_row=2, block_examples=200)
    batch = RowStream(corpus, data, row_format(data, SPECIAL), seed=12345).rows(np.arange(1000))
    digest = hashlib.sha256()
    for name in sorted(batch):
        little_endian = batch[name].astype(batch[name].dtype.newbyteorder("<"))
        digest.update(name.encode() + little_endian.tobytes())
    assert digest.hexdigest()[:16] == PINNED[title(config)]


# --- the held-out split


def test_held_out_rows_are_always_the_same_first_ones(corpus):
    config = PretrainDataConfig(length=LENGTH, max_examples_per_row=SLOTS)
    layout = row_format(config, SPECIAL)
    few, many = (held_out_rows(corpus, config, layout, rows) for rows in (9, 10**6))
    assert len(few["row_ids"]) == 9
    assert_equal_batches(few, {name: field[:9] for name, field in many.items()})
    plan = plan_block(corpus, config, seed=0, epoch=0, block=0)
    assert decode(many) == planned(plan)


def test_the_examples_of_a_row_may_be_one_text(corpus: Corpus) -> None:
    plan = plan_block(corpus, CONFIG, seed=SEED, epoch=0, block=0)

    def rows(config: PretrainDataConfig) -> Batch:
        layout = row_format(config, SPECIAL)
        return make_rows(corpus, plan, np.arange(plan.rows), layout, epoch=0, block=0)

    apart = rows(CONFIG)
    together = rows(dataclasses.replace(CONFIG, separate_examples=False))
    assert apart["example_ids"].max() > 1
    is_token = apart["example_ids"] > 0
    np.testing.assert_array_equal(together["example_ids"], is_token)
    np.testing.assert_array_equal(together["position_ids"], np.arange(LENGTH) * is_token)
    for name in apart.keys() - {"example_ids", "position_ids"}:
        np.testing.assert_array_equal(apart[name], together[name])
