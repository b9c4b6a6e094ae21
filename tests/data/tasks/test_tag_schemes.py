"""Schemes of tags: told apart, read as entities, rewritten, scored as seqeval scores them."""

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from seqeval import metrics as seqeval
from seqeval.scheme import BILOU, IOB2, IOBES, IOE2, Entities

from bert_jax.config import TagReading
from bert_jax.data.tasks.metrics import entity_scores, tag_accuracy, undefined_of_entities
from bert_jax.data.tasks.tag_schemes import (
    PLAIN,
    Tagging,
    TagScheme,
    common,
    entities,
    read_as,
    rewritten,
    tagging_of,
    tagging_of_labels,
    tagging_of_sentences,
)

Span = tuple[str, int, int]


def draw_spans(rng: np.random.Generator, length: int, kinds: list[str]) -> list[Span]:
    """Draws entities that often touch, of few types."""
    spans, begin = [], 0
    while True:
        begin += int(rng.integers(3))
        end = begin + int(rng.integers(1, 4))
        if end > length:
            return spans
        spans.append((str(rng.choice(kinds)), begin, end))
        begin = end


def letters_of(scheme: TagScheme, size: int, touches: bool, touched: bool) -> str:
    """Returns the letters of an entity, written out from the definition of each scheme.

    `touches` and `touched`: an entity of the same type ends just before it, or begins after it.
    """
    middle = size - 2
    match scheme:
        case TagScheme.IO:
            return "I" * size
        case TagScheme.IOB1:
            return ("B" if touches else "I") + "I" * (size - 1)
        case TagScheme.IOB2:
            return "B" + "I" * (size - 1)
        case TagScheme.IOE1:
            return "I" * (size - 1) + ("E" if touched else "I")
        case TagScheme.IOE2:
            return "I" * (size - 1) + "E"
        case TagScheme.IOBES:
            return "S" if size == 1 else "B" + "I" * middle + "E"
        case TagScheme.BILOU:
            return "U" if size == 1 else "B" + "I" * middle + "L"
        case TagScheme.BMES:
            return "S" if size == 1 else "B" + "M" * middle + "E"
        case TagScheme.BMEWO:
            return "W" if size == 1 else "B" + "M" * middle + "E"
    raise AssertionError(scheme)


Shape = Callable[[str, str], str]  # letter, type -> tag

# How tags are written, by the fields of a tagging.
SHAPES: dict[tuple[str, bool, bool], Shape] = {
    ("-", False, False): lambda letter, kind: f"{letter}-{kind}",
    ("-", True, False): lambda letter, kind: f"{kind}-{letter}",
    ("_", False, False): lambda letter, kind: f"{letter}_{kind}",
    (":", True, False): lambda letter, kind: f"{kind}:{letter}",
    ("-", False, True): lambda letter, kind: f"{letter.lower()}-{kind}",
    ("", False, False): lambda letter, _: letter,
    ("", False, True): lambda letter, _: letter.lower(),
}
SCHEMES = [each for each in TagScheme if each not in (TagScheme.PLAIN, TagScheme.TYPES)]


def write(spans: list[Span], length: int, tagging: Tagging) -> list[str]:
    shape = SHAPES[tagging.separator, tagging.suffix, tagging.lower]
    tags = ["o" if tagging.lower else "O"] * length
    for kind, begin, end in spans:
        touches = any(other[0] == kind and other[2] == begin for other in spans)
        touched = any(other[0] == kind and other[1] == end for other in spans)
        letters = letters_of(tagging.scheme, end - begin, touches, touched)
        tags[begin:end] = [shape(letter, kind) for letter in letters]
    return tags


def drawn(seed: int, tagging: Tagging, count: int = 60) -> tuple[list[int], list[list[Span]]]:
    """Draws lengths of sentences and their entities, which touch only where the scheme can tell."""
    rng = np.random.default_rng(seed)
    kinds = ["PER", "geo-loc", "\u00e9"] if tagging.separator else ["_"]
    lengths = rng.integers(1, 13, count).tolist()
    sides = [draw_spans(rng, length, kinds) for length in lengths]
    if tagging.scheme is TagScheme.IO:
        for spans in sides:
            ends = {(kind, end) for kind, _, end in spans}
            spans[:] = [span for span in spans if span[:2] not in ends]
    return lengths, sides


