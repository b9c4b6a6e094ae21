r"""Reads rows of labelled data: tab-separated, comma-separated, JSON lines, records of TFDS.

Every row comes with its location for messages: "dev.tsv:17", "tfds:glue/sst2:train record 16".
"""

import csv
import json
import math
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bert_jax.data.corpus import records
from bert_jax.data.tasks.bad_rows import BadRow, BadRows
from bert_jax.data.tasks.labels import clean_label, is_blank
from bert_jax.errors import UserError
from bert_jax.files import exists, given_path, strict_json

Row = dict[str, object]  # column -> value

_TFDS_PREFIX = "tfds:"
_TFDS = re.compile(r"tfds:(\w+(?:/[\w.+-]+)?(?::\d+\.\d+\.\d+)?):(.+)")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_LONGEST_CELL = 2**31 - 1  # characters; the most that every platform takes
_SHOWN_LENGTH = 60  # characters of a value in a message


def read_rows(source: str, *, header: bool, bad: BadRows) -> Iterator[tuple[str, Row]]:
    """Reads a table, a row at a time.

    Args:
      source: a .tsv or .txt (tabs, no quoting), .csv or .jsonl file, or
        tfds:NAME[/CONFIG][:VERSION]:SPLIT, a dataset that TFDS has prepared as array_record.
      header: True if the first line of a file with columns names them; False names them "0", "1"
        and so on.
      bad: takes the rows with another number of columns than the first line.

    Returns:
      (location, column -> value) of each row. Values of .tsv and .csv files are text; those of JSON
      have their own types; those of TFDS are text for bytes, names for class labels (None for -1,
      which means no label) and lists for arrays.

    Raises:
      UserError: while reading, if the source cannot be read or is not what its name says.
    """
    if has_records(source):
        return read_records(source)
    suffix = pathlib.Path(source).suffix
    if suffix in (".tsv", ".txt"):
        return _named(_tab_separated(source), header, bad)
    if suffix == ".csv":
        return _named(read_comma_separated(source), header, bad)
    raise UserError(
        f"{source}: the name must end in .tsv, .txt, .csv, .jsonl, or be tfds:NAME[/CONFIG]:SPLIT"
    )


def has_records(source: str) -> bool:
    """Returns True for sources whose values have names and types: JSON lines, TFDS."""
    return is_tfds(source) or pathlib.Path(source).suffix == ".jsonl"


def is_tfds(source: str) -> bool:
    """Returns True for a dataset of TFDS; a file of such a name is a file."""
    return source.startswith(_TFDS_PREFIX) and not exists(source)


def read_records(source: str) -> Iterator[tuple[str, Row]]:
    """Reads a source with `has_records`; see `read_rows`."""
    return _tfds(source) if is_tfds(source) else _json_lines(source)


def read_lines(path: str) -> Iterator[tuple[str, str]]:
    r"""Yields (path:line, text) of a UTF-8 file, without line breaks and byte order mark.

    Lines end in "\n" or "\r\n" only; other line separators of Unicode, and NUL, may occur in a
    text.

    Raises:
      UserError: if the file cannot be read or is not UTF-8.
    """
    try:
        with given_path(path).open("rb") as file:
            begin = 0
            for number, stored in enumerate(file, start=1):
                try:
                    line = stored.decode()
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{path} is not UTF-8 at byte {begin + error.start} in line {number}:"
                        " convert the file to UTF-8"
                    ) from None
                begin += len(stored)
                if number == 1:
                    if "\0" in line[:4]:  # UTF-16 without a byte order mark
                        raise UserError(f"{path} is UTF-16 or UTF-32: convert the file to UTF-8")
                    line = line.removeprefix("\ufeff")
                yield f"{path}:{number}", line.removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def parse_json(text: str, location: str) -> Any:
    """Parses JSON; raises UserError if it is not JSON or has half of a surrogate pair."""
    try:
        return strict_json(text)
    except UnicodeEncodeError:
        raise UserError(f"{location} has half of a surrogate pair: write both halves") from None
    except ValueError as error:
        raise UserError(f"{location} is not JSON ({error}): correct it") from None


def column(row: Row, names: str, location: str, flag: str) -> object:
    """Returns the value of a column.

    Args:
      row: the columns and values.
      names: of the column; or alternatives, such as "sentence|3", of which the first that the row
        has is used, since a task may have other column names in files than in TFDS.
      location: of the row.
      flag: the field of `config.data` with these names, or a command's --FLAG, for messages.

    Raises:
      UserError: if the row has none of them.
    """
    return row[_found(row, names, location, flag)]


def text_value(row: Row, names: str, location: str, flag: str) -> str:
    """Returns the value of a column as text, stripped; the arguments are those of `column`.

    Raises:
      BadRow: if the text is empty or missing.
      UserError: if the row has no such column, or the value is not text.
    """
    name = _found(row, names, location, flag)
    if is_missing(row[name]):
        raise BadRow(
            location, f"empty {name!r}", f"has an empty {name!r}: fill it in, or remove the row"
        )
    text = as_text(row[name])
    if text is None:
        raise UserError(f"{location} has {shown(row[name])} in {name!r}: write text")
    return text.strip()


