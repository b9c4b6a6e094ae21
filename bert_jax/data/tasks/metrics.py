"""Scores of tasks, by the libraries with which the field reports them.

NumPy and Python values go in, plain floats come out. Scores of answers follow the evaluation script
of SQuAD 2.0, which is in no maintained library.

The libraries are imported where they are used: they take half a second and 0.1 GB.
"""

import collections
import itertools
import re
import string
import warnings
from collections.abc import Callable, Sequence, Sized
from typing import Any

import numpy as np

from bert_jax.data.tasks.tag_schemes import Tagging, entities, for_seqeval

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_TIE = 1e-9  # sums of F1 with a smaller difference differ by rounding alone


def classification_scores(
    gold: np.ndarray, predicted: np.ndarray, classes: int, positive: int
) -> dict[str, float]:
    """Scores classes as GLUE does (Wang et al., 2019, section 3), by scikit-learn.

    Args:
      gold: [E] int in [0, C).
      predicted: [E] int in [0, C).
      classes: C.
      positive: in [0, C), the class of `f1` if C is 2; 1 for MRPC and QQP.

    Returns:
      `accuracy` in [0, 1]; `matthews` in [-1, 1]; `macro_f1` in [0, 1], the mean over the classes
      that one side has, as is scikit-learn's default; if C is 2 also `f1` in [0, 1]. What
      `undefined_of_classes` names is 0.

    Raises:
      ValueError: if the arrays are not two of [E] with E > 0, or a class is outside [0, C).
    """
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    _check_vectors(gold, predicted)
    numbers = np.concatenate([gold, predicted, [positive]])
    if numbers.min() < 0 or numbers.max() >= classes:
        raise ValueError(
            f"classes from {numbers.min()} to {numbers.max()} are not in [0, {classes})"
        )
    # matthews_corrcoef warns where both sides have the same one class.
    constant = _is_constant(gold) or _is_constant(predicted)
    f1 = np.asarray(
        f1_score(  # of each class
            gold,
            predicted,
            labels=range(classes),
            average=None,  # pyright: ignore[reportArgumentType]
            zero_division=0,  # pyright: ignore[reportArgumentType]
        )
    )
    scores = {
        "accuracy": float(accuracy_score(gold, predicted)),
        "matthews": 0.0 if constant else float(matthews_corrcoef(gold, predicted)),
        "macro_f1": float(f1[np.union1d(gold, predicted)].mean()),
    }
    return scores | ({"f1": float(f1[positive])} if classes == 2 else {})


def undefined_of_classes(
    gold: np.ndarray, predicted: np.ndarray, classes: int, positive: int
) -> dict[str, str]:
    """Returns why scores of `classification_scores` are undefined, by name; its arguments."""
    reasons = {}
    if _is_constant(gold) or _is_constant(predicted):
        reasons["matthews"] = _one_value(gold, "class")
    if classes == 2 and positive not in gold and positive not in predicted:
        reasons["f1"] = "its class is neither a gold label nor predicted"
    return reasons


def _one_value(gold: np.ndarray, kind: str) -> str:
    side = "all gold labels" if _is_constant(gold) else "all predictions"
    return f"{side} are the same {kind}"


