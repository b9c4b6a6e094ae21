"""Runs of sentences, and what the sentence objectives make of pairs."""

import dataclasses
import itertools

import numpy as np
import pytest

from bert_jax.config import ExampleFormat, PretrainDataConfig, SentenceObjective
from bert_jax.data.corpus.corpus import Corpus
from bert_jax.data.packing import draws
from bert_jax.data.packing.draws import DrawKey, Purpose
from bert_jax.data.pretraining import examples as examples_module
from bert_jax.data.pretraining.examples import Examples, Sentences
from bert_jax.data.pretraining.plan import (
    _documents_per_block,
    blocks_per_epoch,
    check_corpus,
    plan_block,
)
from tests.fixtures.data import (
    FIRST_ID,
    Documents,
    as_pairs,
    chi_square_z,
    make_documents,
    number_tokens,
    write_corpus,
)

SEED = 7
CONFIG = PretrainDataConfig(
    length=32, max_examples_per_row=3, block_examples=60, objective=SentenceObjective.NONE
)
SOP = dataclasses.replace(CONFIG, objective=SentenceObjective.SOP, random_b_rate=0.0)
FULL, DOC = (
    dataclasses.replace(CONFIG, format=format)
    for format in (ExampleFormat.FULL_SENTENCES, ExampleFormat.DOC_SENTENCES)
)


@pytest.fixture(scope="module")
def documents() -> Documents:
    """Of all sizes, with sentences longer than a row and documents of one sentence."""
    made = make_documents(61, seed=2) + make_documents(9, seed=3, most_tokens=70)
    return number_tokens([[len(ids) for ids in document] for document in made])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, documents) -> Corpus:
    return write_corpus(tmp_path_factory.mktemp("examples") / "corpus", documents, shards=3)


def all_examples(corpus: Corpus, config: PretrainDataConfig, epoch: int = 0) -> list[Examples]:
    return [
        plan_block(corpus, config, seed=SEED, epoch=epoch, block=block).examples
        for block in range(blocks_per_epoch(corpus, config))
    ]


def parts_of(examples: Examples) -> list[tuple[tuple[int, ...], ...]]:
    """Reads the token ids of each example, part by part."""
    parts = [
        tuple(range(FIRST_ID + begin, FIRST_ID + begin + length))
        for begin, length in zip(
            examples.part_begin.tolist(), examples.part_length.tolist(), strict=True
        )
    ]
    bounds = examples.part_bounds.tolist()
    return [tuple(parts[a:b]) for a, b in itertools.pairwise(bounds)]


# --- runs of sentences


def slow_runs(
    documents: Documents, order: list[int], length: int, *, across: bool
) -> list[tuple[tuple[int, ...], ...]]:
    """Fills examples sentence by sentence: a list of parts each, one for each document."""
    runs: list[list[list[int]]] = []
    for document in order:
        pieces = [
            sentence[begin : begin + length - 2]
            for sentence in documents[document]
            for begin in range(0, len(sentence), length - 2)
        ]
        opens = True
        for piece in pieces:
            size = 1 + sum(len(part) + 1 for part in runs[-1]) if runs else length
            more = len(piece) + (1 if opens else 0)
            if size + more > length or (opens and not across):
                runs.append([list(piece)])
            elif opens:
                runs[-1].append(list(piece))
            else:
                runs[-1][-1].extend(piece)
            opens = False
    return [tuple(tuple(part) for part in run) for run in runs]


@pytest.mark.parametrize("config", [FULL, DOC], ids=["full", "doc"])
@pytest.mark.parametrize("length", [8, 32, 200])
def test_runs_are_the_slow_reading(corpus, documents, config, length):
    config = dataclasses.replace(config, length=length)
    per_block = _documents_per_block(corpus, config)
    order = draws.permuted(
        np.arange(len(documents)), len(documents), DrawKey(SEED, 1), Purpose.DOCUMENT_ORDER
    ).tolist()
    compared = 0
    for block, examples in enumerate(all_examples(corpus, config, epoch=1)):
        own = order[block * per_block : (block + 1) * per_block]
        across = config.format is ExampleFormat.FULL_SENTENCES
        expected = slow_runs(documents, own, length, across=across)
        assert sorted(parts_of(examples)) == sorted(expected)
        sizes = [1 + sum(len(part) + 1 for part in example) for example in parts_of(examples)]
        assert examples.sizes.tolist() == sizes
        assert max(sizes) <= length
        assert not examples.labelled.any()
        compared += len(expected)
    assert compared > 30


@pytest.mark.parametrize("config", [FULL, DOC], ids=["full", "doc"])
def test_runs_hold_every_token_once(corpus, config):
    uses = np.zeros(corpus.tokens, int)
    several = 0
    for examples in all_examples(corpus, config):
        for begin, length in zip(examples.part_begin, examples.part_length, strict=True):
            uses[begin : begin + length] += 1
        several += int((np.diff(examples.part_bounds) > 1).sum())
    assert (uses == 1).all()
    assert (several > 0) == (config is FULL)  # only these cross documents


