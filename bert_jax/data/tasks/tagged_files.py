"""Reads sentences with a tag for each word: CoNLL and CoNLL-U columns, JSON lines, TFDS."""

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence

from bert_jax.data.tasks.tables import (
    Row,
    as_text,
    column,
    has_records,
    read_lines,
    read_records,
    shown,
)
from bert_jax.errors import UserError

_CONLLU_NAMES = tuple("id form lemma upos xpos feats head deprel deps misc".split())
_CONLLU_ID = re.compile(
    r"\d+([-.]\d+)?", re.ASCII
)  # 3; 3-4 for a multiword token; 3.1 for an empty node
_COLUMN_NUMBER = re.compile(r"-?\d{1,4}", re.ASCII)
_DOCUMENT = "-DOCSTART-"
_NO_TAG = "O"

_Line = tuple[str, list[str]]  # (location, columns)


@dataclasses.dataclass(frozen=True, slots=True)
class TaggedSentence:
    """A sentence: its words, exactly as in the file, and a tag for each."""

    words: list[str]
    tags: list[str]
    location: str  # of its first word, for messages


def read_tagged(source: str, *, word_column: str, tag_column: str) -> list[TaggedSentence]:
    """Reads the sentences of a file, or of a dataset of TFDS.

    A .conllu file is read as CoNLL-U; comments, multiword tokens and empty nodes are skipped. In a
    .jsonl file and in TFDS (`tfds:NAME[/CONFIG]:SPLIT`) a row is a sentence, and words and tags are
    lists; rows without words are skipped. Any other file has a word a line, in columns separated by
    tabs or, in a line without tabs, by spaces; a blank line or -DOCSTART- ends a sentence.

    Args:
      source: the file or dataset.
      word_column: column of the words: an index from 0, or -1 for the last; in CoNLL-U also a name,
        such as "form"; in JSON and TFDS a name. "0|tokens" gives alternatives.
      tag_column: column of the tags; "" reads none and gives each word the tag O.

    Raises:
      UserError: if the source cannot be read or has no sentences; if a column is missing; if the
        lines of a sentence have different numbers of columns; if a word or a tag is missing or
        empty.
    """
    read = _from_lists if has_records(source) else _from_columns
    sentences = list(read(source, word_column, tag_column))
    if not sentences:
        raise UserError(f"{source} has no sentences: choose another file")
    return sentences


def _from_lists(source: str, word_column: str, tag_column: str) -> Iterator[TaggedSentence]:
    for location, row in read_records(source):
        words = _texts(row, word_column, location, "word_column")
        tags = [_NO_TAG] * len(words)
        if tag_column:
            tags = [tag.strip() for tag in _texts(row, tag_column, location, "tag_column")]
        if len(words) != len(tags):
            raise UserError(
                f"{location} has {len(words)} words and {len(tags)} tags: give each word one tag"
            )
        if words:  # the last record of conll2003 in TFDS has none
            yield TaggedSentence(words, tags, location)


def _texts(row: Row, names: str, location: str, flag: str) -> list[str]:
    values = column(row, names, location, flag)
    if not isinstance(values, list):
        raise UserError(
            f"{location} has {shown(values)} for --config.data.{flag}={names}: write a list"
        )
    texts = []
    for number, value in enumerate(values):
        text = as_text(value)
        if text is None or not text.strip():
            raise UserError(
                f"{location} has {shown(value)} as item {number} for --config.data.{flag}={names}:"
                " write text"
            )
        texts.append(text)
    return texts


def _from_columns(path: str, word_column: str, tag_column: str) -> Iterator[TaggedSentence]:
    conllu = pathlib.Path(path).suffix == ".conllu"
    known = _CONLLU_NAMES if conllu else ()
    word_at = _position(path, word_column, "word_column", known)
    tag_at = _position(path, tag_column, "tag_column", known) if tag_column else None
    for lines in _conllu_sentences(path) if conllu else _sentences(path):
        location, columns = lines[0]
        width = len(columns)
        wanted = [word_at] if tag_at is None else [word_at, tag_at]
        # As indices from 0: in a line of one column, -1 is the word itself, not its tag.
        from_left = {at + width if at < 0 else at for at in wanted}
        if len(from_left) < len(wanted) or not from_left <= set(range(width)):
            raise UserError(
                f"{location} has {width} columns, too few for --config.data.word_column="
                f"{word_column} and tag_column={tag_column!r}: choose other columns"
            )
        words = [_cell(line, word_at, "word") for line in lines]
        tags = [_NO_TAG if tag_at is None else _cell(line, tag_at, "tag").strip() for line in lines]
        yield TaggedSentence(words, tags, location)


def _position(path: str, names: str, flag: str, known: Sequence[str]) -> int:
    """Returns the index of the first of alternative columns that the file can have."""
    for name in names.split("|"):
        if name in known:
            return known.index(name)
        if _COLUMN_NUMBER.fullmatch(name):
            return int(name)
    by_name = f", or one of {' '.join(known)}" if known else ""
    raise UserError(
        f"--config.data.{flag}={names!r} is not a column of {path}: write its index, from 0, or -1"
        f" for the last{by_name}"
    )


def _cell(line: _Line, at: int, kind: str) -> str:
    location, columns = line
    if not columns[at].strip():
        raise UserError(f"{location} has an empty {kind}: fill it in, or remove the line")
    return columns[at]


def _sentences(path: str) -> Iterator[list[_Line]]:
    """Yields the lines of each sentence of a file with a word a line."""
    for block in _blocks(path):
        yield _same_width([(location, _columns(line)) for location, line in block])


def _columns(line: str) -> list[str]:
    if "\t" in line:
        return line.split("\t")
    return [text for text in line.split(" ") if text]  # other white space is part of a word


def _conllu_sentences(path: str) -> Iterator[list[_Line]]:
    """Yields the lines of the words of each sentence of a CoNLL-U file."""
    for block in _blocks(path):
        lines = []
        for location, line in block:
            if line.startswith("#"):
                continue
            columns = line.split("\t")
            if not (identity := _CONLLU_ID.fullmatch(columns[0])):
                raise UserError(
                    f"{location} begins with {shown(columns[0])}, not with an id of CoNLL-U: write"
                    " ten columns separated by tabs, or give the file another suffix"
                )
            if not identity[1]:
                lines.append((location, columns))
        if lines:
            yield _same_width(lines)


def _blocks(path: str) -> Iterator[list[tuple[str, str]]]:
    """Yields runs of (location, line), separated by blank lines and -DOCSTART- lines."""
    block: list[tuple[str, str]] = []
    for location, line in read_lines(path):
        if line.strip(" \t") and not line.startswith(_DOCUMENT):
            block.append((location, line))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _same_width(lines: list[_Line]) -> list[_Line]:
    """Raises UserError if the lines of a sentence have different numbers of columns."""
    width = len(lines[0][1])
    for location, columns in lines:
        if len(columns) != width:
            raise UserError(
                f"{location} has {len(columns)} columns, but its sentence began with {width}: write"
                " the same number in every line"
            )
    return lines