def regression_scores(gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Scores numbers as GLUE does for STS-B, by SciPy.

    Args:
      gold: [E] float.
      predicted: [E] float.

    Returns:
      `pearson` and `spearman` in [-1, 1], 0 where they are undefined, as `undefined_of_numbers`
      says; `mean_squared_error`, in squared units of the gold values.

    Raises:
      ValueError: if the arrays are not two of [E] with E > 0, or a value is not finite.
    """
    from scipy import stats
    from sklearn.metrics import mean_squared_error

    _check_vectors(gold, predicted)
    gold, predicted = np.asarray(gold, np.float64), np.asarray(predicted, np.float64)
    error = float(mean_squared_error(gold, predicted))  # raises where a value is not finite
    return {
        "pearson": _correlation(stats.pearsonr, gold, predicted),
        "spearman": _correlation(stats.spearmanr, gold, predicted),
        "mean_squared_error": error,
    }


def undefined_of_numbers(gold: np.ndarray, predicted: np.ndarray) -> dict[str, str]:
    """Returns why scores of `regression_scores` are undefined, by name; its arguments."""
    if not (_is_constant(gold) or _is_constant(predicted)):
        return {}
    return dict.fromkeys(("pearson", "spearman"), _one_value(gold, "number"))


def _correlation(measure: Callable[..., Any], gold: np.ndarray, predicted: np.ndarray) -> float:
    from scipy import stats

    if _is_constant(gold) or _is_constant(predicted):
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)  # values that hardly differ
        return float(measure(gold, predicted).statistic)


def _is_constant(values: np.ndarray) -> bool:
    return bool(np.all(values == values[0]))


def entity_scores(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], tagging: Tagging
) -> dict[str, float]:
    """Scores entities as conlleval does (CoNLL-2000 and CoNLL-2003), by seqeval's default mode.

    A predicted entity is correct if its type, begin and end are. Schemes that seqeval does not read
    are converted to IOBES, letter by letter.

    Args:
      gold: the tags of each sentence.
      predicted: the same.
      tagging: of both sides.

    Returns:
      `precision`, `recall` and `f1` in [0, 1], of all entities together; `accuracy` in [0, 1], of
      all tags. What `undefined_of_entities` names is 0.

    Raises:
      ValueError: if the sentences or their lengths disagree, there are no tags, or a tag breaks the
        scheme.
    """
    from seqeval.metrics import sequence_labeling

    accuracy = tag_accuracy(gold, predicted)
    precision, recall, f1, _ = sequence_labeling.precision_recall_fscore_support(
        [for_seqeval(sequence, tagging) for sequence in gold],
        [for_seqeval(sequence, tagging) for sequence in predicted],
        average="micro",
        zero_division=0,  # pyright: ignore[reportArgumentType]
    )
    scores = {"precision": precision, "recall": recall, "f1": f1, "accuracy": accuracy}
    return {name: float(score) for name, score in scores.items()}


def undefined_of_entities(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], tagging: Tagging
) -> dict[str, str]:
    """Returns why scores of `entity_scores` are undefined, by name; its arguments."""
    has_gold, has_predicted = (
        any(entities(tags, tagging) for tags in side) for side in (gold, predicted)
    )
    reasons = {} if has_predicted else {"precision": "no entity is predicted"}
    if not has_gold:
        reasons["recall"] = "there is no gold entity"
    if not has_gold and not has_predicted:
        reasons["f1"] = "there is no entity, gold or predicted"
    return reasons


def tag_accuracy(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """Returns the share of equal tags, in [0, 1], by seqeval.

    Raises:
      ValueError: if the sentences or their lengths disagree, or there are no tags.
    """
    from seqeval.metrics import sequence_labeling

    _check_lengths(gold, predicted)
    for number, (right, guess) in enumerate(zip(gold, predicted, strict=True)):
        if len(right) != len(guess):
            raise ValueError(
                f"sentence {number} has {len(right)} gold tags and {len(guess)} predicted"
            )
    flat_gold, flat_predicted = (list(itertools.chain(*side)) for side in (gold, predicted))
    _check_lengths(flat_gold, flat_predicted)
    return float(sequence_labeling.accuracy_score(flat_gold, flat_predicted))


def normalize_answer(text: str) -> str:
    """Normalises an answer as SQuAD does before comparing (Rajpurkar et al., 2016, section 6.1).

    In this order: lower-cases; removes ASCII punctuation ("a.n." becomes the article "an"); removes
    a, an, the; folds white space. Other punctuation is a word boundary: "–a" loses its "a".
    """
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """Returns the exact match of a prediction, as in SQuAD 2.0 (Rajpurkar et al., 2018).

    Args:
      prediction: the answer; "" for no answer.
      golds: the gold answers; [""] or [] for an unanswerable question. Those that normalise to ""
        are ignored; if no other is left, the question counts as unanswerable.

    Returns:
      1 if the normalised prediction equals a normalised gold answer, else 0.
    """
    return float(any(normalize_answer(prediction) == gold for gold in _normalized(golds)))


def answer_f1(prediction: str, golds: Sequence[str]) -> float:
    """Returns the word F1 of a prediction, as in SQuAD 2.0.

    Args:
      prediction: the answer; "" for no answer.
      golds: as for `exact_match`.

    Returns:
      The F1 of the bags of normalised words, in [0, 1]; of several gold answers, the best. If one
      side has no words it is 0, if neither has it is 1.
    """
    words = normalize_answer(prediction).split()
    return max(_bag_f1(words, gold.split()) for gold in _normalized(golds))


def _normalized(golds: Sequence[str]) -> list[str]:
    return [text for text in map(normalize_answer, golds) if text] or [""]


def _bag_f1(words: list[str], others: list[str]) -> float:
    if not words or not others:
        return float(words == others)
    shared = collections.Counter(words) & collections.Counter(others)
    return 2 * shared.total() / (len(words) + len(others))


def answer_scores(predictions: Sequence[str], golds: Sequence[Sequence[str]]) -> dict[str, float]:
    """Scores the answers to all questions, as in SQuAD 2.0.

    The script of SQuAD 1.1 differs only for gold answers that normalise to "".

    Args:
      predictions: E texts; "" for no answer.
      golds: E lists, as for `exact_match`. A question is answerable if one of its texts is not "".

    Returns:
      `exact_match` and `f1`, means in percent. If some questions are unanswerable, also
      `no_answer_exact_match`, the mean over those (their F1 is the same), and, if others are
      answerable, `has_answer_exact_match` and `has_answer_f1`, the means over those.

    Raises:
      ValueError: if the lengths differ or are 0.
    """
    _check_lengths(predictions, golds)
    pairs = list(zip(predictions, golds, strict=True))
    exact = np.array([exact_match(*pair) for pair in pairs])
    f1 = np.array([answer_f1(*pair) for pair in pairs])
    answerable = np.array([any(texts) for texts in golds])
    means = {"exact_match": exact.mean(), "f1": f1.mean()}
    if not answerable.all():
        if answerable.any():
            means["has_answer_exact_match"] = exact[answerable].mean()
            means["has_answer_f1"] = f1[answerable].mean()
        means["no_answer_exact_match"] = exact[~answerable].mean()
    return {name: 100 * float(mean) for name, mean in means.items()}


def best_no_answer_threshold(
    answers: Sequence[str], differences: np.ndarray, golds: Sequence[Sequence[str]]
) -> tuple[float, float]:
    """Finds the best threshold above which to predict no answer (Devlin et al., 2019, section 4.3).

    The F1 is that of `answer_scores`. The search in SQuAD's own script counts an answer without
    words, such as "the", as wrong, but scores it as no answer: so its best F1 can be lower.

    Args:
      answers: E texts, the best answer to each question that is not "no answer".
      differences: [E] float, score of no answer minus score of the answer; may be +inf.
      golds: E lists, as for `exact_match`.

    Returns:
      The threshold t, and the F1 in percent if "" is predicted wherever the difference is > t. It
      is the best F1, and t is the lowest threshold with it, or -inf if it is best never to answer;
      else t is halfway to the next difference, so that rounding in another batch changes nothing.

    Raises:
      ValueError: if the lengths differ or are 0, or a difference is NaN or -inf.
    """
    _check_lengths(answers, differences, golds)
    differences = np.asarray(differences, np.float64)
    if not (differences > -np.inf).all():  # False for NaN too
        raise ValueError("a difference is NaN or -inf")
    refused = np.array([answer_f1("", texts) for texts in golds])
    answered = np.array([answer_f1(*pair) for pair in zip(answers, golds, strict=True)])
    # Raising the threshold to a difference answers the questions with that difference.
    thresholds, which = np.unique(differences, return_inverse=True)
    gains = np.bincount(which, answered - refused)
    thresholds = np.append(-np.inf, thresholds)
    totals = refused.sum() + np.append(0, np.cumsum(gains))
    best = np.argmax(totals > totals.max() - _TIE)  # the first of the best
    above = thresholds[best + 1] if best + 1 < len(thresholds) else np.inf
    at = (thresholds[best] + above) / 2 if np.isfinite(above) else thresholds[best] + 1
    return float(at if best else -np.inf), 100 * float(totals[best]) / len(golds)


def _check_vectors(gold: np.ndarray, predicted: np.ndarray) -> None:
    _check_lengths(gold, predicted)
    if np.ndim(gold) != 1 or np.ndim(predicted) != 1:
        raise ValueError(f"the shapes {np.shape(gold)}, {np.shape(predicted)} are not [E]")


def _check_lengths(*sides: Sized) -> None:
    lengths = [len(side) for side in sides]
    if len(set(lengths)) > 1:
        raise ValueError(f"the lengths differ: {', '.join(map(str, lengths))}")
    if not lengths[0]:
        raise ValueError("there is nothing to score")
