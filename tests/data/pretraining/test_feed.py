"""Phases and corpora joined into the batches of a run, and taken up again anywhere."""

import dataclasses
import json

import numpy as np
import pytest

from bert_jax.config import PhaseConfig, PretrainConfig, PretrainDataConfig
from bert_jax.data.corpus.corpus import Corpus
from bert_jax.data.pretraining.feed import Cursor, Feed, PhaseRows
from bert_jax.data.pretraining.phases import Phase, resolve_phases
from bert_jax.data.pretraining.rows import Position, RowStream, row_format
from bert_jax.errors import UserError
from tests.fixtures.data import SPECIAL, make_documents, write_corpus

WEIGHTS = {"wiki": 2.0, "books": 1.0}
CONFIG = PretrainConfig(
    data=PretrainDataConfig(length=24, max_examples_per_row=2, block_examples=40),
    phases=[PhaseConfig(share=0.6), PhaseConfig(share=0.4, length=40, batch_size=4)],
    batch_size=8,
    steps=30,
)

Batch = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> list[Corpus]:
    directory = tmp_path_factory.mktemp("feed")
    return [
        write_corpus(directory / name, make_documents(30 + 10 * number, seed=number))
        for number, name in enumerate(WEIGHTS)
    ]


def feed(
    corpora: list[Corpus],
    *,
    config: PretrainConfig = CONFIG,
    first_step: int = 0,
    cursor: Cursor | None = None,
    host: tuple[int, int] = (0, 1),
) -> Feed:
    weights = dict(list(WEIGHTS.items())[: len(corpora)])

    def open_rows(phase: Phase, start: Cursor) -> PhaseRows:
        return PhaseRows(
            corpora, weights, phase, row_format(phase.data, SPECIAL), seed=7, start=start
        )

    def host_rows(batch_size: int) -> np.ndarray:
        return np.split(np.arange(batch_size), host[1])[host[0]]

    return Feed(
        resolve_phases(config),
        open_rows,
        host_rows,
        first_step=first_step,
        cursor=cursor or Cursor.at_start(0, len(corpora)),
    )


def batches_of(source: Feed) -> list[Batch]:
    return [batch for _, batch in source]


