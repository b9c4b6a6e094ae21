from fractions import Fraction

import numpy as np
import pytest
from scipy import stats
from seqeval.scheme import IOB2, Entities

from bert_jax.data.tasks.metrics import (
    TagScheme,
    answer_f1,
    answer_scores,
    best_no_answer_threshold,
    classification_scores,
    entities,
    entity_scores,
    exact_match,
    normalize_answer,
    regression_scores,
    tag_scheme,
    tag_scores,
    to_iob2,
)

Span = tuple[str, int, int]


def test_two_classes() -> None:
    # Class 1: 2 right, 1 missed, 1 too many; class 0: 3, 1 and 1.
    gold, predicted = np.array([1, 1, 1, 0, 0, 0, 0]), np.array([1, 1, 0, 1, 0, 0, 0])
    scores = classification_scores(gold, predicted, classes=2, positive=1)
    expected = {"accuracy": 5 / 7, "matthews": 5 / 12, "macro_f1": 17 / 24, "f1": 2 / 3}
    assert scores == pytest.approx(expected)
    assert {type(score) for score in scores.values()} == {float}
    assert scores["matthews"] == pytest.approx(np.corrcoef(gold, predicted)[0, 1])
    scores = classification_scores(gold, predicted, classes=2, positive=0)
    assert scores == pytest.approx(expected | {"f1": 3 / 4})


def test_more_classes_have_no_positive_one() -> None:
    # The F1 of the classes are 2/3, 1/2, 0, and 0 for the one that neither side has. Matthews of
    # many classes (Gorodkin, 2004): (6 * 3 - 14) / (36 - 14).
    gold, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 2, 0])
    scores = classification_scores(gold, predicted, classes=4, positive=1)
    assert scores == pytest.approx({"accuracy": 1 / 2, "matthews": 2 / 11, "macro_f1": 7 / 24})


@pytest.mark.parametrize(("positive", "f1"), [(0, 0), (1, 1)])
def test_one_class_alone_warns_of_nothing(positive: int, f1: float) -> None:
    ones = np.ones(3, np.int32)
    scores = classification_scores(ones, ones, classes=2, positive=positive)
    assert scores == {"accuracy": 1, "matthews": 0, "macro_f1": 0.5, "f1": f1}


@pytest.mark.parametrize(
    ("gold", "predicted", "positive", "message"),
    [
        ([0, 1, 1], [0, 1], 1, "lengths differ: 3, 2"),
        ([], [], 1, "nothing to score"),
        ([[0], [1]], [[0], [1]], 1, r"\(2, 1\), \(2, 1\) are not .E."),
        ([0, 1], [0, 2], 1, r"0 to 2 are not in \[0, 2\)"),
        ([0, -1], [0, 1], 1, r"-1 to 1 are not in \[0, 2\)"),
        ([0, 1], [0, 1], -1, r"-1 to 1 are not in \[0, 2\)"),
    ],
)
def test_wrong_classes_are_refused(
    gold: list, predicted: list, positive: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        classification_scores(np.array(gold, int), np.array(predicted, int), 2, positive)


def test_regression() -> None:
    # From the means they are off by -1.5, -0.5, 0.5, 1.5 and -3, -1, -2, 6; two ranks are swapped.
    scores = regression_scores(np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 10]))
    expected = {"pearson": 13 / 250**0.5, "spearman": 0.8, "mean_squared_error": 9.5}
    assert scores == pytest.approx(expected)
    assert {type(score) for score in scores.values()} == {float}


def test_equal_numbers_share_a_rank() -> None:
    scores = regression_scores(np.array([1.0, 2, 2, 9]), np.array([10.0, 20, 30, 40]))
    assert scores["spearman"] == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


