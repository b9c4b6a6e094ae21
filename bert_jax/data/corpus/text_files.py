r"""Sources of documents: text files and JSON lines, plain or compressed.

Lines end in "\n" or "\r\n" only. A plain file can be read from any byte on; a compressed one is
read whole, and byte offsets are those of its decompressed text.
"""

import abc
import contextlib
import dataclasses
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, cast

import numpy as np
from backports import zstd

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
# The widest window, that of `zstd --long=31`.
_ZST_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 31}
_SURROGATE = re.compile("[\ud800-\udfff]")
_BLANK_LINES = re.compile(rb"\n\s*\n")
_PLAIN = bytes(range(ord(" "), 127)) + b"\n"  # printable ASCII and the line break
_CHUNK_BYTES = 1 << 16  # read at a time


class _LineFiles(FileSource):
    """A source of files of lines; the base of text files and JSON lines."""

    def __init__(self, sizes: dict[str, int], layout: Layout) -> None:
        """Divides files into pieces; `sizes` maps paths to sizes in bytes."""
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
        """Yields the documents of a file whose first byte is in [begin, end)."""


def _parts(path: str, size: int) -> Iterable[tuple[Span, int]]:
    span = Span(path, 0, size)
    return [(span, size)] if path.endswith(_COMPRESSED) else documents.cut(span, size)


class TextFiles(_LineFiles):
    """Text files; blank lines separate documents, or (layout `documents`) a line is one."""

    def _read_bytes(self, path: str, begin: int, end: int) -> Iterator[Document]:
        if self.layout is Layout.DOCUMENTS:
            for first, line in _lines(path, begin, end):
                if text := fold(line):
                    yield Document(_name(path, first), [text])
            return
        for first, run in _runs(path, begin):
            if first >= end:
                return
            for offset, lines in _divided(first, run, _decode(run, path, first)):
                if begin <= offset < end:
                    yield Document(_name(path, offset), lines)


class JsonLines(_LineFiles):
    """JSON lines: a line is an object, whose string `field` is a document."""

    def __init__(self, sizes: dict[str, int], field: str, layout: Layout) -> None:
        """Divides files into pieces; `sizes` maps paths to sizes in bytes."""
        super().__init__(sizes, layout)
        self._field = field

    def _read_bytes(self, path: str, begin: int, end: int) -> Iterator[Document]:
        for first, line in _lines(path, begin, end):
            if line.strip():
                text = self._text(line, _Location(path, first))
                yield Document(_name(path, first), folded_lines(text))

    def _text(self, line: str, location: "_Location") -> str:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise UserError(
                f"{location} is not JSON ({reason}): write one JSON object in each line"
            ) from error
        if not isinstance(record, dict):
            raise UserError(
                f"{location} is not a JSON object: write {{{json.dumps(self._field)}: ...}}"
            )
        if self._field not in record:
            names = ", ".join(sorted(record)) or "none"
            raise UserError(f"{location} has no field '{self._field}': its fields are {names}")
        text = record[self._field]
        if not isinstance(text, str):
            raise UserError(
                f"{location}: field '{self._field}' is {_JSON_TYPES[type(text)]}: write a string"
            )
        refuse_nul(text, location)
        if surrogate := _SURROGATE.search(text):
            raise UserError(
                f"{location} has half of a surrogate pair (\\u{ord(surrogate[0]):04x}): write both"
                " halves"
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
class _Location:
    """A byte of a file's text, for messages. Its line is counted only when it is printed."""

    path: str
    byte: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line()}"

    def line(self) -> int:
        """Returns the number of the byte's line, from 1."""
        number, left = 1, self.byte
        with _opened(self.path) as file:
            while chunk := file.read(min(_CHUNK_BYTES, left)):
                number += chunk.count(b"\n")
                left -= len(chunk)
        return number


@contextlib.contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """Opens a file to read its decompressed bytes; raises UserError for its faults."""
    try:
        with open(path, "rb") as stored, _decompressed(path, stored) as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile, zstd.ZstdError) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        # An error in compressed bytes has no errno.
        raise (documents.unreadable if error.errno else _damaged)(path, error) from error


def _decompressed(path: str, stored: BinaryIO) -> BinaryIO:
    if path.endswith(".gz"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=stored))
    if path.endswith(".zst"):
        return cast(BinaryIO, zstd.ZstdFile(stored, options=_ZST_OPTIONS))
    return stored


