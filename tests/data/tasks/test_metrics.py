import warnings
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn

from bert_jax.data.tasks.metrics import (
    answer_f1,
    answer_scores,
    best_no_answer_threshold,
    classification_scores,
    exact_match,
    normalize_answer,
    regression_scores,
    undefined_of_classes,
    undefined_of_numbers,
)


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
    assert scores == pytest.approx({"accuracy": 1 / 2, "matthews": 2 / 11, "macro_f1": 7 / 18})


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_classes_are_scored_as_scikit_learn_does(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sides = rng.integers(0, classes, (2, rng.integers(1, 9)))
    if seed % 3 == 0:
        sides = np.minimum(sides, 1)  # higher classes are absent
    if seed % 4 == 0:
        sides[seed % 2] = sides[seed % 2, 0]  # one side has one class
    gold, predicted = sides
    names = np.array([chr(0x3B1 + number) for number in range(classes)])  # it may have text, too
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is undefined
        expected = {
            "accuracy": sklearn.accuracy_score(names[gold], names[predicted]),
            "macro_f1": sklearn.f1_score(names[gold], names[predicted], average="macro"),
            "matthews": sklearn.matthews_corrcoef(names[gold], names[predicted]),
        }
        if classes == 2:
            expected["f1"] = sklearn.f1_score(gold, predicted)
    assert classification_scores(gold, predicted, classes, 1) == pytest.approx(expected)


def test_undefined_scores_of_classes_are_named() -> None:
    gold, predicted = np.array([0, 0, 1]), np.array([0, 0, 0])
    assert undefined_of_classes(gold, gold, 2, 1) == {}
    assert undefined_of_classes(gold, predicted, 2, 1) == {
        "matthews": "all predictions are the same class"
    }
    assert undefined_of_classes(predicted, predicted, 2, 1) == {
        "matthews": "all gold labels are the same class",
        "f1": "its class is neither a gold label nor predicted",
    }
    assert "f1" not in undefined_of_classes(predicted, predicted, 3, 1)


@pytest.mark.parametrize(("positive", "f1"), [(0, 0), (1, 1)])
def test_one_class_alone_warns_of_nothing(positive: int, f1: float) -> None:
    ones = np.ones(3, np.int32)
    scores = classification_scores(ones, ones, classes=2, positive=positive)
    assert scores == {"accuracy": 1, "matthews": 0, "macro_f1": 1, "f1": f1}


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


@pytest.mark.parametrize("seed", range(8))
def test_numbers_are_scored_as_scipy_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gold, predicted = rng.integers(-3, 4, (2, 5 + seed)).astype(float) * 10.0 ** (4 * seed - 12)
    assert regression_scores(gold, predicted) == pytest.approx(
        {
            "pearson": stats.pearsonr(gold, predicted).statistic,
            "spearman": stats.spearmanr(gold, predicted).statistic,
            "mean_squared_error": sklearn.mean_squared_error(gold, predicted),
        }
    )
    assert undefined_of_numbers(gold, predicted) == {}


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
    undefined = undefined_of_numbers(np.array(gold), np.array(predicted))
    side = "predictions" if len(set(gold)) > 1 else "gold labels"
    assert undefined == dict.fromkeys(("pearson", "spearman"), f"all {side} are the same number")


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
        if lowest == -np.inf:
            assert threshold == lowest
        else:  # halfway to the next difference
            above = min(differences[differences > lowest], default=lowest + 2)
            assert threshold == pytest.approx((lowest + above) / 2)
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
        -1,
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
