"""The plan of a block: against a slow reading of its docstring, and what every plan must keep."""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator

import numpy as np
import pytest

from bert_jax.config import ExampleFormat, PretrainDataConfig
from bert_jax.data.corpus.corpus import Corpus
from bert_jax.data.packing import draws
from bert_jax.data.packing.draws import DrawKey, Purpose
from bert_jax.data.pretraining.examples import _truncate
from bert_jax.data.pretraining.plan import (
    _documents_per_block,
    blocks_per_epoch,
    check_corpus,
    plan_block,
)
from bert_jax.errors import UserError
from tests.fixtures.data import (
    FIRST_ID,
    SPECIAL,
    Documents,
    PairPlan,
    as_pairs,
    chi_square_z,
    make_documents,
    number_tokens,
    write_corpus,
)

CONFIG = PretrainDataConfig(length=32, max_examples_per_row=3, block_examples=60)
replace = dataclasses.replace


@pytest.fixture(scope="module")
def documents() -> Documents:
    """Of all sizes, with sentences longer than a row and documents of one sentence."""
    return make_documents(61, seed=2) + make_documents(9, seed=3, most_tokens=70)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, documents) -> Corpus:
    return write_corpus(
        tmp_path_factory.mktemp("plan") / "corpus", number_again(documents), shards=3
    )


def number_again(documents: Documents) -> Documents:
    """Numbers the tokens of joined documents from the beginning."""
    return number_tokens([[len(ids) for ids in document] for document in documents])


def place_of(documents: Documents) -> np.ndarray:
    """Returns [tokens], the document of each token."""
    sizes = [sum(len(ids) for ids in document) for document in documents]
    return np.repeat(np.arange(len(documents)), sizes)


def all_blocks(corpus: Corpus, config: PretrainDataConfig, *, seed: int = 7, epoch: int = 0):
    return [
        as_pairs(plan_block(corpus, config, seed=seed, epoch=epoch, block=block))
        for block in range(blocks_per_epoch(corpus, config))
    ]


def assert_equal_plans(one: PairPlan, other: PairPlan) -> None:
    for name, value in dataclasses.asdict(one).items():
        np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)


# --- the slow reading


@dataclasses.dataclass
class SlowPair:
    a: list[int]  # token ids, before they are cut
    b: list[int]
    is_random: bool
    forced: bool


def slow_pairs(
    documents: Documents, order: list[int], config: PretrainDataConfig, key: DrawKey
) -> list[SlowPair]:
    """Pairs the sentences of a block's documents one by one, by the same draws as the plan."""

    def halves(purpose: Purpose) -> list[tuple[int, int]]:
        values = draws.random_bits(count, key, purpose).tolist()
        return [(bits >> 32, bits % 2**32) for bits in values]

    def large(purpose: Purpose) -> Iterator[int]:
        return iter(draws.random_bits(count, key, purpose).tolist())

    count = sum(len(documents[document]) for document in order)
    chunk_draws, coin_draws, other_documents, other_sentences = (
        halves(Purpose.CHUNK),
        halves(Purpose.COIN),
        large(Purpose.OTHER_DOCUMENT),
        large(Purpose.OTHER_SENTENCE),
    )
    most = config.length - 3
    pairs, sentences_before = [], 0
    for document in order:
        sentences, here = documents[document], 0
        while here < len(sentences):
            short, spread = chunk_draws[sentences_before + here]
            coin, cut = coin_draws[sentences_before + here]
            target = most
            if config.format is ExampleFormat.SENTENCE_PAIR:
                target = 1
            elif short / 2**32 < config.short_rate:
                target = 2 + spread * (most - 1) // 2**32
            chunk = [sentences[here]]
            while here + len(chunk) < len(sentences) and (
                len(chunk) == 1 or sum(map(len, chunk)) < target
            ):
                chunk.append(sentences[here + len(chunk)])
            forced = len(chunk) == 1
            a_end = 1 if forced else 1 + cut * (len(chunk) - 1) // 2**32
            if config.random_b_rate == 0:
                is_random = forced = False  # a chunk of one sentence is left without B
            else:
                is_random = forced or coin / 2**32 < config.random_b_rate
            a = list(itertools.chain(*chunk[:a_end]))
            b = list(itertools.chain(*chunk[a_end:]))
            if is_random:
                others = [d for d in range(len(documents)) if d != document]
                other = documents[others[int(next(other_documents) / 2**64 * len(others))]]
                first = int(next(other_sentences) / 2**64 * len(other))
                b = list(other[first])
                for sentence in other[first + 1 :]:
                    if len(b) >= target - len(a):
                        break
                    b += sentence
            pairs.append(SlowPair(a, b, is_random, forced))
            here += a_end if is_random else len(chunk)
        sentences_before += len(sentences)
    return pairs


