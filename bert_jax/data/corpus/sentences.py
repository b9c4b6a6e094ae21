"""Splits documents into sentences."""

import dataclasses
import re

import sentencex

from bert_jax.data.corpus.documents import Document, Layout
from bert_jax.errors import UserError

_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*")


@dataclasses.dataclass(frozen=True, slots=True)
class SentenceSplitter:
    """Splits documents into sentences, according to the layout of their lines; can be pickled.

    Attributes:
      layout: of the lines.
      language: a code such as "en"; languages that `sentencex` does not know are split as English.

    Raises:
      UserError: if the language is not a language code.
    """

    layout: Layout
    language: str = "en"

    def __post_init__(self) -> None:
        if not _LANGUAGE.fullmatch(self.language):
            raise UserError(
                f"--language={self.language} is not a language code: write one such as en"
            )

    def split(self, document: Document) -> list[str]:
        """Returns the sentences of a document: stripped, not empty, without line breaks."""
        if self.layout is Layout.LINES:
            return document.lines
        if self.layout is Layout.DOCUMENTS:
            return self.split_text(" ".join(document.lines))
        return [sentence for line in document.lines for sentence in self.split_text(line)]

    def split_text(self, text: str) -> list[str]:
        """Returns the sentences of a text whose white space is folded, whatever the layout."""
        # `sentencex` is compiled and has no types. It panics on white space other than " " before a
        # full stop; folded text has none.
        parts = sentencex.segment(self.language, text)  # pyright: ignore[reportAttributeAccessIssue]
        return [sentence for part in parts if (sentence := part.strip())]
