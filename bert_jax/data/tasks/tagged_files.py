"""Sentences whose words have tags: columns of CoNLL files and CoNLL-U, JSON lines, TFDS."""

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
_CONLLU_ID = re.compile(r"\d+([-.]\d+)?", re.ASCII)  # 3, or 3-4 for two in one, or 3.1 for none
_COLUMN_NUMBER = re.compile(r"-?\d{1,4}", re.ASCII)
_DOCUMENT = "-DOCSTART-"
_NO_TAG = "O"

_Line = tuple[str, list[str]]  # place, columns


@dataclasses.dataclass(frozen=True, slots=True)
class TaggedSentence:
    """Words, exactly as the file has them, and a tag for each."""

    words: list[str]
    tags: list[str]
    place: str  # of its first word, for messages


def read_tagged(source: str, *, word_column: str, tag_column: str) -> list[TaggedSentence]:
    """Reads the sentences of a file, or of a dataset of TFDS.

    A .conllu file is read as CoNLL-U: without comments, ranges of words and empty nodes. In a
    .jsonl file and in TFDS (`tfds:NAME[/CONFIG]:SPLIT`) a row is a sentence, and two of its columns
    are lists; rows without words are skipped. Any other file has a word a line, in columns between
    tabs or, in a line without any, spaces; a blank line or -DOCSTART- ends a sentence.

    Args:
      source: the file or dataset.
      word_column: where the words are: a number from 0, -1 for the last; in CoNLL-U also its name,
        as "form"; in JSON and TFDS its name. "0|tokens" gives alternatives.
      tag_column: where the tags are; "" if none are wanted: each word then has the tag O.

    Raises:
      UserError: for a source that cannot be read or has no sentences, a column that is not there,
        a line with more or fewer columns than its sentence, words without tags, empty words or
        tags.
    """
    read = _from_lists if has_records(source) else _from_columns
    sentences = list(read(source, word_column, tag_column))
    if not sentences:
        raise UserError(f"{source} holds no sentences: name another file")
    return sentences


def _from_lists(source: str, word_column: str, tag_column: str) -> Iterator[TaggedSentence]:
    for place, row in read_records(source):
        words = _texts(row, word_column, place, "word_column")
        tags = [_NO_TAG] * len(words)
        if tag_column:
            tags = [tag.strip() for tag in _texts(row, tag_column, place, "tag_column")]
        if len(words) != len(tags):
            raise UserError(
                f"{place} has {len(words)} words and {len(tags)} tags: give each word one tag"
            )
        if words:  # the last record of TFDS's conll2003 has none
            yield TaggedSentence(words, tags, place)


def _texts(row: Row, names: str, place: str, flag: str) -> list[str]:
    values = column(row, names, place, flag)
    if not isinstance(values, list):
        raise UserError(
            f"{place} has {shown(values)} for --config.data.{flag}={names}: it must be a list"
        )
    texts = []
    for number, value in enumerate(values):
        text = as_text(value)
        if text is None or not text.strip():
            raise UserError(
                f"{place} has {shown(value)} as item {number} for --config.data.{flag}={names}:"
                " it must be text, and not empty"
            )
        texts.append(text)
    return texts


def _from_columns(path: str, word_column: str, tag_column: str) -> Iterator[TaggedSentence]:
    conllu = pathlib.Path(path).suffix == ".conllu"
    known = _CONLLU_NAMES if conllu else ()
    word_at = _position(path, word_column, "word_column", known)
    tag_at = _position(path, tag_column, "tag_column", known) if tag_column else None
    for lines in _conllu_sentences(path) if conllu else _sentences(path):
        place, columns = lines[0]
        width = len(columns)
        wanted = [word_at] if tag_at is None else [word_at, tag_at]
        # Seen from the left: a word that stands alone in its line is not its own tag at -1.
        from_left = {at + width if at < 0 else at for at in wanted}
        if len(from_left) < len(wanted) or not from_left <= set(range(width)):
            raise UserError(
                f"{place} has {width} columns: too few for --config.data.word_column={word_column}"
                f" and tag_column={tag_column!r}"
            )
        words = [_cell(line, word_at, "word") for line in lines]
        tags = [_NO_TAG if tag_at is None else _cell(line, tag_at, "tag").strip() for line in lines]
        yield TaggedSentence(words, tags, place)


def _position(path: str, names: str, flag: str, known: Sequence[str]) -> int:
    """Returns the number of the first of alternative columns that a file of columns can have."""
    for name in names.split("|"):
        if name in known:
            return known.index(name)
        if _COLUMN_NUMBER.fullmatch(name):
            return int(name)
    by_name = f", or one of {' '.join(known)}" if known else ""
    raise UserError(
        f"--config.data.{flag}={names!r} is no column of {path}: write its number, from 0, or -1"
        f" for the last{by_name}"
    )


def _cell(line: _Line, at: int, kind: str) -> str:
    place, columns = line
    if not columns[at].strip():
        raise UserError(f"{place} has an empty {kind}: fill it in, or leave the line out")
    return columns[at]


def _sentences(path: str) -> Iterator[list[_Line]]:
    """Yields the lines of each sentence of a file with a word a line."""
    for block in _blocks(path):
        yield _same_width([(place, _columns(line)) for place, line in block])


def _columns(line: str) -> list[str]:
    if "\t" in line:
        return line.split("\t")
    return [text for text in line.split(" ") if text]  # other white space is part of a word


def _conllu_sentences(path: str) -> Iterator[list[_Line]]:
    """Yields the lines of the words of each sentence of a CoNLL-U file."""
    for block in _blocks(path):
        lines = []
        for place, line in block:
            if line.startswith("#"):
                continue
            columns = line.split("\t")
            if not (identity := _CONLLU_ID.fullmatch(columns[0])):
                raise UserError(
                    f"{place} begins with {shown(columns[0])}, which is no id of CoNLL-U: write"
                    " ten columns between tabs, or give the file another suffix"
                )
            if not identity[1]:
                lines.append((place, columns))
        if lines:
            yield _same_width(lines)


def _blocks(path: str) -> Iterator[list[tuple[str, str]]]:
    """Yields runs of (place, line) between blank lines and the begins of documents."""
    block: list[tuple[str, str]] = []
    for place, line in read_lines(path):
        if line.strip(" \t") and not line.startswith(_DOCUMENT):
            block.append((place, line))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _same_width(lines: list[_Line]) -> list[_Line]:
    """Refuses a sentence that lacks a column somewhere: all columns behind it would be wrong."""
    width = len(lines[0][1])
    for place, columns in lines:
        if len(columns) != width:
            raise UserError(
                f"{place} has {len(columns)} columns where its sentence began with {width}:"
                " write as many in every line"
            )
    return lines
