"""Documents as sentences."""

import dataclasses
import re

import sentencex

from bert_jax.data.corpus.documents import Document, Layout
from bert_jax.errors import UserError

_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*")


@dataclasses.dataclass(frozen=True, slots=True)
class SentenceSplitter:
    """Splits what the layout of the lines leaves to be split. It can be pickled.

    Attributes:
      layout: what a line is.
      language: a code such as "en"; one that `sentencex` does not know is split as English is.

    Raises:
      UserError: for a language that is no code.
    """

    layout: Layout
    language: str = "en"

    def __post_init__(self) -> None:
        if not _LANGUAGE.fullmatch(self.language):
            raise UserError(
                f"language {self.language!r} is not a language code: write one such as 'en'"
            )

    def split(self, document: Document) -> list[str]:
        """Returns the sentences of a document: stripped, none empty, none with a line break."""
        if self.layout is Layout.LINES:
            return document.lines
        if self.layout is Layout.DOCUMENTS:
            return self._split(" ".join(document.lines))
        return [sentence for line in document.lines for sentence in self._split(line)]

    def _split(self, text: str) -> list[str]:
        # It is compiled and has no types. It panics where white space other than " " stands before
        # a full stop; the lines of a document have none.
        parts = sentencex.segment(self.language, text)  # pyright: ignore[reportAttributeAccessIssue]
        return [sentence for part in parts if (sentence := part.strip())]
