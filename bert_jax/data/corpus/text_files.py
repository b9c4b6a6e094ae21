r"""Documents in text files and in JSON lines, plain or compressed.

Lines end in "\n" or "\r\n" only. A plain file may be read from any byte on; a compressed one is
read whole, and a place in it is a place in its text.
"""

import abc
import contextlib
import dataclasses
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, cast

import numpy as np

from bert_jax.data.corpus import documents
from bert_jax.data.corpus.documents import (
    FILE_END,
    Document,
    FileSource,
    Layout,
    Span,
    fold,
    folded_lines,
    refuse_nul,
)
from bert_jax.errors import UserError

_COMPRESSED = (".gz", ".zst")
_SURROGATE = re.compile("[\ud800-\udfff]")
_BLANK_LINES = re.compile(rb"\n\s*\n")
_PLAIN = bytes(range(ord(" "), 127)) + b"\n"  # with "\n", which parts the lines
_CHUNK_BYTES = 1 << 16  # what is read at a time


class _LineFiles(FileSource):
    """What text and JSON lines have in common: files, lines, and their faults."""

    def __init__(self, sizes: dict[str, int], layout: Layout) -> None:
        """Divides files, given with their sizes in bytes, into pieces."""
        self.layout = layout
        self.pieces = documents.make_pieces(
            part for path, size in sizes.items() for part in _parts(path, size)
        )

    def _read(self, span: Span) -> Iterator[Document]:
        if not span.path.endswith(_COMPRESSED):
            yield from self._read_bytes(span.path, span.begin, span.end)
        elif span.begin == 0:
            yield from self._read_bytes(span.path, 0, FILE_END)

    @abc.abstractmethod
    def _read_bytes(self, path: str, begin: int, end: int) -> Iterator[Document]:
        """Yields the documents of a file whose first byte of text is in [begin, end)."""


def _parts(path: str, size: int) -> Iterable[tuple[Span, int]]:
    span = Span(path, 0, size)
    return [(span, size)] if path.endswith(_COMPRESSED) else documents.cut(span, size)


class TextFiles(_LineFiles):
    """Documents divided by blank lines or the ends of files; or, by the layout, one a line."""

    def _read_bytes(self, path: str, begin: int, end: int) -> Iterator[Document]:
        if self.layout is Layout.DOCUMENTS:
            for first, line in _lines(path, begin, end):
                if text := fold(line):
                    yield Document(_name(path, first), [text])
            return
        for first, run in _runs(path, begin):
            if first >= end:
                return
            for place, lines in _divided(first, run, _decode(run, path, first)):
                if begin <= place < end:
                    yield Document(_name(path, place), lines)


class JsonLines(_LineFiles):
    """Documents that are the string `field` of an object, one a line."""

    def __init__(self, sizes: dict[str, int], field: str, layout: Layout) -> None:
        """Divides files, given with their sizes in bytes, into pieces."""
        super().__init__(sizes, layout)
        self._field = field

    def _read_bytes(self, path: str, begin: int, end: int) -> Iterator[Document]:
        for first, line in _lines(path, begin, end):
            if line.strip():
                text = self._text(line, _Place(path, first))
                yield Document(_name(path, first), folded_lines(text))

    def _text(self, line: str, place: "_Place") -> str:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise UserError(
                f"{place} is not JSON ({reason}): each line must be one JSON object"
            ) from error
        if not isinstance(record, dict):
            raise UserError(
                f"{place} is not a JSON object: write {{{json.dumps(self._field)}: ...}}"
            )
        if self._field not in record:
            names = ", ".join(sorted(record)) or "none"
            raise UserError(f"{place} has no field '{self._field}': its fields are {names}")
        text = record[self._field]
        if not isinstance(text, str):
            raise UserError(
                f"{place}: field '{self._field}' is {_JSON_TYPES[type(text)]}: it must be a string"
            )
        refuse_nul(text, place)
        if surrogate := _SURROGATE.search(text):
            raise UserError(
                f"{place} holds half a character (\\u{ord(surrogate[0]):04x}):"
                " write both halves of the surrogate pair"
            )
        return text


_JSON_TYPES = {
    dict: "an object",
    list: "a list",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def _name(path: str, begin: int) -> str:
    return f"{path} byte {begin}"


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """A byte of a file's text, for messages. Only where one is written are the lines counted."""

    path: str
    byte: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line()}"

    def line(self) -> int:
        """Returns the number, from 1, of the line that the byte is in."""
        number, left = 1, self.byte
        with _opened(self.path) as file:
            while chunk := file.read(min(_CHUNK_BYTES, left)):
                number += chunk.count(b"\n")
                left -= len(chunk)
        return number