def label_value(row: Row, names: str, location: str, flag: str) -> str:
    """Returns the value of a column as a label; the arguments are those of `column`.

    Raises:
      BadRow: if it is empty or missing.
      UserError: if the row has no such column, or the value is not text.
    """
    name = _found(row, names, location, flag)
    if is_missing(row[name]):
        raise no_label(location, shown(row[name]), name)
    return clean_label(text_value(row, names, location, flag))


def no_label(location: str, value: str, name: str) -> BadRow:
    """Returns the error of a row without a gold label."""
    problem = f"has no gold label ({value} in {name!r}): write one, or remove the row"
    return BadRow(location, "no gold label", problem)


def number_value(row: Row, names: str, location: str, flag: str) -> float:
    """Returns the value of a column as a finite number; the arguments are those of `column`.

    Raises:
      BadRow: if the value is missing or not a number.
      UserError: if the row has no such column.
    """
    name = _found(row, names, location, flag)
    value = row[name]
    text = (as_text(value) or "").strip()
    if is_missing(value) or text == "-":
        raise no_label(location, shown(value), name)
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number):
        problem = f"has {shown(value)} in {name!r}: write a number, such as 3.5"
        raise BadRow(location, f"no number in {name!r}", problem)
    return number


def is_missing(value: object) -> bool:
    """Returns True for null, NaN (as tables of numbers write null) and text without a character."""
    if isinstance(value, str):
        return is_blank(value)
    return value is None or (isinstance(value, float) and math.isnan(value))


def as_text(value: object) -> str | None:
    """Returns text unchanged, numbers and booleans as in JSON, and None for other values."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return json.dumps(value)
    return None


def shown(value: object) -> str:
    """Formats a value for a message: in one line, shortened if long."""
    text = repr(value)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}..."


def listed(row: Row) -> str:
    """Formats the column names of a row for a message."""
    return ", ".join(map(repr, row)) or "none"


def _found(row: Row, names: str, location: str, flag: str) -> str:
    alternatives = names.split("|")
    for name in alternatives:
        if name in row:
            return name
    unlabelled = (
        " (texts without labels are for bert_jax.predict)" if flag == "label_column" else ""
    )
    raise UserError(
        f"{location} has no column {' or '.join(map(repr, alternatives))}: it has {listed(row)};"
        f" set {flag if flag.startswith('--') else f'--config.data.{flag}'}{unlabelled}"
    )


def _named(
    rows: Iterator[tuple[str, list[str]]], header: bool, bad: BadRows
) -> Iterator[tuple[str, Row]]:
    """Adds the column names to the values of each line; skips blank lines."""
    names: list[str] = []
    for location, values in rows:
        if values in ([], [""]):
            continue
        if not names:
            names = values if header else [str(number) for number in range(len(values))]
            _refuse_twice(names, location)
            if header:
                continue
        if header and (again := repeated_header(location, values, names)):
            bad.add(again)
            continue
        if len(values) != len(names):
            problem = (
                f"has {len(values)} columns, but the first line has {len(names)}: write the same"
                " number in every line"
            )
            bad.add(BadRow(location, "wrong number of columns", problem))
            continue
        yield location, dict(zip(names, values, strict=True))


def repeated_header(location: str, values: Sequence[str], names: Sequence[str]) -> BadRow | None:
    """Returns the error of a line that is the file's header once more; None for any other line."""
    if [values[0].removeprefix("\ufeff"), *values[1:]] != [*names]:
        return None
    problem = "names the columns again, as joined files do: remove it"
    return BadRow(location, "repeated header", problem)


def _refuse_twice(names: list[str], location: str) -> None:
    for name in names:
        if name and names.count(name) > 1:  # several columns may have no name
            raise UserError(f"{location} names the column {name!r} twice: rename one of them")


def _tab_separated(path: str) -> Iterator[tuple[str, list[str]]]:
    for location, line in read_lines(path):
        yield location, line.split("\t")


def read_comma_separated(path: str) -> Iterator[tuple[str, list[str]]]:
    """Yields (location of the first line, values) of a CSV file; a value may have line breaks.

    Raises:
      UserError: if the file cannot be read, or is not CSV.
    """
    csv.field_size_limit(_LONGEST_CELL)  # of the process; by default 131,072
    reader = csv.reader((f"{line}\n" for _, line in read_lines(path)), strict=True)
    while True:
        location = f"{path}:{reader.line_num + 1}"
        try:
            values = next(reader, None)
        except csv.Error as error:
            raise UserError(
                f"{location} is not CSV ({error}): put values into quotes, and double the quotes in"
                " them"
            ) from None
        if values is None:
            return
        yield location, values


def _json_lines(path: str) -> Iterator[tuple[str, Row]]:
    for location, line in read_lines(path):
        if line.strip():
            row = parse_json(line, location)
            if not isinstance(row, dict):
                raise UserError(f"{location} is not a JSON object: write {{...}} in every line")
            yield location, row


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
        except Exception as error:  # of many kinds, such as a class label without a name
            raise records.unusable(path, error) from error
        yield f"{source} record {number}", row


def _plain(value: Any, feature: Any) -> Any:
    """Converts a value of TFDS to Python's types; bytes that are not UTF-8 stay bytes.

    A Sequence is a list, and a Sequence of dictionaries a dictionary of lists. The Sequence feature
    of TFDS forwards `feature[name]` and `feature.int2str` to the feature of its items.
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
