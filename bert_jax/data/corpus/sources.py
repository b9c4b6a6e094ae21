"""Opens the source that `--source` names: files, a TFDS dataset, or Python's documentation."""

import os
import re
import stat
from collections.abc import Generator, Iterator
from typing import Any

from bert_jax.data.corpus import documents, python_docs
from bert_jax.data.corpus.documents import (
    SOURCE_KINDS,
    Document,
    Layout,
    Piece,
    Source,
    Span,
)
from bert_jax.data.corpus.records import ParquetFiles, TfdsRecords
from bert_jax.data.corpus.text_files import JsonLines, TextFiles
from bert_jax.errors import UserError
from bert_jax.files import given, matching

_TFDS = re.compile(r"(\w+(?:/[\w.+-]+)?(?::\d+\.\d+\.\d+)?):([^#]+)#(.+)")


def open_source(spec: str, layout: Layout = Layout.LINES) -> Source:
    r"""Opens a source of documents by its specification.

    `text:GLOB`: UTF-8 files; a blank line or the end of a file ends a document (with the layout
    `documents`, the end of a line does). `jsonl:GLOB#FIELD`: a JSON object a line, whose string
    FIELD is a document. Both may be compressed: `.gz`, `.zst`. `parquet:GLOB#FIELD`: Parquet files,
    in which each value of the column FIELD is a document.
    `tfds:NAME[/CONFIG][:VERSION]:SPLIT#FIELD`: a dataset that TFDS has prepared as array_record, in
    which each value of the feature FIELD is a document.
    `python_docs`: the docstrings of this Python and its packages, a document a module.

    Files are read in the order of their names. `**` in a GLOB matches any folders; a folder means
    all files below it whose names do not begin with a dot. Lines end in "\n" or "\r\n" only. Each
    run of white space becomes one space.

    Args:
      spec: a specification of one of these forms.
      layout: of the lines; python_docs has its own.

    Returns:
      The source. Only the sizes of files and the headers of records have been read.

    Raises:
      UserError: if the specification has none of these forms, a glob matches no file, a file is
        empty, a dataset does not exist, or its records do not have that field of text.
    """
    kind, _, rest = spec.partition(":")
    if spec == "python_docs":
        return _PythonDocs()
    if kind == "text":
        return TextFiles(_files(spec, rest), layout)
    if kind in ("jsonl", "parquet"):
        pattern, _, field = rest.rpartition("#")
        if not pattern or not field:
            raise UserError(f"--source={spec} names no field: write {kind}:GLOB#FIELD")
        files = _files(spec, pattern)
        if kind == "jsonl":
            return JsonLines(files, field, layout)
        return ParquetFiles(files, field, layout)
    if kind == "tfds":
        if not (named := _TFDS.fullmatch(rest)):
            raise UserError(
                f"--source={spec} does not name a dataset, a split and a field: write"
                " tfds:NAME[/CONFIG][:VERSION]:SPLIT#FIELD, as in"
                " tfds:wikipedia/20230601.en:train#text"
            )
        name, split, field = named.groups()
        return TfdsRecords(name, split, field, layout)
    raise UserError(f"--source={spec} is of an unknown kind: write {SOURCE_KINDS}")


def _files(spec: str, pattern: str) -> dict[str, int]:
    """Returns the size in bytes of every file that a pattern matches, sorted by path."""
    if not pattern:
        raise UserError(f"--source={spec} names no files: write {SOURCE_KINDS}")
    path = given(pattern)
    names = _below(path) if os.path.isdir(path) else matching(pattern)
    sizes = {}
    for name in sorted(names):
        try:
            status = os.stat(name)
        except OSError as error:
            raise documents.unreadable(name, error) from error
        if stat.S_ISDIR(status.st_mode):
            continue
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{name} is not a regular file: copy its text into one")
        if status.st_size == 0:
            raise UserError(f"{name} is empty: remove it, or leave it out of --source={spec}")
        sizes[name] = status.st_size
    if not sizes:
        raise UserError(f"--source={spec} matches no file: name files, such as text:corpus/*.txt")
    return sizes


def _below(folder: str) -> list[str]:
    """Lists the files below a folder, without hidden ones; follows links."""

    def refuse(error: OSError) -> None:  # it cannot be listed, or links form a circle
        raise documents.unreadable(error.filename, error) from error

    found = []
    for parent, subfolders, names in os.walk(folder, onerror=refuse, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [os.path.join(parent, name) for name in names if not name.startswith(".")]
    return found


class _PythonDocs(Source):
    """The documentation of Python: a document a module, and one a topic of the language reference.

    It is a single piece, because copies of a docstring in other modules are left out. Parsing the
    modules is slow and their text is small, so the documents are kept for a second reading, but not
    pickled.
    """

    layout_is_given = False

    def __init__(self) -> None:
        self.layout = Layout.LINES
        self._source_files = python_docs.source_files()
        spans = [Span(str(file.path), 0, file.size) for file in self._source_files]
        size = sum(file.size for file in self._source_files)
        self.pieces = (documents.make_piece(spans, size),)
        self._kept: list[Document] = []

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": []}

    def _documents(self, piece: Piece) -> Iterator[Document]:
        if not self._kept:
            self._kept = yield from self._parsed()
        else:
            yield from self._kept

    def _parsed(self) -> Generator[Document, None, list[Document]]:
        seen: set[bytes] = set()
        read: list[Document] = []
        for file in self._source_files:
            docstrings = python_docs.read_docstrings(file, seen)
            lines = [text for docstring in docstrings for text in docstring.sentences]
            for name, sentences in [(file.module, lines), *python_docs.topics(file)]:
                if sentences:
                    read.append(Document(name, sentences))
                    yield read[-1]
        if not read:
            raise UserError(
                "--source=python_docs has no text: install Python with its source files"
            )
        return read