@contextlib.contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """Opens a file, decompressed, and tells what goes wrong with it."""
    try:
        with open(path, "rb") as stored, _decompressed(path, stored) as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        # What is wrong with compressed bytes has no number of the system.
        raise (documents.unreadable if error.errno else _damaged)(path, error) from error


def _decompressed(path: str, stored: BinaryIO) -> BinaryIO:
    if path.endswith(".gz"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=stored))
    if path.endswith(".zst"):
        import pyarrow  # here, because it is large and few need it

        return io.BufferedReader(pyarrow.CompressedInputStream(stored, "zstd"))
    return stored


def _damaged(path: str, error: Exception) -> UserError:
    return UserError(
        f"{path} is damaged or cut short ({fold(str(error))}): copy or compress it again"
    )


def _lines(path: str, begin: int, end: int) -> Iterator[tuple[int, str]]:
    """Yields (first byte, text) of every line whose first byte is in [begin, end).

    The text may end in its line break.
    """
    with _opened(path) as file:
        place = _seek_line(path, file, begin) if begin else 0
        while place < end and (line := file.readline(documents.MAX_DOCUMENT_BYTES)):
            if len(line) == documents.MAX_DOCUMENT_BYTES:
                raise documents.too_long(_Place(path, place))
            if place >= begin:
                yield place, _decode(line, path, place)
            place += len(line)


def _runs(path: str, begin: int) -> Iterator[tuple[int, bytes]]:
    """Yields (first byte, bytes) of every run of lines between blank ones.

    It begins with the line that ends at or behind the byte before `begin`: that a run goes on there
    is seen by what stands before it.
    """
    with _opened(path) as file:
        place = _seek_line(path, file, begin) if begin else 0
        held = b""  # of a run whose end is not read yet
        while read := file.read(max(_CHUNK_BYTES, len(held) // 2)):
            searched = len(held.rstrip())
            held += read
            run_begin = 0
            for blank in _BLANK_LINES.finditer(held, searched):
                if run := held[run_begin : blank.start()]:
                    yield place + run_begin, _not_too_long(run, path, place + run_begin)
                run_begin = blank.end()
            place += run_begin
            held = _not_too_long(held[run_begin:], path, place)
    if run := held.rstrip():
        yield place, run


def _not_too_long(run: bytes, path: str, begin: int) -> bytes:
    if len(run) >= documents.MAX_DOCUMENT_BYTES:
        raise documents.too_long(_Place(path, begin + len(run) - len(run.lstrip())))
    return run


def _divided(first: int, run: bytes, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yields (first byte, folded lines) of the documents in a run, which is `text`.

    There are several where a line is blank only to those who know all white space.
    """
    if _is_folded(run, text):
        yield first, text.split("\n")
        return
    lines: list[str] = []
    place = first
    for stored, line in zip(run.split(b"\n"), text.split("\n"), strict=True):
        if folded := fold(line):
            first = first if lines else place
            lines.append(folded)
        elif lines:
            yield first, lines
            lines = []
        place += len(stored) + 1
    if lines:
        yield first, lines


def _is_folded(run: bytes, text: str) -> bool:
    """Whether surely no line of a run would change by folding; it takes far less time."""
    letters = np.frombuffer(run, np.uint8)
    spaces = (letters == ord(" ")) | (letters == ord("\n"))
    if not text or spaces[0] or spaces[-1] or (spaces[1:] & spaces[:-1]).any():
        return False
    # Else there is other white space than " "; or, rarely, something else unseen.
    return run.translate(None, _PLAIN).decode().isprintable()


def _seek_line(path: str, file: BinaryIO, byte: int) -> int:
    """Goes to the first byte of the line that ends at or behind the byte before; returns it."""
    end = byte - 1
    while end > 0:
        begin = max(0, end - _CHUNK_BYTES)
        file.seek(begin)
        if (found := file.read(end - begin).rfind(b"\n")) >= 0:
            return file.seek(begin + found + 1)
        end = begin
    return file.seek(0)


def _decode(stored: bytes, path: str, begin: int) -> str:
    """Decodes a part of a file; a byte order mark is none of its text."""
    try:
        text = stored.decode()
    except UnicodeDecodeError as error:
        place = _Place(path, begin + error.start)
        raise UserError(
            f"{path} is not UTF-8 at byte {place.byte} (0x{stored[error.start]:02x}, in line"
            f" {place.line()}): convert the file to UTF-8"
        ) from error
    if (nul := stored.find(b"\0")) >= 0:  # far quicker than in the text
        refuse_nul(text, _Place(path, begin + nul))
    return text.removeprefix("\ufeff") if begin == 0 else text