def cut_one_by_one(a: int, b: int, most: int) -> tuple[int, int]:
    """Cuts the longer of two until they fit, B where they are equal."""
    while a + b > most:
        if a > b:
            a -= 1
        else:
            b -= 1
    return a, b


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"length": 8},
        {"length": 200, "max_examples_per_row": 8},
        {"short_rate": 0.0},
        {"short_rate": 1.0},
        {"random_b_rate": 0.0},
        {"random_b_rate": 1.0},
        {"max_examples_per_row": 1, "block_examples": 1},
        {"block_examples": 10**6},
        {"format": ExampleFormat.SENTENCE_PAIR},
        {"format": ExampleFormat.SENTENCE_PAIR, "random_b_rate": 0.0, "length": 64},
    ],
    ids=str,
)
def test_plan_is_the_slow_reading(corpus, documents, changes):
    documents = number_again(documents)
    config = replace(CONFIG, **changes)
    per_block = _documents_per_block(corpus, config)
    for epoch in (0, 3):
        order = draws.permuted(
            np.arange(len(documents)), len(documents), DrawKey(7, epoch), Purpose.DOCUMENT_ORDER
        ).tolist()
        compared = 0
        for block, plan in enumerate(all_blocks(corpus, config, epoch=epoch)):
            own = order[block * per_block : (block + 1) * per_block]
            pairs = slow_pairs(documents, own, config, DrawKey(7, epoch, block))
            # A is never twice the same, so its tokens find the pair.
            pair_of = {token: pair for pair in pairs for token in pair.a}
            assert len(plan.a_begin) == len(pairs)
            cut = 0
            for a_begin, a_length, b_begin, b_length, is_random in zip(
                plan.a_begin.tolist(),
                plan.a_length.tolist(),
                plan.b_begin.tolist(),
                plan.b_length.tolist(),
                plan.is_random.tolist(),
                strict=True,
            ):
                pair = pair_of[FIRST_ID + a_begin]
                assert is_random == pair.is_random
                assert (b_length == 0) == (not pair.b)
                kept = cut_one_by_one(len(pair.a), len(pair.b), config.length - 3)
                assert (a_length, b_length) == kept
                for whole, begin, length in (
                    (pair.a, a_begin, a_length),
                    (pair.b, b_begin, b_length),
                ):
                    if whole:
                        skipped = FIRST_ID + begin - whole[0]
                        assert 0 <= skipped <= len(whole) - length
                    cut += len(whole) - length
                compared += 1
            assert plan.truncated_tokens == cut
            assert plan.forced == sum(pair.forced for pair in pairs)
        assert compared > 30


@pytest.mark.parametrize("most", range(5, 13))
def test_cutting_is_cutting_one_by_one(most):
    a, b = (axis.ravel() for axis in np.meshgrid(np.arange(1, 31), np.arange(1, 31)))
    a_begin, a_kept, b_begin, b_kept = _truncate(
        np.zeros_like(a), a, np.zeros_like(b), b, most, DrawKey(0)
    )
    expected = [cut_one_by_one(*pair, most) for pair in zip(a.tolist(), b.tolist(), strict=True)]
    assert list(zip(a_kept.tolist(), b_kept.tolist(), strict=True)) == expected
    for begin, kept, length in ((a_begin, a_kept, a), (b_begin, b_kept, b)):
        assert (kept >= 1).all()
        assert (begin >= 0).all()
        assert (begin + kept <= length).all()
        assert (begin[kept == length] == 0).all()


