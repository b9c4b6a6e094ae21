"""Reads sentences with a tag for each word: CoNLL and CoNLL-U columns, CSV, JSON lines, TFDS."""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence

from bert_jax.data.tasks.bad_rows import BadRow, BadRows
from bert_jax.data.tasks.tables import (
    Row,
    as_text,
    column,
    has_records,
    no_label,
    read_comma_separated,
    read_lines,
    read_records,
    repeated_header,
    shown,
)
from bert_jax.errors import UserError

_CONLLU_NAMES = tuple("id form lemma upos xpos feats head deprel deps misc".split())
_CONLLU_ID = re.compile(
    r"\d+([-.]\d+)?", re.ASCII
)  # 3; 3-4 for a multiword token; 3.1 for an empty node
_GLOBAL_COLUMNS = re.compile(r"#\s*global\.columns\s*=\s*(\S.*)")  # of CoNLL-U Plus
_COLUMN_NUMBER = re.compile(r"-?\d{1,4}", re.ASCII)
_DOCUMENT = re.compile(r"-+DOCSTART-*", re.IGNORECASE)
# A line that is a comment, however many columns it seems to have: "# sent_id = 12", "#newdoc",
# OntoNotes' "#begin document (...".
_COMMENT = re.compile(r"# *([\w.:-]+ *=|(newpar|newdoc|(begin|end) document)\b)", re.IGNORECASE)
# Names of columns in the first line of a file, where the config gives only numbers.
_WORD_NAMES = frozenset("token tokens word words form text".split())
_TAG_NAMES = frozenset(
    "tag tags label labels ner ner_tag ner_tags ne pos pos_tag pos_tags upos xpos chunk iob bio"
    " entity entities".split()
)
_NO_TAG = "O"

_Line = tuple[str, list[str]]  # (location, columns)


@dataclasses.dataclass(frozen=True, slots=True)
class TaggedSentence:
    """A sentence: its words, exactly as in the file, and a tag for each."""

    words: list[str]
    tags: list[str]
    location: str  # of its first word, for messages
    lines: Sequence[int] = dataclasses.field(default=(), compare=False)  # of words; () if in one

    def location_of(self, word: int) -> str:
        """Returns the location of a word, counted from 0."""
        if not self.lines:
            return self.location
        return f"{self.location.rpartition(':')[0]}:{self.lines[word]}"


def read_tagged(
    source: str, *, word_column: str, tag_column: str, header: bool, bad: BadRows
) -> list[TaggedSentence]:
    """Reads the sentences of a file, or of a dataset of TFDS.

    A .conllu or .conllup file is read as CoNLL-U; comments, multiword tokens and empty nodes are
    skipped. In a .jsonl file and in TFDS (`tfds:NAME[/CONFIG]:SPLIT`) a row is a sentence, and
    words and tags are lists; rows without words are skipped. Any other file has a word a line, in
    columns separated by commas in a .csv file, else by tabs or, in a line without tabs, by spaces;
    a blank line or -DOCSTART- ends a sentence, and comments are skipped: "# key = value", "#begin
    document", and lines that begin with "# " and have another number of columns than the others.

    Args:
      source: the file or dataset.
      word_column: column of the words: an index from 0, or -1 for the last; where the columns have
        names also a name, such as "form". "0|tokens" gives alternatives.
      tag_column: column of the tags; "" reads none and gives each word the tag O.
      header: True if the first line may name the columns. It does if it has one of the names asked
        for, or if its word and its tag are usual names of columns: "token", "label".
      bad: takes sentences whose lines have different or too few columns, or with an empty or
        missing word or tag.

    Raises:
      UserError: if the source cannot be read; if it has no such column.
    """
    if has_records(source):
        return list(_from_lists(source, word_column, tag_column, bad))
    return list(_from_columns(source, word_column, tag_column, header, bad))


def _from_lists(
    source: str, word_column: str, tag_column: str, bad: BadRows
) -> Iterator[TaggedSentence]:
    for location, row in read_records(source):
        with bad.caught():
            words = _texts(row, word_column, location, "word_column")
            tags = [_NO_TAG] * len(words)
            if tag_column:
                tags = [tag.strip() for tag in _texts(row, tag_column, location, "tag_column")]
            if len(words) != len(tags):
                raise BadRow(
                    location,
                    "other number of tags than words",
                    f"has {len(words)} words and {len(tags)} tags: give each word one tag",
                )
            # The last record of conll2003 in TFDS has no words.
            if words and not (len(words) == 1 and _DOCUMENT.fullmatch(words[0])):
                yield TaggedSentence(words, tags, location)


