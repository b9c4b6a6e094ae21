"""Documents as sentences, from files or from the documentation of the installed Python.

`prepare` reads them once, to train a tokenizer or to make a corpus.
"""

import abc
import dataclasses
import enum
import glob
import json
import os
import re
import stat
from collections.abc import Generator, Iterator

import sentencex

from bert_jax.data import python_docs
from bert_jax.errors import UserError

# A line, and what a document's lines add up to, must stay below: a document is held in memory.
MAX_DOCUMENT_BYTES = 64 * 2**20

_KINDS = "text:GLOB, jsonl:GLOB#FIELD or python_docs"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SURROGATE = re.compile("[\ud800-\udfff]")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*")


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """A text whose sentences follow one another."""

    name: str  # for messages: "dir/file.txt:120" (file and first line), or a module's dotted name
    sentences: list[str]  # each non-empty, stripped, without line breaks; at least one


class Layout(enum.Enum):
    """What one line of text is."""

    LINES = "lines"  # one sentence
    PARAGRAPHS = "paragraphs"  # several sentences, which are split


class Source(abc.ABC):
    """A stream of documents; iterate again to read it from the start.

    Iterating holds one document in memory. It raises UserError, late, for what only reading shows.
    """

    total_bytes: int  # of all input
    position: int = 0  # bytes read so far by the newest iterator

    @abc.abstractmethod
    def __iter__(self) -> Iterator[Document]:
        """Yields the documents, always in the same order."""


def open_source(spec: str, *, layout: Layout = Layout.LINES, language: str = "en") -> Source:
    r"""Opens a source of documents by its specification.

    `text:GLOB`: UTF-8 files in sorted order; an empty line or the end of a file ends a document.
    `jsonl:GLOB#FIELD`: a JSON object a line, whose string FIELD is a document; empty ones are left
    out. `python_docs`: the docstrings of this Python and of its packages, a document a module.
    Lines end in "\n" or "\r\n" only. White space of any kind, repeated or not, becomes one space.

    Args:
      spec: One of the three forms; `**` in a GLOB stands for any folders.
      layout: What a line is; python_docs knows its own sentences.
      language: The language code of paragraphs, such as "en"; one that `sentencex` does not know
        is split as English is.

    Returns:
      The source. Nothing but the sizes of the files has been read.

    Raises:
      UserError: for a specification that is none, a glob that matches no file, an empty file.
    """
    if not _LANGUAGE.fullmatch(language):
        raise UserError(f"language {language!r} is not a language code: write one such as 'en'")
    split = _Splitter(layout, language)
    kind, _, rest = spec.partition(":")
    if spec == "python_docs":
        return _PythonDocs()
    if kind == "text":
        return _TextFiles(_files(spec, rest), split)
    if kind == "jsonl":
        pattern, _, field = rest.rpartition("#")
        if not pattern or not field:
            raise UserError(f"source '{spec}' names no field: write jsonl:GLOB#FIELD")
        return _JsonLines(_files(spec, pattern), split, field)
    raise UserError(f"source '{spec}' is of an unknown kind: write {_KINDS}")


def _files(spec: str, pattern: str) -> dict[str, int]:
    """Returns the size in bytes of every file that a pattern matches, sorted by name."""
    if not pattern:
        raise UserError(f"source '{spec}' names no files: write {_KINDS}")
    # A name that exists is taken as it is, even where it holds characters that globs interpret.
    names = [pattern] if os.path.lexists(pattern) else glob.glob(pattern, recursive=True)
    sizes = {}
    for name in sorted(names):
        try:
            status = os.stat(name)
        except OSError as error:
            raise _unreadable(name, error) from error
        if stat.S_ISDIR(status.st_mode):
            continue
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{name} is not a regular file: copy its text into one")
        if status.st_size == 0:
            raise UserError(f"{name} is empty: remove it or leave it out of '{spec}'")
        sizes[name] = status.st_size
    if not sizes:
        raise UserError(f"source '{spec}' matches no file: name files, as in 'corpus/*.txt'")
    return sizes


def _unreadable(name: str, error: OSError) -> UserError:
    return UserError(f"cannot read {name}: {error.strerror}")


@dataclasses.dataclass(frozen=True, slots=True)
class _Splitter:
    layout: Layout
    language: str

    def __call__(self, line: str) -> list[str]:
        """Returns the sentences of a line; none if it is blank."""
        # White space of any kind becomes " ": `sentencex` panics at others before a full stop.
        line = " ".join(line.split())
        if self.layout is Layout.LINES:
            return [line] if line else []
        # It is compiled and has no types.
        parts = sentencex.segment(self.language, line)  # pyright: ignore[reportAttributeAccessIssue]
        return [sentence for part in parts if (sentence := part.strip())]