TAGGINGS = [Tagging(scheme, *shape) for scheme, shape in itertools.product(SCHEMES, SHAPES)]


@pytest.mark.parametrize("tagging", TAGGINGS, ids=str)
def test_every_scheme_is_found_and_scored(tagging: Tagging) -> None:
    lengths, spans = drawn(0, tagging)
    gold = [write(each, length, tagging) for each, length in zip(spans, lengths, strict=True)]
    assert tagging_of_sentences(gold) == tagging
    assert [entities(tags, tagging) for tags in gold] == spans

    # Predictions that a model may make: any tags of the scheme, in any order.
    rng, tags = np.random.default_rng(1), sorted(set(itertools.chain(*gold)))
    guesses = [
        [str(rng.choice(tags)) if rng.random() < 0.4 else tag for tag in sentence]
        for sentence in gold
    ]
    scores = entity_scores(gold, guesses, tagging)
    found = [
        {(number, *span) for number, tags in enumerate(side) for span in entities(tags, tagging)}
        for side in (gold, guesses)
    ]
    both, right, given = len(found[0] & found[1]), *map(len, found)
    assert 0 < both < min(right, given)
    assert scores == pytest.approx(
        {
            "precision": both / given,
            "recall": both / right,
            "f1": 2 * both / (right + given),
            "accuracy": np.mean(np.concatenate(gold) == np.concatenate(guesses)),
        }
    )
    if not tagging.lower and tagging.separator in ("-", "") and tagging.scheme.value[0] == "I":
        assert scores["f1"] == pytest.approx(seqeval.f1_score(gold, guesses, suffix=tagging.suffix))
    assert entity_scores(gold, gold, tagging)["f1"] == 1


@pytest.mark.parametrize("tagging", TAGGINGS, ids=str)
def test_labels_alone_tell_the_scheme(tagging: Tagging) -> None:
    target = read_as(tagging)
    lengths, spans = drawn(2, tagging)
    gold = [write(each, length, tagging) for each, length in zip(spans, lengths, strict=True)]
    read = [rewritten(tags, tagging, target) for tags in gold]
    assert read == [write(each, n, target) for each, n in zip(spans, lengths, strict=True)]
    assert tagging_of_labels(set(itertools.chain(*read))) == target


@pytest.mark.parametrize(
    ("scheme", "theirs"),
    [
        (TagScheme.IOB2, IOB2),
        (TagScheme.IOE2, IOE2),
        (TagScheme.IOBES, IOBES),
        (TagScheme.BILOU, BILOU),
    ],
)
def test_entities_are_those_of_seqevals_strict_mode(scheme: TagScheme, theirs: type) -> None:
    tagging = Tagging(scheme)
    lengths, spans = drawn(3, tagging)
    gold = [write(each, length, tagging) for each, length in zip(spans, lengths, strict=True)]
    strict = Entities(gold, theirs).entities
    assert [[(e.tag, e.start, e.end) for e in each] for each in strict] == spans


