"""Documents, and the interface of their sources: a source is cut into pieces to read.

The pieces depend on the input files alone. So any number of workers can read them, in any order,
and again after an interruption: the documents are the same.
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

# The specifications that `sources.open_source` takes.
SOURCE_KINDS = (
    "text:GLOB, jsonl:GLOB#FIELD, parquet:GLOB#FIELD,"
    " tfds:NAME[/CONFIG][:VERSION]:SPLIT#FIELD or python_docs"
)

# A line, and a document, must be smaller: a document is read into memory whole.
MAX_DOCUMENT_BYTES = 64 * 2**20

PIECE_BYTES = 1 << 24  # of input, about; a worker needs a small multiple of it as memory

FILE_END = 1 << 62  # end of a span that reaches to the end of its file


class Layout(enum.Enum):
    """Layout of a text file: the meaning of a line."""

    LINES = "lines"  # one sentence
    PARAGRAPHS = "paragraphs"  # several sentences, which are split
    DOCUMENTS = "documents"  # a document; in the text of a record, line breaks are white space


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """A text of consecutive lines."""

    name: str  # location for messages: "dir/a.txt byte 120", "a.parquet row 17", "numpy.linalg"
    lines: list[str]  # not blank, white space folded to single spaces; [] for an empty record


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """A part of one file, from `begin` to before `end`."""

    path: str
    begin: int  # a byte of a text file, a row group of a Parquet file, a record of a TFDS file
    end: int


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A part of a source that one worker reads at a time."""

    spans: tuple[Span, ...]
    size: int  # bytes of input, for progress
    identity: str  # digest of the spans and of the size and modification time of their files


class Source(abc.ABC):
    """A source of documents, in pieces. It has no state and can be pickled.

    Attributes:
      layout: of the lines of its documents.
      layout_is_given: False for a source that makes the lines itself, one sentence each.
      pieces: all pieces, in order.
    """

    layout: Layout
    layout_is_given: bool = True
    pieces: Sequence[Piece]

    def read(self, piece: Piece) -> Iterator[Document]:
        """Yields the documents of a piece: at each call the same ones in the same order.

        Memory has one document, or a batch of short ones.

        Raises:
          UserError: while reading, if a file is damaged, is not of the kind that the source says,
            or changes.
        """
        yield from self._documents(piece)
        if _identity(piece.spans) != piece.identity:
            names = " to ".join(sorted({piece.spans[0].path, piece.spans[-1].path}))
            raise UserError(f"{names} changed while being read: run the command again")

    @abc.abstractmethod
    def _documents(self, piece: Piece) -> Iterator[Document]:
        """Yields the documents of a piece; `read` calls it and checks that no file changed."""


class FileSource(Source):
    """A source of files, each of which must have some text."""

    def _documents(self, piece: Piece) -> Iterator[Document]:
        for span in piece.spans:
            has_text = span.begin > 0
            for document in self._read(span):
                has_text = has_text or bool(document.lines)
                yield document
            # If the begin of a file has no text, read on: an error if there is none at all.
            rest = Span(span.path, span.end, FILE_END)
            if not has_text and not any(document.lines for document in self._read(rest)):
                raise UserError(f"{span.path} has no text: leave it out of the source")

    @abc.abstractmethod
    def _read(self, span: Span) -> Iterator[Document]:
        """Yields the documents that begin in a span; the span may begin at the end of the file."""


def cut(span: Span, size: int) -> Iterator[tuple[Span, int]]:
    """Cuts a span of `size` bytes into equal parts of at most `PIECE_BYTES`: (part, its bytes)."""
    count = max(1, min(-(-size // PIECE_BYTES), span.end - span.begin))
    bounds = [span.begin + (span.end - span.begin) * part // count for part in range(count + 1)]
    for part, (begin, end) in enumerate(itertools.pairwise(bounds)):
        yield Span(span.path, begin, end), size * (part + 1) // count - size * part // count


def make_pieces(parts: Iterable[tuple[Span, int]]) -> tuple[Piece, ...]:
    """Groups neighbouring parts into pieces of at most `PIECE_BYTES`, or of one larger part.

    Args:
      parts: (span, its size in bytes of input), in order.

    Raises:
      UserError: if a file does not exist.
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
    """Makes a piece; raises UserError if a file does not exist."""
    return Piece(tuple(spans), size, _identity(spans))


def _identity(spans: Sequence[Span]) -> str:
    stats = []
    for span in spans:
        try:
            status = os.stat(span.path)
        except OSError as error:
            raise unreadable(span.path, error) from error
        stats.append([span.path, span.begin, span.end, status.st_size, status.st_mtime_ns])
    return hashlib.blake2b(json.dumps(stats).encode(), digest_size=16).hexdigest()


def unreadable(path: str, error: OSError) -> UserError:
    """Returns the error for a file that cannot be opened or read."""
    return UserError(f"cannot read {path}: {error.strerror}")


def too_long(location: object) -> UserError:
    """Returns the error for a document that is too large for memory."""
    return UserError(
        f"{location}: the document that begins here has more than {MAX_DOCUMENT_BYTES >> 20} MiB:"
        " divide the text into documents"
    )


def refuse_nul(text: str, location: object) -> None:
    """Raises UserError for a text with a NUL character; `location` becomes a string only then."""
    if "\0" in text:
        raise UserError(f"{location} has a NUL character, so it is not plain text: remove it")


def fold(text: str) -> str:
    """Replaces each run of white space by one space, and strips the ends.

    Byte order marks go, wherever they stand: files that were joined have them in their middle.
    """
    text = text.strip()
    # Most text needs no change, and this test takes a tenth of the time. All white space but " " is
    # not printable, nor is the byte order mark.
    if text.isprintable() and "  " not in text:
        return text
    return " ".join(text.replace("\ufeff", "").split())


def folded_lines(text: str) -> list[str]:
    r"""Returns the lines of a record, folded, without blank ones; lines end in "\n"."""
    return [line for part in text.split("\n") if (line := fold(part))]