class _Files(Source):
    """What text and JSON lines have in common: files, lines, and their faults."""

    def __init__(self, sizes: dict[str, int], split: _Splitter) -> None:
        self.total_bytes = sum(sizes.values())
        self._names = list(sizes)
        self._split = split

    @abc.abstractmethod
    def _documents(self, name: str) -> Iterator[Document]:
        """Yields the documents of one file."""

    def __iter__(self) -> Iterator[Document]:
        self.position = 0
        for name in self._names:
            has_text = False
            for document in self._documents(name):
                has_text = True
                yield document
            if not has_text:
                raise UserError(f"{name} holds no text: leave it out of the source")

    def _lines(self, name: str) -> Iterator[tuple[int, str]]:
        """Yields (number from 1, text) of every line; the text may end in its line break."""
        number = begin = 0  # begin: the line's first byte in the file
        try:
            with open(name, "rb") as file:
                while line := file.readline(MAX_DOCUMENT_BYTES):
                    number += 1
                    self.position += len(line)
                    if len(line) == MAX_DOCUMENT_BYTES:
                        raise _too_long(f"{name}:{number}")
                    yield number, _decode(line, name, number, begin)
                    begin += len(line)
        except OSError as error:
            raise _unreadable(name, error) from error


def _decode(line: bytes, name: str, number: int, begin: int) -> str:
    if begin == 0 and line.startswith(_BYTE_ORDER_MARK):
        line, begin = line[len(_BYTE_ORDER_MARK) :], len(_BYTE_ORDER_MARK)
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not UTF-8 at byte {begin + error.start} (0x{line[error.start]:02x}, in line"
            f" {number}): convert the file to UTF-8"
        ) from error
    _refuse_nul(text, f"{name}:{number}")
    return text


def _refuse_nul(text: str, place: str) -> None:
    if "\0" in text:
        raise UserError(f"{place} holds a NUL character: this is not plain text, remove it")


def _too_long(place: str) -> UserError:
    return UserError(
        f"{place} begins a document of more than {MAX_DOCUMENT_BYTES >> 20} MiB:"
        " divide the text into documents"
    )


class _TextFiles(_Files):
    def _documents(self, name: str) -> Iterator[Document]:
        sentences: list[str] = []
        first = size = 0  # the document's first line, and its length in characters
        for number, line in self._lines(name):
            if units := self._split(line):
                if not sentences:
                    first, size = number, 0
                sentences += units
                size += len(line)
                if size >= MAX_DOCUMENT_BYTES:
                    raise _too_long(f"{name}:{first}")
            elif sentences:
                yield Document(f"{name}:{first}", sentences)
                sentences = []
        if sentences:
            yield Document(f"{name}:{first}", sentences)


class _JsonLines(_Files):
    def __init__(self, sizes: dict[str, int], split: _Splitter, field: str) -> None:
        super().__init__(sizes, split)
        self._field = field

    def _documents(self, name: str) -> Iterator[Document]:
        for number, line in self._lines(name):
            if not line.strip():
                continue
            place = f"{name}:{number}"
            text = self._text(line, place)
            if sentences := [unit for part in text.split("\n") for unit in self._split(part)]:
                yield Document(place, sentences)

    def _text(self, line: str, place: str) -> str:
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
        _refuse_nul(text, place)
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


class _PythonDocs(Source):
    """A document a module, and a document a topic of the language reference.

    Parsing the modules is slow and their text is small, so it is kept for a second reading.
    """

    def __init__(self) -> None:
        self._source_files = python_docs.source_files()
        self._kept: list[Document] = []
        self.total_bytes = sum(file.size for file in self._source_files)

    def __iter__(self) -> Iterator[Document]:
        if not self._kept:
            self._kept = yield from self._read()
            return
        self.position = self.total_bytes
        yield from self._kept

    def _read(self) -> Generator[Document, None, list[Document]]:
        self.position = 0
        seen: set[bytes] = set()
        read: list[Document] = []
        for file in self._source_files:
            self.position += file.size
            docstrings = python_docs.read_docstrings(file, seen)
            sentences = [text for docstring in docstrings for text in docstring.sentences]
            documents = [(file.module, sentences), *python_docs.topics(file)]
            for name, sentences in documents:
                if sentences:
                    read.append(Document(name, sentences))
                    yield read[-1]
        if not read:
            raise UserError("source 'python_docs' has no text: this Python lacks its source files")
        return read
