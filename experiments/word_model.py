"""Tasks by words alone: what a model without layers scores.

Texts are bags of words and pairs of words, weighted by tf-idf. A word to be tagged is described by
its letters and those of its neighbours. Both go into a logistic regression. The similarity of two
texts is the cosine of their bags of words, and right texts are found by BM25.
"""

from collections.abc import Sequence

import numpy as np
from scipy import sparse
from sklearn.feature_extraction import FeatureHasher
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from bert_jax.data.tasks.classes import ClassSplit
from bert_jax.data.tasks.splits import Outputs, Split
from bert_jax.data.tasks.tables import shown
from bert_jax.data.tasks.tags import TagSplit
from bert_jax.data.tasks.vectors import RightTexts, ScoredPairs, VectorSplit
from bert_jax.errors import UserError
from bert_jax.retrieval import bm25
from experiments.study import LINEAR_TASKS

Sparse = sparse.csr_matrix | sparse.csr_array

_INVERSE_DECAY = 10.0  # C of the regression: weak, as the features are many and small
_STEPS = 500  # of its solver, at most
_HASHED = 1 << 18  # features of words to be tagged
_NEIGHBOURS = (-1, 0, 1)
_WORDS = r"\w+|\S"  # and single marks
_NEVER = float(np.finfo(np.float32).min)  # log-probability of a class without examples


def linear_outputs(train: Split, drawn: np.ndarray, split: Split) -> Outputs:
    """Fits the model to some examples, and returns its outputs for another split.

    Args:
      train: of texts with classes, of sentences with tags, or of texts that belong together.
      drawn: [n] int64, the examples of it to learn from.
      split: of the same task.

    Returns:
      Log-probabilities or vectors, as `Split.scores` takes them.

    Raises:
      UserError: if the task is another one, all examples are of one class, a text is both a query
        and a right text, or BM25 is not installed.
    """
    if isinstance(train, ClassSplit) and isinstance(split, ClassSplit):
        return _classified(train, drawn, split)
    if isinstance(train, TagSplit) and isinstance(split, TagSplit):
        return _tagged(train, drawn, split)
    if isinstance(train, VectorSplit) and isinstance(split, ScoredPairs):
        return _weighted(train, drawn, split)
    if isinstance(split, RightTexts):
        return _searched(split)
    known = " and ".join(f"task={each.value}" for each in LINEAR_TASKS)
    raise UserError(f"a model on words knows {known}: choose one of them")


def _classified(train: ClassSplit, drawn: np.ndarray, split: ClassSplit) -> Outputs:
    columns = []
    for side in ("text", "text_pair"):
        texts = [each.get(side, "") for each in train.texts]
        if any(texts):
            bag = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=_WORDS)
            fitted = bag.fit_transform([texts[number] for number in drawn])
            columns.append((fitted, bag.transform([each.get(side, "") for each in split.texts])))
    ours, theirs = (sparse.hstack(each).tocsr() for each in zip(*columns, strict=True))
    return list(_fitted(ours, train.gold[drawn], theirs, len(split.constant_outputs()[0])))


def _tagged(train: TagSplit, drawn: np.ndarray, split: TagSplit) -> Outputs:
    sentences = [train.sentences[number] for number in drawn]
    numbers = {label: number for number, label in enumerate(train.labels)}
    tags = np.array([numbers[tag] for each in sentences for tag in each.tags])
    hasher = FeatureHasher(_HASHED, input_type="string", alternate_sign=False)
    ours, theirs = (
        hasher.transform(features for each in some for features in _described(each.words))
        for some in (sentences, split.sentences)
    )
    words = _fitted(ours, tags, theirs, len(train.labels))
    outputs = [np.zeros((size, len(train.labels)), np.float32) for size in split.inputs.sizes]
    for of_word, number, token in zip(
        words, split.words.input_of, split.words.token_of, strict=True
    ):
        outputs[number][token] = of_word
    return outputs


def _weighted(train: VectorSplit, drawn: np.ndarray, split: ScoredPairs) -> Outputs:
    """Returns the tf-idf weights of each text's words."""
    texts = _inputs_of(split)
    bag = TfidfVectorizer(sublinear_tf=True, token_pattern=_WORDS)
    bag.fit(text for number in drawn for text in train.texts[number])
    return list(sparse.csr_matrix(bag.transform(texts)).toarray().astype(np.float32))


def _searched(split: RightTexts) -> Outputs:
    """Returns vectors whose product is the BM25 score of a right text for a query.

    Nothing is learned: a query is a column of the scores of all right texts.
    """
    bm25.check_installed()
    texts = _inputs_of(split)
    queries, rights = (np.unique(split.texts_of[:, column]) for column in (0, 1))
    if both := np.intersect1d(queries, rights).tolist():
        raise UserError(
            f"{shown(texts[both[0]])} is both a query and a right text, which BM25 does not"
            " compare: leave out one of them"
        )
    search = bm25.WordSearch([texts[number] for number in rights])
    vectors = np.zeros((len(texts), len(queries)), np.float32)
    for place, query in enumerate(queries):
        vectors[query, place] = 1
        vectors[rights, place] = search.scores(texts[query])
    return list(vectors)


def _inputs_of(split: VectorSplit) -> list[str]:
    """Returns the text of each input of a held-out split, without its prompt."""
    texts = [""] * len(split.inputs)
    for numbers, example in zip(split.texts_of.tolist(), split.texts, strict=True):
        for number, text in zip(numbers, example, strict=True):
            texts[number] = text
    return texts


def _described(words: Sequence[str]) -> list[list[str]]:
    """Returns the features of each word of a sentence."""
    own = [_letters(word) for word in words]
    return [
        [
            f"{by}:{feature}"
            for by in _NEIGHBOURS
            for feature in (own[at + by] if 0 <= at + by < len(own) else ["none"])
        ]
        for at in range(len(own))
    ]


def _letters(word: str) -> list[str]:
    shape = "".join(
        "A" if c.isupper() else "a" if c.islower() else "0" if c.isdigit() else c for c in word
    )
    ends = [f"starts {word[:n].lower()}" for n in (1, 2, 3)]
    ends += [f"ends {word[-n:].lower()}" for n in (1, 2, 3)]
    return [f"is {word.lower()}", f"shape {shape[:8]}", *ends]


def _fitted(features: Sparse, classes: np.ndarray, others: Sparse, count: int) -> np.ndarray:
    """Returns log-probabilities of other items, [n, count] float32."""
    found = np.unique(classes)
    if len(found) < 2:
        raise UserError("all drawn examples are of one class: draw more by data.examples")
    model = LogisticRegression(C=_INVERSE_DECAY, max_iter=_STEPS).fit(features, classes)
    known = model.predict_log_proba(others)
    logits = np.full((len(known), count), _NEVER, np.float32)
    logits[:, found] = known
    return logits