@pytest.mark.parametrize(
    ("gold", "predicted"), [([1, 2, 3], [4, 4, 4]), ([4, 4, 4], [1, 2, 3]), ([1], [2])]
)
def test_what_is_constant_has_no_correlation(gold: list[float], predicted: list[float]) -> None:
    scores = regression_scores(np.array(gold, np.float32), np.array(predicted, np.float32))
    error = np.mean([(a - b) ** 2 for a, b in zip(gold, predicted, strict=True)])
    assert scores == pytest.approx({"pearson": 0, "spearman": 0, "mean_squared_error": error})


def test_hardly_anything_to_correlate_warns_of_nothing() -> None:
    nearly, gold = np.array([1, 1 + 1e-15, 1 + 2e-15]), np.array([1.0, 2, 3])
    with pytest.warns(stats.NearConstantInputWarning):
        stats.pearsonr(gold, nearly)
    assert regression_scores(gold, nearly)["spearman"] == pytest.approx(1)
    scores = regression_scores(gold[:2], np.array([3.0, 1]))
    assert scores == {"pearson": -1, "spearman": pytest.approx(-1), "mean_squared_error": 2.5}


@pytest.mark.parametrize(
    ("gold", "predicted", "message"),
    [
        ([0, 1, 1], [0, 1], "lengths differ: 3, 2"),
        ([], [], "nothing to score"),
        ([[0], [1]], [0, 1], r"\(2, 1\), \(2,\) are not .E."),
        ([0, 1], [[0], [1]], r"\(2,\), \(2, 1\) are not .E."),
        ([0, 1], [0, np.nan], "NaN"),
        ([0, 1], [0, np.inf], "infinity"),
    ],
)
def test_wrong_numbers_are_refused(gold: list, predicted: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        regression_scores(np.array(gold, float), np.array(predicted, float))


def draw_spans(rng: np.random.Generator, length: int) -> list[Span]:
    """Draws entities that often touch, of few types."""
    spans, begin = [], 0
    while True:
        begin += int(rng.integers(3))
        end = begin + int(rng.integers(1, 4))
        if end > length:
            return spans
        spans.append((str(rng.choice(["PER", "LOC"])), begin, end))
        begin = end


def write_tags(spans: list[Span], length: int, scheme: TagScheme) -> list[str]:
    tags = ["O"] * length
    for kind, begin, end in spans:
        touches = any(span[0] == kind and span[2] == begin for span in spans)
        tags[begin:end] = [f"I-{kind}"] * (end - begin)
        if scheme is TagScheme.IOB2 or touches:
            tags[begin] = f"B-{kind}"
    return tags


def test_both_schemes_are_told_apart_and_hold_the_same_entities() -> None:
    rng, touching = np.random.default_rng(0), 0
    for _ in range(200):
        length = int(rng.integers(12))
        spans = draw_spans(rng, length)
        iob1, iob2 = (write_tags(spans, length, s) for s in (TagScheme.IOB1, TagScheme.IOB2))
        assert entities(iob1) == entities(iob2) == spans
        assert to_iob2(iob1) == to_iob2(iob2) == iob2
        assert tag_scheme([iob2, []]) is TagScheme.IOB2
        assert tag_scheme([["O"], iob1]) is (TagScheme.IOB1 if spans else TagScheme.IOB2)
        touching += any(tag.startswith("B-") for tag in iob1)
    assert touching > 20


def test_tags_of_neither_scheme_keep_their_entities() -> None:
    rng, tags = np.random.default_rng(1), np.array(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
    changed = 0
    for _ in range(200):
        sequence = rng.choice(tags, 11).tolist()
        rewritten = to_iob2(sequence)
        (strict,) = Entities([rewritten], IOB2).entities
        assert [(each.tag, each.start, each.end) for each in strict] == entities(sequence)
        assert entities(rewritten) == entities(sequence)
        assert tag_scheme([rewritten]) is TagScheme.IOB2
        changed += rewritten != sequence
    assert changed > 20


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        ("I-A O", TagScheme.IOB1),
        ("O I-A", TagScheme.IOB1),
        ("B-A I-B", TagScheme.IOB1),
        ("I-A I-B", TagScheme.IOB1),
        ("B-A I-B B-C", TagScheme.IOB1),  # IOB1 would not have B-C: neither scheme
        ("B-A I-A B-A", TagScheme.IOB2),
        ("O O", TagScheme.IOB2),
        ("NN VB O", TagScheme.PLAIN),
        ("B-A E-A", TagScheme.PLAIN),
        ("B I", TagScheme.PLAIN),
    ],
)
def test_tag_scheme(tags: str, scheme: TagScheme) -> None:
    assert tag_scheme([["O", "O"], tags.split()]) is scheme