def test_tags_in_any_order_keep_their_entities() -> None:
    rng, tags = np.random.default_rng(1), np.array(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
    iob1, iob2, changed = Tagging(TagScheme.IOB1), Tagging(TagScheme.IOB2), 0
    for _ in range(200):
        sequence = rng.choice(tags, 11).tolist()
        written = rewritten(sequence, iob1, iob2)
        (strict,) = Entities([written], IOB2).entities
        assert [(each.tag, each.start, each.end) for each in strict] == entities(sequence, iob1)
        assert entities(written, iob2) == entities(sequence, iob1)
        changed += written != sequence
    assert changed > 20


@pytest.mark.parametrize(("left", "right"), list(itertools.permutations(SCHEMES, 2)))
def test_a_scheme_is_rewritten_to_any_other(left: TagScheme, right: TagScheme) -> None:
    source, target = Tagging(left), read_as(Tagging(right, "_", suffix=False))
    lengths, spans = drawn(4, Tagging(TagScheme.IO))  # which every scheme can tell
    for each, length in zip(spans, lengths, strict=True):
        assert rewritten(write(each, length, source), source, target) == write(each, length, target)


def test_touching_entities_are_not_written_where_they_would_be_one() -> None:
    tags = ["B-x", "B-x"]
    assert rewritten(tags, Tagging(TagScheme.IOB2), Tagging(TagScheme.IO)) == tags


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("I-A O", Tagging(TagScheme.IO)),
        ("O I-A I-B", Tagging(TagScheme.IO)),
        ("B-A I-B", Tagging(TagScheme.IOB1)),
        ("I-A B-A", Tagging(TagScheme.IOB1)),
        ("B-A I-B B-C", Tagging(TagScheme.IOB1)),  # IOB1 would not have B-C: neither scheme
        ("B-A I-A B-A", Tagging(TagScheme.IOB2)),
        ("B-A O", Tagging(TagScheme.IOB2)),
        ("E-A I-A E-A", Tagging(TagScheme.IOE2)),
        ("I-A E-A I-A", Tagging(TagScheme.IOE1)),
        ("S-A O", Tagging(TagScheme.IOBES)),
        ("U-A O", Tagging(TagScheme.BILOU)),
        ("B M E S", Tagging(TagScheme.BMES, "")),  # Chinese words: no O
        ("B I", Tagging(TagScheme.IOB2, "")),
        ("B-S I-S O", Tagging(TagScheme.IOB2)),
        ("PER-B PER-I LOC-B O", Tagging(TagScheme.IOB2, suffix=True)),
        # No entities
        ("O O", PLAIN),
        ("NN VB O", PLAIN),
        ("NN NN-S VB-B", PLAIN),
        ("WP-HL NN-TL PRP$ -LRB- -RRB- , .", PLAIN),
        ("NNP I-X VBZ O", PLAIN),
        ("N V A P R S C M I Q X Y", PLAIN),  # MULTEXT's parts of speech
        ("N O S ^ Z L M V A R ! D P & T X # @ ~ U E $ ,", PLAIN),  # Twitter's
        ("S O", PLAIN),
        ("S V O", PLAIN),
        ("0 1 2", PLAIN),
        ("PER LOC O", PLAIN),
        ("nsubj:pass obl:tmod root", PLAIN),
        ("B-", PLAIN),
    ],
)
def test_the_tagging_of_tags(tags: str, expected: Tagging) -> None:
    assert (
        tagging_of_sentences([["O"], tags.split()] if "O" in tags else [tags.split()]) == expected
    )


@pytest.mark.parametrize(
    ("tags", "broken"),
    [
        ("O B-PER I-PER 0", "0"),
        ("O B-PER I-PER B_PER", "B_PER"),
        ("O B-PER I-PER b-PER", "b-PER"),
        ("O B-PER I-PER PER", "PER"),
        ("O B-PER I-PER B", "B"),
        ("O B-PER I-PER B-", "B-"),
        ("O B-PER I-PER U-PER", "U-PER"),
        ("O B-PER I-PER L-PER E-PER S-PER", "L-PER"),
        ("O B-PER I-PER O-PER", "O-PER"),
        ("O B-PER I-PER o", "o"),
        ("O B-PER I-PER \u0412-PER", "\u0412-PER"),  # a Cyrillic letter
        ("O B-PER I-PER _", "_"),
        ("0 B-PER I-PER", "0"),
        ("O B-PER 0", "0"),
        ("O B I 0", "0"),
        ("O B 0", "0"),
        ("O B I X", "X"),
        ("o b-per i-per O", "O"),
        ("O PER-B PER-I B-PER", "B-PER"),
        ("B M E S N", "N"),
        ("O B-PER I-PER S-PER", "S-PER"),
        ("O" + 20 * " B-PER" + " I-PER E-PER", "E-PER"),
        ("O" + 20 * " B-PER" + " I-PER L-PER", "L-PER"),
    ],
)
def test_a_tag_that_breaks_the_scheme_is_found(tags: str, broken: str) -> None:
    tagging = tagging_of(Counter(tags.split()))
    assert tagging.marks_entities
    assert [tag for tag in tags.split() if not tagging.parse(tag)] == [broken]
    of_labels = tagging_of_labels(set(tags.split()))  # any of which a model may predict
    assert of_labels == PLAIN or all(map(of_labels.parse, tags.split()))