def _texts(row: Row, names: str, location: str, flag: str) -> list[str]:
    values = column(row, names, location, flag)
    if values is None:
        raise (
            no_label(location, "None", names)
            if flag == "tag_column"
            else BadRow(
                location, "no words", f"has no words in {names!r}: write a list, or remove the row"
            )
        )
    if not isinstance(values, list):
        raise UserError(
            f"{location} has {shown(values)} for --config.data.{flag}={names}: write a list"
        )
    texts = []
    for number, value in enumerate(values):
        text = as_text(value)
        if text is None or not text.strip():
            problem = (
                f"has {shown(value)} as item {number} for --config.data.{flag}={names}: write text"
            )
            raise BadRow(location, "empty word" if flag == "word_column" else "empty tag", problem)
        texts.append(text)
    return texts


def _from_columns(
    path: str, word_column: str, tag_column: str, header: bool, bad: BadRows
) -> Iterator[TaggedSentence]:
    conllu = pathlib.Path(path).suffix in (".conllu", ".conllup")
    names: Sequence[str] = ()
    if conllu:
        names, blocks = _conllu_blocks(path)
    else:
        blocks = _without_comments(list(_blocks(path)))
        if header and blocks and _is_header(blocks[0][0][1], word_column, tag_column):
            names = blocks[0].pop(0)[1]
    first_line, names = names, [name.strip() for name in names]
    word_at = _position(path, word_column, "word_column", names)
    if not conllu:
        _refuse_texts(path, blocks, word_at, word_column)
    tag_at = _position(path, tag_column, "tag_column", names) if tag_column else None
    for block in blocks:
        if block:
            with bad.caught():
                _refuse_header(block, first_line)
                yield _sentence(block, word_at, tag_at, f"{word_column} and {tag_column=!r}")


def _refuse_header(lines: list[_Line], header: Sequence[str]) -> None:
    """Raises BadRow if a line of a sentence is the file's header."""
    for location, columns in lines:
        if again := repeated_header(location, columns, header):
            raise again


def _refuse_texts(path: str, blocks: list[list[_Line]], word_at: int, word_column: str) -> None:
    """Raises UserError if most of the words are texts of three words or more."""
    cells = [
        columns[word_at]
        for block in blocks
        for _, columns in block
        if -len(columns) <= word_at < len(columns)
    ]
    texts = [cell for cell in cells if cell.strip(" ").count(" ") > 1]  # "New York" may be one word
    if 2 * len(texts) > len(cells):
        raise UserError(
            f"{path} has texts, such as {shown(texts[0])}, for --config.data.word_column="
            f"{word_column}: write one word a line, with a blank line after each sentence; or"
            " fine-tune on whole texts, with configs/finetune_text.py"
        )


def _sentence(lines: list[_Line], word_at: int, tag_at: int | None, asked: str) -> TaggedSentence:
    """Returns the sentence of some lines; raises BadRow if it cannot be used."""
    location, columns = lines[0]
    width = len(columns)
    for place, others in lines:
        if len(others) != width:
            problem = (
                f"has {len(others)} columns, but its sentence began with {width}: write the same"
                " number in every line"
            )
            raise BadRow(place, "wrong number of columns", problem)
    wanted = [word_at] if tag_at is None else [word_at, tag_at]
    # As indices from 0: in a line of one column, -1 is the word itself, not its tag.
    from_left = {at + width if at < 0 else at for at in wanted}
    if len(from_left) < len(wanted) or not from_left <= set(range(width)):
        problem = (
            f"has {width} columns, too few for --config.data.word_column={asked}: choose other"
            " columns"
        )
        raise BadRow(location, "too few columns", problem)
    return TaggedSentence(
        [_cell(line, word_at, "word") for line in lines],
        [_NO_TAG if tag_at is None else _cell(line, tag_at, "tag").strip() for line in lines],
        location,
        [int(place.rpartition(":")[2]) for place, _ in lines],
    )