def assert_equal_batches(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


# --- phases


def test_phases_take_all_steps_and_fill_in_their_settings() -> None:
    first, second = resolve_phases(CONFIG)
    assert (first.first_step, first.end_step, second.first_step, second.end_step) == (0, 18, 18, 30)
    assert (first.batch_size, second.batch_size) == (8, 4)
    assert (first.data.length, second.data.length) == (24, 40)
    (only,) = resolve_phases(PretrainConfig(steps=7))
    assert (only.first_step, only.end_step, only.batch_size) == (0, 7, 256)


@pytest.mark.parametrize(("length", "examples"), [(8, 1), (128, 4), (512, 16)])
def test_longer_rows_hold_more_examples(length: int, examples: int) -> None:
    (phase,) = resolve_phases(PretrainConfig(data=PretrainDataConfig(length=length)))
    assert phase.data.max_examples_per_row == examples


def test_a_phase_without_a_step_is_told() -> None:
    config = PretrainConfig(steps=10, phases=[PhaseConfig(share=0.99), PhaseConfig(share=0.01)])
    with pytest.raises(UserError, match=r"phases\[1\].share=0.01 of steps=10 is less than one"):
        resolve_phases(config)


# --- batches


def test_one_corpus_and_one_phase_are_the_plain_stream(corpora) -> None:
    config = PretrainConfig(data=CONFIG.data, batch_size=8, steps=30)
    plain = RowStream(corpora[0], CONFIG.data, row_format(CONFIG.data, SPECIAL), seed=7)
    expected = [plain.rows(np.arange(8 * step, 8 * step + 8)) for step in range(30)]
    assert_equal_batches(batches_of(feed(corpora[:1], config=config)), expected)


def test_batches_have_the_shapes_of_their_phase_and_unique_row_ids(corpora) -> None:
    batches = batches_of(feed(corpora))
    assert [batch["token_ids"].shape for batch in batches] == [(8, 24)] * 18 + [(4, 40)] * 12
    ids = np.concatenate([batch["row_ids"] for batch in batches])
    assert len(np.unique(ids, axis=0)) == len(ids) == 18 * 8 + 12 * 4


def test_rows_come_from_the_corpora_by_their_weights(corpora) -> None:
    ids = np.concatenate([batch["row_ids"] for batch in batches_of(feed(corpora))])
    corpus = (ids[:, 0] >> 24) & 15  # of the upper half of an id: phase, corpus, epoch, ...
    assert set(corpus.tolist()) == {0, 1}
    assert abs((corpus == 0).mean() - 2 / 3) < 0.1


@pytest.mark.parametrize("hosts", [2, 4])
def test_the_union_of_the_hosts_is_the_batch(corpora, hosts) -> None:
    parts = [batches_of(feed(corpora, host=(host, hosts))) for host in range(hosts)]
    joined = [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_equal_batches(joined, batches_of(feed(corpora)))


@pytest.mark.parametrize("corpora_used", [1, 2])
def test_a_run_is_taken_up_again_at_any_step(corpora, corpora_used) -> None:
    corpora = corpora[:corpora_used]
    whole = feed(corpora)
    batches, cursors = [], [whole.cursor(0)]
    for step, (_, batch) in enumerate(whole, start=1):
        batches.append(batch)
        cursors.append(whole.cursor(step))
    assert cursors[18] == Cursor.at_start(1, len(corpora))
    for step, cursor in enumerate(cursors[:-1]):
        again = Cursor.from_json(json.loads(json.dumps(cursor)))
        assert again == cursor
        rest = feed(corpora, first_step=step, cursor=again)
        assert_equal_batches(batches_of(rest), batches[step:])


def test_cursors_after_a_resume_are_those_of_the_unbroken_run(corpora) -> None:
    whole = feed(corpora)
    cursors = [whole.cursor(step) for step, _ in enumerate(whole, start=1)]
    rest = feed(corpora, first_step=10, cursor=cursors[9])
    assert [rest.cursor(step) for step, _ in enumerate(rest, start=11)] == cursors[10:]


GROWING = dataclasses.replace(
    CONFIG,
    phases=[
        PhaseConfig(share=0.2, batch_size=2),
        PhaseConfig(share=0.2, batch_size=4),
        PhaseConfig(share=0.2),
        PhaseConfig(share=0.4, length=40, batch_size=4),
    ],
)


def test_a_batch_that_grows_reads_on_in_one_stream(corpora) -> None:
    batches = batches_of(feed(corpora, config=GROWING))
    sizes = [2] * 6 + [4] * 6 + [8] * 6 + [4] * 12
    assert [len(batch["token_ids"]) for batch in batches] == sizes
    # The rows of the first three phases are those of one phase, in their order.
    rows = sum(sizes[:18])
    steady = batches_of(feed(corpora, config=CONFIG))[: rows // 8 + 1]
    joined, expected = (
        {name: np.concatenate([batch[name] for batch in each])[:rows] for name in each[0]}
        for each in (batches[:18], steady)
    )
    assert_equal_batches([joined], [expected])


def test_a_batch_that_grows_is_taken_up_again_at_any_step(corpora) -> None:
    whole = feed(corpora, config=GROWING)
    batches, cursors = [], [whole.cursor(0)]
    for step, (_, batch) in enumerate(whole, start=1):
        batches.append(batch)
        cursors.append(whole.cursor(step))
    assert [cursor.phase for cursor in cursors] == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 13
    assert cursors[18] == Cursor.at_start(3, len(corpora))
    for step, cursor in enumerate(cursors[:-1]):
        rest = feed(corpora, config=GROWING, first_step=step, cursor=cursor)
        assert_equal_batches(batches_of(rest), batches[step:])
        assert rest.cursor(len(batches)) == cursors[-1]


def test_static_copies_come_again(corpora) -> None:
    data = PretrainDataConfig(length=24, max_examples_per_row=2, block_examples=40, static_copies=2)
    stream = RowStream(corpora[0], data, row_format(data, SPECIAL), seed=7)
    epochs = []
    row = 0
    for epoch in range(4):
        begin = row
        while stream.position(row).epoch == epoch:
            row += 1
        epochs.append(stream.rows(np.arange(begin, row)))
    assert_equal_batches(epochs[2:], epochs[:2])  # the row ids too, so the masks
    assert not np.array_equal(epochs[0]["token_ids"], epochs[1]["token_ids"])
    assert stream.position(row) == Position(4, 0, 0)  # the cursor goes on