def _damaged(path: str, error: Exception) -> UserError:
    return UserError(
        f"{path} is damaged or incomplete ({fold(str(error))}): copy or compress it again"
    )


def _lines(path: str, begin: int, end: int) -> Iterator[tuple[int, str]]:
    """Yields (first byte, text) of every line whose first byte is in [begin, end).

    The text may end in its line break.
    """
    with _opened(path) as file:
        offset = _seek_line(path, file, begin) if begin else 0
        while offset < end and (line := file.readline(documents.MAX_DOCUMENT_BYTES)):
            if len(line) == documents.MAX_DOCUMENT_BYTES:
                raise documents.too_long(_Location(path, offset))
            if offset >= begin:
                yield offset, _decode(line, path, offset)
            offset += len(line)


def _runs(path: str, begin: int) -> Iterator[tuple[int, bytes]]:
    """Yields (first byte, bytes) of every run of lines between blank lines.

    Reading starts one line before `begin`, at the line with the byte before it: only so can it be
    seen whether a run begins at `begin` or continues there.
    """
    with _opened(path) as file:
        offset = _seek_line(path, file, begin) if begin else 0
        pending = b""  # a run whose end is not read yet
        while read := file.read(max(_CHUNK_BYTES, len(pending) // 2)):
            searched = len(pending.rstrip())
            pending += read
            run_begin = 0
            for blank in _BLANK_LINES.finditer(pending, searched):
                if run := pending[run_begin : blank.start()]:
                    yield offset + run_begin, _not_too_long(run, path, offset + run_begin)
                run_begin = blank.end()
            offset += run_begin
            pending = _not_too_long(pending[run_begin:], path, offset)
    if run := pending.rstrip():
        yield offset, run


def _not_too_long(run: bytes, path: str, begin: int) -> bytes:
    if len(run) >= documents.MAX_DOCUMENT_BYTES:
        raise documents.too_long(_Location(path, begin + len(run) - len(run.lstrip())))
    return run


def _divided(first: int, run: bytes, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yields (first byte, folded lines) of the documents in a run; `text` is the run, decoded.

    Usually there is one. A line of Unicode white space is blank too, but did not end the run.
    """
    if _is_folded(run, text):
        yield first, text.split("\n")
        return
    lines: list[str] = []
    offset = first
    for stored, line in zip(run.split(b"\n"), text.split("\n"), strict=True):
        if folded := fold(line):
            first = first if lines else offset
            lines.append(folded)
        elif lines:
            yield first, lines
            lines = []
        offset += len(stored) + 1
    if lines:
        yield first, lines


def _is_folded(run: bytes, text: str) -> bool:
    """Returns True if no line of a run would change by folding; much faster than folding."""
    letters = np.frombuffer(run, np.uint8)
    spaces = (letters == ord(" ")) | (letters == ord("\n"))
    if not text or spaces[0] or spaces[-1] or (spaces[1:] & spaces[:-1]).any():
        return False
    # Not printable: white space other than " ", or (rarely) another invisible character.
    return run.translate(None, _PLAIN).decode().isprintable()


def _seek_line(path: str, file: BinaryIO, byte: int) -> int:
    """Seeks the begin of the line that the byte before `byte` is in; returns its offset."""
    end = byte - 1
    while end > 0:
        begin = max(0, end - _CHUNK_BYTES)
        file.seek(begin)
        if (found := file.read(end - begin).rfind(b"\n")) >= 0:
            return file.seek(begin + found + 1)
        end = begin
    return file.seek(0)


def _decode(stored: bytes, path: str, begin: int) -> str:
    """Decodes a part of a file; removes a byte order mark at its begin."""
    try:
        text = stored.decode()
    except UnicodeDecodeError as error:
        location = _Location(path, begin + error.start)
        raise UserError(
            f"{path} is not UTF-8 at byte {location.byte} (0x{stored[error.start]:02x}, in line"
            f" {location.line()}): convert the file to UTF-8"
        ) from error
    if (nul := stored.find(b"\0")) >= 0:  # much faster than a search in the text
        refuse_nul(text, _Location(path, begin + nul))
    return text.removeprefix("\ufeff") if begin == 0 else text