def test_an_entity_ends_with_its_sentence() -> None:
    assert tag_scheme([["B-A"], ["I-A"]]) is TagScheme.IOB1
    scores = entity_scores([["B-A"], ["I-A"]], [["B-A"], ["O"]])
    assert scores == {"precision": 1, "recall": 0.5, "f1": pytest.approx(2 / 3), "accuracy": 0.5}


def test_entity_scores() -> None:
    gold = ["B-PER I-PER O B-LOC O O B-PER".split(), "B-LOC I-LOC B-LOC".split()]
    # Right; another type; a type right but too long; missed; right; right.
    predicted = ["B-PER I-PER O B-PER O B-PER I-PER".split(), "B-LOC I-LOC B-LOC".split()]
    scores = entity_scores(gold, predicted)
    assert scores == pytest.approx(
        {"precision": 3 / 5, "recall": 3 / 5, "f1": 3 / 5, "accuracy": 7 / 10}
    )
    assert {type(score) for score in scores.values()} == {float}
    predicted[1] = ["B-LOC", "O", "O"]
    assert entity_scores(gold, predicted) == pytest.approx(
        {"precision": 1 / 4, "recall": 1 / 5, "f1": 2 / 9, "accuracy": 5 / 10}
    )


def test_entities_are_counted_together() -> None:
    rng = np.random.default_rng(2)
    lengths = rng.integers(1, 17, 23)
    sides = [[draw_spans(rng, length) for length in lengths] for _ in range(2)]
    found = [{(n, *span) for n, spans in enumerate(side) for span in spans} for side in sides]
    both, gold, predicted = len(found[0] & found[1]), len(found[0]), len(found[1])
    assert 0 < both < min(gold, predicted) and gold != predicted
    tags = [
        [
            write_tags(spans, length, TagScheme.IOB2)
            for spans, length in zip(side, lengths, strict=True)
        ]
        for side in sides
    ]
    assert entity_scores(*tags) == pytest.approx(
        {
            "precision": both / predicted,
            "recall": both / gold,
            "f1": 2 * both / (gold + predicted),
            "accuracy": np.mean(np.concatenate(tags[0]) == np.concatenate(tags[1])),
        }
    )


@pytest.mark.parametrize(
    ("gold", "predicted", "accuracy"), [("O O", "O O", 1), ("O O", "O B-A", 0.5), ("I-A", "O", 0)]
)
def test_nothing_to_divide_by_is_zero(gold: str, predicted: str, accuracy: float) -> None:
    scores = entity_scores([gold.split()], [predicted.split()])
    assert scores == {"precision": 0, "recall": 0, "f1": 0, "accuracy": accuracy}


def test_plain_tags_have_accuracy_alone() -> None:
    gold, predicted = [["NN", "VB", "NN"], ["O"]], [["NN", "NN", "NN"], ["B-A"]]
    assert tag_scores(gold, predicted) == {"accuracy": 0.5}  # of tags: of sentences it is 1/3
    gold, predicted = [["B-A", "I-A"]], [["B-A", "I-A"]]
    assert tag_scores(gold, predicted) == {"precision": 1, "recall": 1, "f1": 1, "accuracy": 1}