def test_long_sentences_become_several(corpus, documents):
    chosen = np.array([3, 65, 0, 69])
    whole, cut = Sentences(corpus, chosen), Sentences(corpus, chosen, longest=6)
    expected = [
        (int(document), sentence[begin] - FIRST_ID, len(sentence[begin : begin + 6]))
        for document in chosen
        for sentence in documents[document]
        for begin in range(0, len(sentence), 6)
    ]
    found = zip(cut.document, cut.token_begins, np.diff(cut.bounds), strict=True)
    assert [tuple(map(int, each)) for each in found] == expected
    assert len(cut.document) > len(whole.document)
    assert cut.bounds[-1] == whole.bounds[-1]
    ends = np.flatnonzero(np.diff(cut.document, append=-1)) + 1
    np.testing.assert_array_equal(np.unique(cut.document_end), np.sort(ends))


def test_one_document_is_enough_for_what_draws_no_other(tmp_path):
    corpus = write_corpus(tmp_path / "c", number_tokens([[3, 4, 5]]))
    for config in (FULL, DOC, SOP):
        check_corpus(corpus, config, "the corpus")
        assert sum(map(len, all_examples(corpus, config))) >= 1


# --- objectives of pairs


def test_sop_swaps_half_of_the_pairs_of_one_document(corpus):
    swapped = labelled = 0
    plain = dataclasses.replace(SOP, objective=SentenceObjective.NONE)
    for epoch in range(30):
        for ours, unswapped in zip(
            all_examples(corpus, SOP, epoch), all_examples(corpus, plain, epoch), strict=True
        ):
            for ours_parts, plain_parts, label, has_label in zip(
                parts_of(ours), parts_of(unswapped), ours.labels, ours.labelled, strict=True
            ):
                assert ours_parts == (plain_parts[::-1] if label else plain_parts)
                assert has_label == (len(plain_parts) == 2)
                assert has_label or not label
            swapped += int(ours.labels.sum())
            labelled += int(ours.labelled.sum())
            assert not unswapped.labelled.any()
    assert labelled > 4000
    assert abs(swapped - labelled / 2) < 4 * (labelled / 4) ** 0.5


def test_without_an_objective_the_pairs_are_those_of_nsp(corpus):
    nsp = dataclasses.replace(CONFIG, objective=SentenceObjective.NSP)
    for ours, theirs in zip(all_examples(corpus, CONFIG), all_examples(corpus, nsp), strict=True):
        assert parts_of(ours) == parts_of(theirs)
        assert theirs.labelled.all()
        assert theirs.labels.any()
        assert not ours.labelled.any()
        assert not ours.labels.any()


def test_contiguous_pairs_never_leave_their_document(corpus, documents):
    config = dataclasses.replace(CONFIG, random_b_rate=0.0)
    sizes = [sum(map(len, document)) for document in documents]
    document_of = np.repeat(np.arange(len(documents)), sizes)
    single = 0
    for block in range(blocks_per_epoch(corpus, config)):
        plan = as_pairs(plan_block(corpus, config, seed=SEED, epoch=0, block=block))
        has_b = plan.b_length > 0
        np.testing.assert_array_equal(
            document_of[plan.a_begin[has_b]], document_of[plan.b_begin[has_b]]
        )
        assert plan.forced == 0
        single += int((~has_b).sum())
    assert single > 5  # what has no continuation stands alone


def test_pairs_do_not_depend_on_how_many_sentences_are_read_at_once(corpus, monkeypatch):
    config = PretrainDataConfig(length=24, short_rate=0.3, max_examples_per_row=2)
    whole = all_examples(corpus, config)
    for at_once in (1, 7, 50):
        monkeypatch.setattr(examples_module, "_SENTENCES_AT_ONCE", at_once)
        assert [parts_of(part) for part in all_examples(corpus, config)] == [
            parts_of(part) for part in whole
        ]


def test_negatives_are_drawn_as_bert_drew_them_over_a_million_draws(tmp_path):
    """A document uniform over the others, then a sentence uniform in it: exactly that."""
    sizes = np.array([30, 500, 900, 40, 1500, 600, 1100])
    corpus = write_corpus(tmp_path / "c", number_tokens([[1] * size for size in sizes]), shards=2)
    config = PretrainDataConfig(
        format=ExampleFormat.SENTENCE_PAIR,
        length=11,
        max_examples_per_row=1,
        random_b_rate=1.0,
        block_examples=10**7,
    )
    document_of = np.repeat(np.arange(7), sizes)
    pairs, sentences, drawn, epoch = np.zeros((7, 7)), np.zeros(corpus.sentences), 0, 0
    while drawn < 10**6:
        plan = as_pairs(plan_block(corpus, config, seed=SEED, epoch=epoch, block=0))
        own, other = document_of[plan.a_begin], document_of[plan.b_begin]
        pairs += np.bincount(own * 7 + other, minlength=49).reshape(7, 7)
        sentences += np.bincount(plan.b_begin, minlength=corpus.sentences)
        drawn, epoch = drawn + len(own), epoch + 1
    assert not pairs.diagonal().any()
    others = ~np.eye(7, dtype=bool)
    expected = np.broadcast_to(pairs.sum(axis=1, keepdims=True) / 6, (7, 7))
    assert chi_square_z(pairs[others], expected[others], 7 * 5) < 4
    # Not uniform over sentences of the corpus: each document has its share, whatever its size.
    share = np.bincount(document_of, weights=sentences)
    expected = share[document_of] / sizes[document_of]
    assert chi_square_z(sentences, expected, int(sizes.sum()) - 7) < 4
    biased = np.full(len(sentences), sentences.mean())
    assert chi_square_z(sentences, biased, len(sentences) - 1) > 100  # a test that can fail
