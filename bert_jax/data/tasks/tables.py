r"""Rows of labelled files: tab-separated, comma-separated, JSON lines, and records of TFDS.

Every row comes with its place, "dev.tsv:17" or "tfds:glue/sst2:train record 16", for messages.
"""

import csv
import json
import math
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from bert_jax.data.corpus import records
from bert_jax.errors import UserError

Row = dict[str, object]  # column -> value

_TFDS_PREFIX = "tfds:"
_TFDS = re.compile(r"tfds:(\w+(?:/[\w.+-]+)?(?::\d+\.\d+\.\d+)?):(.+)")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SHOWN_LENGTH = 60  # of a value in a message


def read_rows(source: str, *, header: bool) -> Iterator[tuple[str, Row]]:
    """Reads a table, a row at a time.

    Args:
      source: a .tsv (no quoting), .csv or .jsonl file, or tfds:NAME[/CONFIG][:VERSION]:SPLIT, a
        dataset that TFDS has prepared as array_record.
      header: whether the first line of a .tsv or .csv file names its columns; without it they are
        "0", "1" and so on.

    Returns:
      (place, column -> value) of each row. Values of separated files are text; of JSON, what it
      says; of TFDS, text for bytes, names for class labels (None for -1, which is no label) and
      lists for arrays.

    Raises:
      UserError: late, for a source that cannot be read or is not what its name says.
    """
    if has_records(source):
        return read_records(source)
    suffix = pathlib.Path(source).suffix
    if suffix == ".tsv":
        return _named(_tab_separated(source), header)
    if suffix == ".csv":
        return _named(_comma_separated(source), header)
    raise UserError(
        f"{source}: the name must end in .tsv, .csv, .jsonl, or be tfds:NAME[/CONFIG]:SPLIT"
    )


def has_records(source: str) -> bool:
    """Whether a source holds values with names and types: JSON lines, or records of TFDS."""
    return source.startswith(_TFDS_PREFIX) or pathlib.Path(source).suffix == ".jsonl"


def read_records(source: str) -> Iterator[tuple[str, Row]]:
    """Reads a source that `has_records`, as `read_rows` does."""
    return _tfds(source) if source.startswith(_TFDS_PREFIX) else _json_lines(source)


def read_lines(path: str) -> Iterator[tuple[str, str]]:
    r"""Yields (path:line, text) of a UTF-8 file, without line breaks and byte order mark.

    Lines end in "\n" or "\r\n" only: what else Unicode takes for a line's end may be in a text.

    Raises:
      UserError: for a file that cannot be read or is not UTF-8.
    """
    try:
        with open(path, "rb") as file:
            begin = 0
            for number, stored in enumerate(file, start=1):
                try:
                    line = stored.decode()
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{path} is not UTF-8 (byte {begin + error.start}) in line {number}:"
                        " convert it first"
                    ) from None
                begin += len(stored)
                if number == 1:
                    line = line.removeprefix("\ufeff")
                yield f"{path}:{number}", line.removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def parse_json(text: str, place: str) -> Any:
    """Parses JSON; raises UserError for what is none, or holds half a character."""
    try:
        value = json.loads(text)
        if _SURROGATE_ESCAPE.search(text):  # rare, and mostly in whole pairs
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{place} holds half a character: write both halves of the surrogate pair"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON ({error}): correct it") from None
    return value


def column(row: Row, names: str, place: str, flag: str) -> object:
    """Returns the value of a column.

    Args:
      row: the columns and values.
      names: the column, or alternatives as in "sentence|3", of which the first in the row counts:
        a task may have other names in its file than in TFDS.
      place: of the row.
      flag: the field of config.data that holds `names`.

    Raises:
      UserError: for a row without any of them.
    """
    return row[_found(row, names, place, flag)]


def text_value(row: Row, names: str, place: str, flag: str) -> str:
    """Returns the value of a `column` as text without white space around it.

    Raises:
      UserError: for a row without it, and a value that is empty or no text.
    """
    name = _found(row, names, place, flag)
    value = row[name]
    text = "" if value is None else as_text(value)
    if text is None:
        raise UserError(f"{place} has no text in {name!r} but {shown(value)}: write it as text")
    if not (text := text.strip()):
        raise UserError(f"{place} has an empty {name!r}: remove the line or fill it in")
    return text


