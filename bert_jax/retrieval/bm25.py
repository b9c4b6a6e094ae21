"""BM25, the baseline that knows words and no model, by the library bm25s.

Lucene's form with its constants, k1 = 1.2 and b = 0.75. A text is cut into runs of letters, digits
and underscores, lower-cased; nothing is stemmed and no word is left out, so that it is the same for
all languages that part words by spaces.
"""

import importlib.util
import logging
import re
from collections.abc import Sequence

import numpy as np

from bert_jax.errors import UserError
from bert_jax.retrieval.ranking import best_first

BM25_NAME = "BM25"

_WORD = re.compile(r"\w+")
_K1, _B = 1.2, 0.75


def words(text: str) -> list[str]:
    """Returns the words of a text, lower-cased."""
    return _WORD.findall(text.lower())


def check_installed() -> None:
    """Raises UserError if the library is missing."""
    if importlib.util.find_spec("bm25s") is None:
        raise UserError("BM25 needs the library bm25s: pip install 'bert_jax[vectors]'")


class WordSearch:
    """The texts to search, by their words."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Counts the words of texts, in the order of `Documents`."""
        import bm25s  # pyright: ignore[reportMissingImports]

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells that it builds an index
        self._size = len(texts)
        self._index = bm25s.BM25(k1=_K1, b=_B, method="lucene")
        self._index.index([words(text) for text in texts], show_progress=False)

    def scores(self, query: str) -> np.ndarray:
        """Returns the score of each text, [texts] float32; 0 if it has no word of the query."""
        known = [word for word in words(query) if word in self._index.vocab_dict]
        if not known:
            return np.zeros(self._size, np.float32)
        return np.asarray(self._index.get_scores(known), np.float32)

    def best(self, query: str, count: int) -> list[tuple[int, float]]:
        """Returns (number of a text, score) of at most `count` texts that share a word with it."""
        scores = self.scores(query)
        return [(int(n), float(scores[n])) for n in best_first(scores, count) if scores[n] > 0]
