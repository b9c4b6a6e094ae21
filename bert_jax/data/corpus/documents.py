"""Documents, and the fixed pieces in which a source of them is read.

What a piece holds is decided by the sources alone. So pieces can be read by any number of workers,
in any order, and again after an interruption: the documents are the same.
"""

import abc
import dataclasses
import enum
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence

from bert_jax.errors import UserError

# A line, and a document, must stay below: a document is held in memory.
MAX_DOCUMENT_BYTES = 64 * 2**20

PIECE_BYTES = 1 << 24  # of input, about: what one worker holds in memory is a small multiple

FILE_END = 1 << 62  # as the end of a span: that of the file, whatever its size


class Layout(enum.Enum):
    """What one line of text is."""

    LINES = "lines"  # one sentence
    PARAGRAPHS = "paragraphs"  # several sentences, which are split
    DOCUMENTS = "documents"  # in a text file, a document; in a record, a line break is white space


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """A text whose lines follow one another."""

    name: str  # its place, for messages: "dir/a.txt byte 120", "a.parquet row 17", "numpy.linalg"
    lines: list[str]  # none blank, white space folded to single spaces; [] of a record without text


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """A part of one file, from `begin` to before `end`."""

    path: str
    begin: int  # a byte of a text file, a row group of a Parquet file, a record of a TFDS file
    end: int


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """What is read at a time."""

    spans: tuple[Span, ...]
    size: int  # bytes of input, for progress
    identity: str  # digest of the spans, and of the size and the time of change of their files


class Source(abc.ABC):
    """Documents, in pieces. It has no state and can be pickled.

    Attributes:
      layout: what a line of its documents is.
      pieces: all of them, in order.
    """

    layout: Layout
    pieces: Sequence[Piece]

    def read(self, piece: Piece) -> Iterator[Document]:
        """Yields the documents of one of the pieces, always the same ones in the same order.

        It holds one document in memory, or a batch of short ones.

        Raises:
          UserError: late, for what only reading shows: a file that is damaged, that is not what
            the source says, or that changes.
        """
        yield from self._documents(piece)
        if _identity(piece.spans) != piece.identity:
            names = " to ".join(sorted({piece.spans[0].path, piece.spans[-1].path}))
            raise UserError(f"{names} changed while being read: start again")

    @abc.abstractmethod
    def _documents(self, piece: Piece) -> Iterator[Document]:
        """Yields what `read` yields."""


class FileSource(Source):
    """Documents of files that each hold some text."""

    def _documents(self, piece: Piece) -> Iterator[Document]:
        for span in piece.spans:
            has_text = span.begin > 0
            for document in self._read(span):
                has_text = has_text or bool(document.lines)
                yield document
            # Whoever reads the begin of a file finds out whether there is text further on.
            rest = Span(span.path, span.end, FILE_END)
            if not has_text and not any(document.lines for document in self._read(rest)):
                raise UserError(f"{span.path} holds no text: leave it out of the source")

    @abc.abstractmethod
    def _read(self, span: Span) -> Iterator[Document]:
        """Yields the documents that begin in a span, which may begin where the file ends."""


def cut(span: Span, size: int) -> Iterator[tuple[Span, int]]:
    """Cuts a span of `size` bytes into equal parts of at most `PIECE_BYTES`, given with theirs."""
    count = max(1, min(-(-size // PIECE_BYTES), span.end - span.begin))
    bounds = [span.begin + (span.end - span.begin) * part // count for part in range(count + 1)]
    for part, (begin, end) in enumerate(itertools.pairwise(bounds)):
        yield Span(span.path, begin, end), size * (part + 1) // count - size * part // count


def make_pieces(parts: Iterable[tuple[Span, int]]) -> tuple[Piece, ...]:
    """Groups neighbours into pieces of at most `PIECE_BYTES`, where a part alone is not larger.

    Args:
      parts: spans in order, and the bytes of input that each stands for.

    Raises:
      UserError: for a file that cannot be found.
    """
    pieces: list[Piece] = []
    spans: list[Span] = []
    size = 0
    for span, span_bytes in parts:
        if spans and size + span_bytes > PIECE_BYTES:
            pieces.append(make_piece(spans, size))
            spans, size = [], 0
        if spans and (spans[-1].path, spans[-1].end) == (span.path, span.begin):
            spans[-1] = Span(span.path, spans[-1].begin, span.end)
        else:
            spans.append(span)
        size += span_bytes
    return (*pieces, make_piece(spans, size)) if spans else ()


def make_piece(spans: Sequence[Span], size: int) -> Piece:
    """Makes a piece; raises UserError for a file that cannot be found."""
    return Piece(tuple(spans), size, _identity(spans))


def _identity(spans: Sequence[Span]) -> str:
    facts = []
    for span in spans:
        try:
            status = os.stat(span.path)
        except OSError as error:
            raise unreadable(span.path, error) from error
        facts.append([span.path, span.begin, span.end, status.st_size, status.st_mtime_ns])
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()


def unreadable(path: str, error: OSError) -> UserError:
    """Makes the refusal of a file that the system does not give."""
    return UserError(f"cannot read {path}: {error.strerror}")


def too_long(place: object) -> UserError:
    """Makes the refusal of a document that would fill the memory."""
    return UserError(
        f"{place} begins a document of more than {MAX_DOCUMENT_BYTES >> 20} MiB:"
        " divide the text into documents"
    )


def refuse_nul(text: str, place: object) -> None:
    """Refuses a NUL character; `place` is written only then."""
    if "\0" in text:
        raise UserError(f"{place} holds a NUL character: this is not plain text, remove it")


def fold(text: str) -> str:
    """Makes white space of any kind one space, and none at the ends."""
    text = text.strip()
    # Most text is so already, which takes a tenth of the time to see. All white space but " " is
    # not printable.
    if text.isprintable() and "  " not in text:
        return text
    return " ".join(text.split())


def folded_lines(text: str) -> list[str]:
    r"""Returns the lines of a record that are not blank; "\n" ends a line."""
    return [line for part in text.split("\n") if (line := fold(part))]