def number_value(row: Row, names: str, place: str, flag: str) -> float:
    """Returns the value of a `column` as a finite number.

    Raises:
      UserError: for a row without it, and a value that is no number.
    """
    name = _found(row, names, place, flag)
    text = (as_text(row[name]) or "").strip()
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number):
        raise UserError(
            f"{place} has {shown(row[name])} in {name!r}, which is no number: write digits, as 3.5"
        )
    return number


def as_text(value: object) -> str | None:
    """Returns text as it is; numbers, true and false as JSON writes them; None for the rest."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return json.dumps(value)
    return None


def shown(value: object) -> str:
    """Returns a value for a message: in one line, and cut if long."""
    text = repr(value)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}..."


def listed(row: Row) -> str:
    """Returns the names in a row for a message."""
    return ", ".join(map(repr, row)) or "none"


def _found(row: Row, names: str, place: str, flag: str) -> str:
    alternatives = names.split("|")
    for name in alternatives:
        if name in row:
            return name
    raise UserError(
        f"{place} has no column {' or '.join(map(repr, alternatives))}: it has {listed(row)};"
        f" set --config.data.{flag}"
    )


def _named(rows: Iterator[tuple[str, list[str]]], header: bool) -> Iterator[tuple[str, Row]]:
    """Gives the values of lines their names; blank lines are skipped."""
    names: list[str] = []
    for place, values in rows:
        if values in ([], [""]):
            continue
        if not names:
            names = values if header else [str(number) for number in range(len(values))]
            _refuse_twice(names, place)
            if header:
                continue
        if len(values) != len(names):
            raise UserError(
                f"{place} has {len(values)} columns where the first line has {len(names)}:"
                " write as many in every line"
            )
        yield place, dict(zip(names, values, strict=True))


def _refuse_twice(names: list[str], place: str) -> None:
    for name in names:
        if name and names.count(name) > 1:  # columns without a name cannot be asked for
            raise UserError(f"{place} names the column {name!r} twice: rename one of them")


def _tab_separated(path: str) -> Iterator[tuple[str, list[str]]]:
    for place, line in read_lines(path):
        yield place, line.split("\t")


def _comma_separated(path: str) -> Iterator[tuple[str, list[str]]]:
    """Yields (place of the first line, values): line breaks may stand between quotes."""
    reader = csv.reader((f"{line}\n" for _, line in read_lines(path)), strict=True)
    while True:
        place = f"{path}:{reader.line_num + 1}"
        try:
            values = next(reader, None)
        except csv.Error as error:
            raise UserError(
                f"{path} cannot be read: {place} is not CSV ({error}): put values into quotes, and"
                " double those in them"
            ) from None
        if values is None:
            return
        yield place, values


def _json_lines(path: str) -> Iterator[tuple[str, Row]]:
    for place, line in read_lines(path):
        if line.strip():
            row = parse_json(line, place)
            if not isinstance(row, dict):
                raise UserError(f"{place} is not a JSON object: write {{...}} in every line")
            yield place, row


def _tfds(source: str) -> Iterator[tuple[str, Row]]:
    if not (named := _TFDS.fullmatch(source)):
        raise UserError(
            f"{source!r} does not name a dataset and a split: write"
            " tfds:NAME[/CONFIG][:VERSION]:SPLIT, as in tfds:glue/sst2:train"
        )
    name, split = named.groups()
    builder = records.open_dataset(name, split)
    values = builder.as_data_source(split, file_format=records.TFDS_FORMAT)
    path = str(builder.data_path)
    for number, record in enumerate(records.read_numbers(values, range(len(values)), path)):
        try:
            row = _plain(record, builder.info.features)
        except Exception as error:  # of many kinds, such as a label without a name
            raise records.unusable(path, error) from error
        yield f"{source} record {number}", row


def _plain(value: Any, feature: Any) -> Any:
    """Returns a value of TFDS in Python's types; bytes that are no text stay as they are.

    A Sequence is a list, and a Sequence of dictionaries a dictionary of lists. In TFDS it answers
    for what it holds: both `feature[name]` and `feature.int2str`.
    """
    if isinstance(value, dict):
        return {name: _plain(each, feature[name]) for name, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(each, feature) for each in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if hasattr(feature, "int2str"):  # a ClassLabel
        return None if value == -1 else feature.int2str(value)
    return value