def _is_header(cells: list[str], word_column: str, tag_column: str) -> bool:
    """Returns True if the first line of a file names its columns.

    It does if it has a column for which the config has names alone, or if a word and a tag in it
    are names of columns. Where no tags are read, any cell may be the name of those; or the name of
    the words is elsewhere than their number says.
    """
    found = [cell.strip().lower() for cell in cells]
    if len(set(found)) < len(found):
        return False
    named = []
    for columns, usual in ((word_column, _WORD_NAMES), (tag_column, _TAG_NAMES)):
        asked = [name for name in columns.lower().split("|") if name]
        numbers = [int(name) for name in asked if _COLUMN_NUMBER.fullmatch(name)]
        in_line = any(name in found for name in asked)
        at = numbers[0] if numbers else len(found)
        there = found[at] if -len(found) <= at < len(found) else ""
        if in_line and (not numbers or (not tag_column and there not in asked)):
            return True
        named.append(in_line or there in usual)
    if not tag_column:
        named[1] = any(cell in _TAG_NAMES for cell in found)
    return all(named)


def _position(path: str, names: str, flag: str, known: Sequence[str]) -> int:
    """Returns the index of the first of alternative columns that the file can have."""
    lowered = [name.lower() for name in known]
    for name in names.split("|"):
        if name.lower() in lowered:
            return lowered.index(name.lower())
        if _COLUMN_NUMBER.fullmatch(name):
            return int(name)
    by_name = f", or one of {' '.join(known)}" if known else ""
    raise UserError(
        f"--config.data.{flag}={names!r} is not a column of {path}: write its index, from 0, or -1"
        f" for the last{by_name}"
    )


def _cell(line: _Line, at: int, kind: str) -> str:
    location, columns = line
    if not columns[at].strip():  # a word of invisible characters is a word
        raise BadRow(location, f"empty {kind}", f"has an empty {kind}: fill it in, or remove it")
    return columns[at]


def _without_comments(blocks: list[list[_Line]]) -> list[list[_Line]]:
    """Drops lines that begin with "# " and have another number of columns than the others."""
    widths = collections.Counter(
        len(columns) for block in blocks for _, columns in block if columns[0][:1] != "#"
    )
    if not widths:
        return blocks
    commonest = max(widths, key=widths.__getitem__)
    kept = []
    for block in blocks:
        words = (len(columns) for _, columns in block if columns[0][:1] != "#")
        width = next(words, commonest)
        kept.append(
            [line for line in block if not (line[1][0] == "#" and len(line[1]) not in (1, width))]
        )
    return [block for block in kept if block]


def _conllu_blocks(path: str) -> tuple[Sequence[str], list[list[_Line]]]:
    """Returns the names of the columns of a CoNLL-U file, and the words of its sentences."""
    names: Sequence[str] = _CONLLU_NAMES
    blocks: list[list[_Line]] = [[]]
    for location, line in read_lines(path):
        if named := _GLOBAL_COLUMNS.match(line):
            names = named[1].lower().split()
        if not line.strip(" \t"):
            blocks.append([])
        if not line.strip(" \t") or line.startswith("#"):
            continue
        columns = line.split("\t")
        if names[0] == "id":
            if not (identity := _CONLLU_ID.fullmatch(columns[0])):
                raise UserError(
                    f"{location} begins with {shown(columns[0])}, not with an id of CoNLL-U: write"
                    " ten columns separated by tabs, or give the file another suffix"
                )
            if identity[1]:
                continue
        blocks[-1].append((location, columns))
    return names, [block for block in blocks if block]


def _blocks(path: str) -> Iterator[list[_Line]]:
    """Yields runs of lines, separated by blank lines and -DOCSTART- lines, without comments."""
    if pathlib.Path(path).suffix == ".csv":
        rows = read_comma_separated(path)
        lines = (row for row in rows if not _COMMENT.match("".join(row[1][:1])))
    else:
        lines = _separated(path)
    block: list[_Line] = []
    for location, columns in lines:
        is_blank = not any(cell.strip(" \t") for cell in columns)
        if not is_blank and not any(map(_DOCUMENT.fullmatch, columns)):
            block.append((location, columns))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _separated(path: str) -> Iterator[_Line]:
    """Yields the columns of lines that are no comments.

    Tabs separate them if they do in the first line that is surely one of a sentence; else spaces.
    """
    lines = [each for each in read_lines(path) if not _COMMENT.match(each[1])]
    first = next((line for _, line in lines if line.strip(" \t") and line[0] not in "#-"), "")
    for location, line in lines:
        if "\t" in line:
            yield location, line.split("\t")
        elif "\t" not in first or not line.strip():
            # Other white space is part of a word.
            yield location, [text for text in line.split(" ") if text]
        elif not line.startswith("# "):
            at_space = line.split(" ")
            yield location, at_space if _DOCUMENT.fullmatch(at_space[0]) else [line]