@pytest.mark.parametrize(
    ("gold", "predicted", "message"),
    [
        ([["O"], ["O"]], [["O"]], "lengths differ: 2, 1"),
        ([["O"], ["O", "O"]], [["O", "O"], ["O"]], "sentence 0 has 1 gold tags and 2 predicted"),
        ([["NN"], ["O", "O"]], [["O", "O"], ["O"]], "sentence 0 has 1 gold tags and 2 predicted"),
        ([], [], "nothing to score"),
        ([[], []], [[], []], "nothing to score"),
        ([["B-A"]], [["NN"]], "a tag is neither O nor begins with B- or I-"),
    ],
)
def test_wrong_tags_are_refused(gold: list, predicted: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tag_scores(gold, predicted)


def test_plain_tags_hold_no_entities() -> None:
    with pytest.raises(ValueError, match="neither O nor begins with B- or I-"):
        entities(["NN"])
    with pytest.raises(ValueError, match="neither O nor begins with B- or I-"):
        entity_scores([["NN"]], [["O"]])


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Cat's\tA-Team!\n", "cats ateam"),
        ("theatre an anagram", "theatre anagram"),
        ("a.n. other", "other"),  # the articles go after the punctuation
        ("a the an", ""),
        ("?!", ""),
        ("$1,000.50", "100050"),
        ("ÉCOLE Théa", "école théa"),  # é is a letter: "a" is no word
        ("¿Qué? «a»", "¿qué « »"),  # other punctuation than ASCII's stays, and parts words
        ("1990–a", "1990–"),
        ("x\u00a0y\u2003z", "x y z"),
    ],
)
def test_normalize_answer(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "golds", "exact", "f1"),
    [
        ("The Cat!", ["a cat"], 1, 1),
        ("black cat", ["cat black"], 0, 1),
        ("black cat", ["a cat"], 0, 2 / 3),
        ("black cat", ["dog", "the black cat sat", "cat"], 0, 4 / 5),  # 4/5 in the middle is best
        ("cat", ["dog", "cat"], 1, 1),
        ("cat cat cat", ["cat cat dog"], 0, 2 / 3),  # twice in both, not three times
        ("cat", ["cat cat cat"], 0, 1 / 2),
        ("dog", ["cat"], 0, 0),
        ("", ["cat"], 0, 0),
        ("the", ["cat"], 0, 0),
        ("cat", [""], 0, 0),
        ("cat", [], 0, 0),
        ("", [""], 1, 1),
        ("", [], 1, 1),
        ("the", [""], 1, 1),
        ("the", ["a", "cat"], 0, 0),  # "a" is left out
        ("cat", ["a", "cat"], 1, 1),
        ("", ["a", "..."], 1, 1),  # all are left out
    ],
)
def test_one_answer(prediction: str, golds: list[str], exact: float, f1: float) -> None:
    assert exact_match(prediction, golds) == exact
    assert answer_f1(prediction, golds) == pytest.approx(f1)
    assert type(exact_match(prediction, golds)) is type(answer_f1(prediction, golds)) is float


def test_answer_scores() -> None:
    predictions = ["the cat", "black cat", "dog", "", "dog"]
    golds = [["cat"], ["cat", "a cat"], ["cat"], [""], []]
    assert answer_scores(predictions[:3], golds[:3]) == pytest.approx(
        {"exact_match": 100 / 3, "f1": 500 / 9}
    )
    scores = answer_scores(predictions, golds)
    assert scores == pytest.approx(
        {
            "exact_match": 40,
            "f1": 160 / 3,
            "has_answer_exact_match": 100 / 3,
            "has_answer_f1": 500 / 9,
            "no_answer_exact_match": 50,
        }
    )
    assert {type(score) for score in scores.values()} == {float}
    assert answer_scores(predictions[3:], golds[3:]) == {
        "exact_match": 50,
        "f1": 50,
        "no_answer_exact_match": 50,
    }
    # One whose answer normalises to nothing has an answer all the same.
    assert answer_scores(["", "x"], [["the"], [""]])["has_answer_exact_match"] == 100