def test_what_is_cut_is_cut_in_front_by_a_fair_coin():
    count = 20_000
    long, short = np.full(count, 24), np.full(count, 4)
    for a, b in ((long, short), (short, long)):
        a_begin, a_kept, b_begin, b_kept = _truncate(
            np.zeros_like(a), a, np.zeros_like(b), b, 12, DrawKey(0)
        )
        assert ((a_kept + b_kept) == 12).all()
        front = a_begin + b_begin  # of the long one: the short one is whole
        assert abs(front.mean() - 8) < 4 * 2 / count**0.5
        assert abs(front.var() - 4) < 0.2


# --- what every plan keeps


@pytest.mark.parametrize("length", [8, 32, 129])
@pytest.mark.parametrize("slots", [1, 3])
def test_pairs_keep_their_promises(corpus, documents, length, slots):
    config = replace(CONFIG, length=length, max_examples_per_row=slots)
    document_of = place_of(documents)
    seen = {False: 0, True: 0}
    for plan in all_blocks(corpus, config):
        a_end = plan.a_begin + plan.a_length
        assert (plan.a_length >= 1).all()
        assert (plan.b_length >= 1).all()
        assert (plan.sizes == plan.a_length + plan.b_length + SPECIAL.of_pair).all()
        assert plan.sizes.max() <= length
        a, b = document_of[plan.a_begin], document_of[plan.b_begin]
        # No segment reaches into a second document.
        assert (document_of[a_end - 1] == a).all()
        assert (document_of[plan.b_begin + plan.b_length - 1] == b).all()
        random = plan.is_random
        assert (a[random] != b[random]).all()
        assert (a[~random] == b[~random]).all()
        assert (plan.b_begin >= a_end)[~random].all()
        whole = ~random & (plan.sizes < length)  # nothing was cut
        assert (plan.b_begin == a_end)[whole].all()
        for kind in seen:
            seen[kind] += int(np.count_nonzero(random == kind))
        held = np.diff(plan.row_begins)
        assert plan.row_begins[0] == 0
        assert plan.row_begins[-1] == len(plan.a_begin)
        assert held.min() >= 1
        assert held.max() <= slots
        assert np.add.reduceat(plan.sizes, plan.row_begins[:-1]).max() <= length
    assert min(seen.values()) > 50


def test_an_epoch_visits_every_document_once(corpus, documents):
    assert blocks_per_epoch(corpus, CONFIG) > 3
    document_of = place_of(documents)
    for epoch in (0, 1):
        visited = [
            np.unique(document_of[plan.a_begin]) for plan in all_blocks(corpus, CONFIG, epoch=epoch)
        ]
        assert sorted(np.concatenate(visited)) == list(range(len(documents)))


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_where_nothing_is_cut_an_epoch_holds_every_token_once(corpus, rate):
    config = replace(CONFIG, length=4096, short_rate=0.0, random_b_rate=rate)
    uses = np.zeros(corpus.tokens, int)
    for plan in all_blocks(corpus, config):
        assert plan.truncated_tokens == 0
        for begin, length in zip(plan.a_begin, plan.a_length, strict=True):
            uses[begin : begin + length] += 1
        true = ~plan.is_random
        for begin, length in zip(plan.b_begin[true], plan.b_length[true], strict=True):
            uses[begin : begin + length] += 1
    assert (uses == 1).all()


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 1.0])
def test_the_share_of_random_pairs_is_the_rate_where_there_is_a_choice(corpus, rate):
    config = replace(CONFIG, length=16, random_b_rate=rate)
    chosen = random = 0
    for epoch in range(20):
        for plan in all_blocks(corpus, config, epoch=epoch):
            chosen += len(plan.is_random) - plan.forced
            random += int(plan.is_random.sum()) - plan.forced
    assert chosen > 4000
    assert abs(random - rate * chosen) <= 4 * (rate * (1 - rate) * chosen) ** 0.5