def test_the_config_may_say_what_tags_are() -> None:
    tags = ["O", "PER", "PER", "LOC", "O", "PER"]
    assert tagging_of({"B-x": 1, "O": 1}, TagReading.PLAIN) == PLAIN
    tagging = tagging_of_sentences([tags], TagReading.TYPES)
    assert tagging_of_labels(["LOC", "O", "PER"], TagReading.TYPES) == tagging
    assert entities(tags, tagging) == [("PER", 1, 3), ("LOC", 3, 4), ("PER", 5, 6)]
    assert rewritten(["O", "I-PER"], Tagging(TagScheme.IO), tagging) == ["O", "PER"]


def test_the_tagging_of_several_files() -> None:
    io, iob1, iob2, iobes = (Tagging(TagScheme[name]) for name in ("IO", "IOB1", "IOB2", "IOBES"))
    assert common([iob1, iob1]) == common([iob1, iobes]) == common([io, iob1]) == iob2
    assert common([io, PLAIN]) == io and common([iobes, iob2]) == iobes
    assert common([PLAIN, iob2]) == PLAIN


def test_an_entity_ends_with_its_sentence() -> None:
    tagging = tagging_of_sentences([["B-A"], ["I-A"]])
    assert tagging.scheme is TagScheme.IOB1
    scores = entity_scores([["B-A"], ["I-A"]], [["B-A"], ["O"]], tagging)
    assert scores == {"precision": 1, "recall": 0.5, "f1": pytest.approx(2 / 3), "accuracy": 0.5}


@pytest.mark.parametrize(
    ("gold", "predicted", "undefined"),
    [
        ("O O", "O O", {"precision", "recall", "f1"}),
        ("O O", "O B-A", {"recall"}),
        ("B-A", "O", {"precision"}),
        ("B-A", "B-B", set()),
    ],
)
def test_undefined_scores_of_entities_are_zero_and_named(
    gold: str, predicted: str, undefined: set[str]
) -> None:
    sides = [gold.split()], [predicted.split()]
    tagging = Tagging(TagScheme.IOB2)
    scores = entity_scores(*sides, tagging)
    assert [scores[name] for name in ("precision", "recall", "f1")] == [0, 0, 0]
    assert undefined_of_entities(*sides, tagging).keys() == undefined


@pytest.mark.parametrize(
    ("gold", "predicted", "message"),
    [
        ([["O"], ["O"]], [["O"]], "lengths differ: 2, 1"),
        ([["O"], ["O", "O"]], [["O", "O"], ["O"]], "sentence 0 has 1 gold tags and 2 predicted"),
        ([], [], "nothing to score"),
        ([[], []], [[], []], "nothing to score"),
        ([["B-A"]], [["NN"]], "the tag 'NN' marks no entity in IOB2 entities"),
    ],
)
def test_wrong_tags_are_refused(gold: list, predicted: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        entity_scores(gold, predicted, Tagging(TagScheme.IOB2))
    if "marks" not in message:
        with pytest.raises(ValueError, match=message):
            tag_accuracy(gold, predicted)


def test_accuracy_is_of_tags() -> None:
    assert tag_accuracy([["NN", "VB", "NN"], ["O"]], [["NN", "NN", "NN"], ["B-A"]]) == 0.5
    with pytest.raises(ValueError, match="marks no entity in tags that mark no entities"):
        entities(["NN"], PLAIN)