def exact_f1(prediction: str, golds: list[str]) -> Fraction:
    """Undoes the rounding, which can break a tie of sums."""
    return Fraction(answer_f1(prediction, golds)).limit_denominator(100)


def test_the_threshold_is_that_of_brute_force() -> None:
    rng, tied, never = np.random.default_rng(0), 0, 0
    words = np.array(["cat", "dog", "the", "sat", "off"])
    for _ in range(100):
        size = int(rng.integers(1, 31))
        answers, golds = (
            [" ".join(rng.choice(words, rng.integers(1, 7))) for _ in range(size)] for _ in range(2)
        )
        golds = [[""] if rng.random() < 0.3 else [gold] for gold in golds]
        differences = np.round(rng.normal(size=size), int(rng.integers(3)))  # some are equal
        refused = [exact_f1("", texts) for texts in golds]
        answered = [exact_f1(*pair) for pair in zip(answers, golds, strict=True)]
        totals = {}
        for threshold in [-np.inf, *differences, *(differences - 0.003), 9]:
            chosen = np.where(differences > threshold, refused, answered)
            totals[float(threshold)] = sum(chosen.tolist())
        best = max(totals.values())
        lowest = min(threshold for threshold, total in totals.items() if total == best)
        threshold, f1 = best_no_answer_threshold(answers, differences, golds)
        assert threshold == lowest
        assert f1 == pytest.approx(100 * float(best) / size)
        predictions = np.where(differences > threshold, "", answers).tolist()
        assert f1 == pytest.approx(answer_scores(predictions, golds)["f1"])
        tied += any(totals[float(each)] == best and each > lowest for each in differences)
        never += threshold == -np.inf
    assert tied > 5 and 5 < never < 50


def test_equal_differences_are_answered_together() -> None:
    # Between the two of 1.0 the F1 would be 100.
    threshold, f1 = best_no_answer_threshold(["cat", "dog"], np.array([1.0, 1.0]), [["cat"], [""]])
    assert (threshold, f1) == (-np.inf, 50)
    assert type(threshold) is type(f1) is float


def test_rounding_breaks_no_tie() -> None:
    # Three questions without an answer, then five whose F1 are 3 together.
    answers = ["x", "x", "x", "b", "b c", "b x", "b", "b c"]
    golds = [[""], [""], [""], ["b c d e f"], ["b c d"], ["b c d"], ["b c"], ["b c d"]]
    gained = [answer_f1(*pair) for pair in zip(answers[3:], golds[3:], strict=True)]
    assert gained == pytest.approx([1 / 3, 4 / 5, 2 / 5, 2 / 3, 4 / 5])
    assert np.cumsum([-1, -1, -1, *gained])[-1] > 0  # in floats
    assert best_no_answer_threshold(answers, np.arange(8.0), golds) == (-np.inf, 37.5)


def test_an_infinite_difference_is_never_answered() -> None:
    differences = np.array([-2, np.inf, np.inf])
    golds = [["cat"], ["cat"], ["cat"]]
    assert best_no_answer_threshold(["cat", "", ""], differences, golds) == (
        -2,
        pytest.approx(100 / 3),
    )


def test_wrong_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="lengths differ: 1, 2"):
        answer_scores(["a"], [["a"], ["b"]])
    with pytest.raises(ValueError, match="nothing to score"):
        answer_scores([], [])
    with pytest.raises(ValueError, match="lengths differ: 2, 1, 2"):
        best_no_answer_threshold(["a", "b"], np.array([0.0]), [["a"], ["b"]])
    with pytest.raises(ValueError, match="nothing to score"):
        best_no_answer_threshold([], np.array([]), [])
    for difference in (np.nan, -np.inf):
        with pytest.raises(ValueError, match="NaN or -inf"):
            best_no_answer_threshold(["a", "b"], np.array([0.0, difference]), [["a"], ["b"]])