def test_short_examples_have_their_rate_and_are_uniform(tmp_path):
    # Sentences of one token reach any length exactly.
    corpus = write_corpus(tmp_path / "c", number_tokens([[1] * 20_000] * 3))
    config = PretrainDataConfig(
        max_examples_per_row=4, length=24, short_rate=0.3, random_b_rate=0.0, block_examples=10**6
    )
    plan = as_pairs(plan_block(corpus, config, seed=7, epoch=0, block=0))
    counts = np.bincount(plan.sizes - SPECIAL.of_pair, minlength=22)
    assert counts.sum() > 3000
    # Lengths 2 to 21, of which the last is also that of examples that are not short. The ends of
    # three documents may be shorter than was wanted.
    assert not counts[:2].any()
    per_length = counts.sum() * 0.3 / 20
    assert chi_square_z(counts[2:21], per_length, 19) < 4
    assert abs(counts[2:21].sum() - 19 * per_length) < 4 * (19 * per_length) ** 0.5


def test_negatives_are_uniform_over_other_documents_and_their_sentences(tmp_path):
    # Sentences of one token fill a pair exactly, so B begins with the sentence that was drawn.
    sizes = np.array([30, 500, 900, 40, 1500, 600, 1100])
    corpus = write_corpus(tmp_path / "c", number_tokens([[1] * size for size in sizes]), shards=2)
    config = PretrainDataConfig(
        max_examples_per_row=4, length=11, short_rate=0.0, random_b_rate=1.0, block_examples=10**6
    )
    document_of = np.repeat(np.arange(7), sizes)
    pairs = np.zeros((7, 7))
    sentences = np.zeros(corpus.sentences)
    epoch = 0
    while sentences.sum() < 100_000:
        plan = as_pairs(plan_block(corpus, config, seed=7, epoch=epoch, block=0))
        epoch += 1
        assert plan.truncated_tokens == 0
        np.add.at(pairs, (document_of[plan.a_begin], document_of[plan.b_begin]), 1)
        np.add.at(sentences, plan.b_begin, 1)
    assert not pairs.diagonal().any()
    others = ~np.eye(7, dtype=bool)
    expected = np.broadcast_to(pairs.sum(axis=1, keepdims=True) / 6, (7, 7))
    assert chi_square_z(pairs[others], expected[others], 7 * 5) < 4
    expected = np.bincount(document_of, weights=sentences)[document_of] / sizes[document_of]
    assert chi_square_z(sentences, expected, int(sizes.sum()) - 7) < 4


def test_a_split_is_uniform_over_the_sentences_of_its_chunk(tmp_path):
    corpus = write_corpus(tmp_path / "c", number_tokens([[1] * 40_000] * 2))
    config = PretrainDataConfig(
        max_examples_per_row=4, length=11, short_rate=0.0, random_b_rate=0.0, block_examples=10**6
    )
    plan = as_pairs(plan_block(corpus, config, seed=7, epoch=0, block=0))
    counts = np.bincount(plan.a_length, minlength=8)
    assert counts[0] == 0
    assert len(counts) == 8
    assert chi_square_z(counts[1:], counts.sum() / 7, 6) < 4


# --- names of plans


def test_a_plan_does_not_depend_on_what_was_planned_before(corpus):
    alone = as_pairs(plan_block(corpus, CONFIG, seed=7, epoch=2, block=1))
    all_blocks(corpus, CONFIG, epoch=1)
    np.random.default_rng(0).random(10)
    again = as_pairs(plan_block(corpus, CONFIG, seed=7, epoch=2, block=1))
    assert_equal_plans(again, alone)


@pytest.mark.parametrize("changed", [{"seed": 8}, {"epoch": 1}, {"block": 1}])
def test_another_name_gives_another_plan(corpus, changed):
    name = {"seed": 7, "epoch": 0, "block": 0}
    one = as_pairs(plan_block(corpus, CONFIG, **name))
    other = as_pairs(plan_block(corpus, CONFIG, **(name | changed)))
    assert not np.array_equal(one.a_begin, other.a_begin)


def test_shards_do_not_matter(tmp_path, corpus, documents):
    whole = write_corpus(tmp_path / "c", number_again(documents))
    assert len(corpus.shards) != len(whole.shards)
    for one, other in zip(all_blocks(corpus, CONFIG), all_blocks(whole, CONFIG), strict=True):
        assert_equal_plans(one, other)


def test_rows_are_shuffled(tmp_path):
    # Packed rows come out the longest example first; shuffled, their order says nothing.
    corpus = write_corpus(tmp_path / "c", make_documents(400, seed=5))
    plan = as_pairs(
        plan_block(corpus, replace(CONFIG, block_examples=10**6), seed=7, epoch=0, block=0)
    )
    held = np.diff(plan.row_begins)
    assert plan.rows > 500
    assert abs(np.corrcoef(np.arange(plan.rows), held)[0, 1]) < 4 / plan.rows**0.5


# --- the description


def test_the_description_has_the_share_of_truncated_tokens(tmp_path: pathlib.Path) -> None:
    # Each document is one pair of 15 + 4 tokens, of which 13 fit into a row of 16.
    corpus = write_corpus(tmp_path / "c", number_tokens([[15, 4]] * 3))
    config = replace(CONFIG, random_b_rate=0.0, length=16, max_examples_per_row=1, short_rate=0.0)
    plan = plan_block(corpus, config, seed=7, epoch=0, block=0)
    assert plan.examples.truncated_tokens == 18 and plan.truncated_share == 18 / 57
    message = plan.describe(16)
    assert message.startswith("3 examples in 3 rows, 100.0% full; 18 tokens (31.6% of all) cut to")
    assert "--layout=paragraphs" in message and "--config.data.format=full_sentences" in message
    # Below a tenth there is nothing to put right.
    some = plan_block(corpus, replace(config, length=21), seed=7, epoch=0, block=0)
    assert some.describe(21).endswith("; 3 tokens (5.3% of all) cut to fit")
    whole = plan_block(corpus, replace(config, length=22), seed=7, epoch=0, block=0)
    assert whole.describe(22) == "3 examples in 3 rows, 100.0% full"


# --- extreme corpora


def test_documents_of_one_sentence_are_forced_negatives(tmp_path):
    corpus = write_corpus(tmp_path / "c", number_tokens([[size] for size in range(1, 41)]))
    config = replace(CONFIG, random_b_rate=1e-9, block_examples=10**6)
    plan = as_pairs(plan_block(corpus, config, seed=7, epoch=0, block=0))
    assert plan.forced == len(plan.is_random) == 40
    assert plan.is_random.all()
    assert plan.sizes.max() == CONFIG.length


@pytest.mark.parametrize("sizes", [[[1], [1]], [[3, 4, 5], [2]], [[200], [300, 1]]])
def test_two_documents_are_enough(tmp_path, sizes):
    documents = number_tokens(sizes)
    corpus = write_corpus(tmp_path / "c", documents)
    check_corpus(corpus, CONFIG, "the corpus")
    document_of = place_of(documents)
    for epoch in range(5):
        for plan in all_blocks(corpus, CONFIG, epoch=epoch):
            random = plan.is_random
            other = 1 - document_of[plan.a_begin[random]]
            np.testing.assert_array_equal(document_of[plan.b_begin[random]], other)


def test_one_document_is_refused(tmp_path):
    corpus = write_corpus(tmp_path / "c", number_tokens([[3, 4, 5]]))
    with pytest.raises(UserError) as error:
        check_corpus(corpus, CONFIG, "the train split of corpora/mine")
    message = str(error.value)
    assert "\n" not in message
    assert "the train split of corpora/mine has 1 document(s)" in message
    assert "add documents" in message
