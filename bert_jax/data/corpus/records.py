"""Documents in records: a column of Parquet files, a field of a dataset of TFDS.

The libraries that read them are large and few runs need them: they are imported when such a source
is opened.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from bert_jax.data.corpus import documents
from bert_jax.data.corpus.documents import (
    Document,
    FileSource,
    Layout,
    Piece,
    Source,
    Span,
    fold,
    folded_lines,
    refuse_nul,
)
from bert_jax.errors import UserError

_BATCH_ROWS = 256  # read at a time
TFDS_FORMAT = "array_record"  # of the files of TFDS: records by number, without TensorFlow


def _document(value: Any, place: str, field: str) -> Document:
    """Makes a document of the value of a record, which is text or its bytes.

    Raises:
      UserError: for a value that is not text.
    """
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise _not_utf8(place, field) from error
    if not isinstance(value, str):
        kind = "null" if value is None else f"of type {type(value).__name__}"
        raise UserError(f"{place}: field '{field}' is {kind}: it must be text")
    if len(value) >= documents.MAX_DOCUMENT_BYTES:
        raise documents.too_long(place)
    refuse_nul(value, place)
    return Document(place, folded_lines(value))


def _not_utf8(place: str, field: str) -> UserError:
    return UserError(f"{place}: field '{field}' is not UTF-8: write it as text")


class ParquetFiles(FileSource):
    """Documents that are the values of a column of text. A span counts row groups."""

    def __init__(self, paths: Iterable[str], field: str, layout: Layout) -> None:
        """Groups the row groups of files into pieces.

        Raises:
          UserError: for a file that is not Parquet, or has no such column of text.
        """
        self.layout = layout
        self._field = field
        self.pieces = documents.make_pieces(part for path in paths for part in self._parts(path))

    def _parts(self, path: str) -> Iterator[tuple[Span, int]]:
        import pyarrow

        with _parquet(path) as file:
            names = file.schema_arrow.names
            if names.count(self._field) != 1:
                raise UserError(
                    f"{path} has {names.count(self._field)} columns '{self._field}', not one:"
                    f" its columns are {', '.join(names) or 'none'}"
                )
            kind = file.schema_arrow.field(self._field).type
            plain = kind.value_type if isinstance(kind, pyarrow.DictionaryType) else kind
            if plain not in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
                raise UserError(f"{path}: column '{self._field}' is {kind}: it must be a string")
            if file.metadata.num_rows == 0:
                raise UserError(f"{path} has no rows: leave it out of the source")
            for group in range(file.num_row_groups):
                # Of all columns: where a damaged file does not describe one of them as it should,
                # to ask for that column's size alone ends the process.
                yield Span(path, group, group + 1), file.metadata.row_group(group).total_byte_size

    def _read(self, span: Span) -> Iterator[Document]:
        with _parquet(span.path) as file:
            groups = range(span.begin, min(span.end, file.num_row_groups))
            row = sum(file.metadata.row_group(group).num_rows for group in range(span.begin))
            batches = file.iter_batches(
                _BATCH_ROWS, row_groups=groups, columns=[self._field], use_threads=False
            )
            for batch in batches:
                for value in batch.column(0):
                    place = f"{span.path} row {row}"
                    try:
                        text = value.as_py()
                    except UnicodeDecodeError as error:
                        raise _not_utf8(place, self._field) from error
                    yield _document(text, place, self._field)
                    row += 1


@contextlib.contextmanager
def _parquet(path: str) -> Iterator[Any]:
    """Opens a Parquet file, and tells what goes wrong with it."""
    import pyarrow
    from pyarrow import parquet

    try:
        with (
            open(path, "rb") as stored,
            parquet.ParquetFile(
                stored, buffer_size=1 << 20, page_checksum_verification=True
            ) as file,
        ):
            yield file
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise documents.unreadable(path, error) from error
        raise UserError(
            f"{path} is not Parquet, damaged or cut short ({fold(str(error))}):"
            " copy or write it again"
        ) from error


class TfdsRecords(Source):
    """Documents that are a text feature of a split of a prepared TFDS dataset.

    A span counts the records of one of its files.
    """

    def __init__(self, name: str, split: str, field: str, layout: Layout) -> None:
        """Looks a dataset up, as NAME[/CONFIG][:VERSION], where TFDS keeps them.

        Raises:
          UserError: for a dataset that is not there or not stored as array_record, and for a split
            or a feature of text that it does not have.
        """
        builder = open_dataset(name, split)
        self.layout = layout
        self._field = field
        self._split = split
        self._directory = str(builder.data_path)
        _refuse_no_text(builder, name, field)
        self.pieces = documents.make_pieces(
            part
            for file in builder.info.splits[split].file_instructions
            for part in documents.cut(
                Span(file.filename, file.skip, file.skip + file.take),
                _size(file.filename) * file.take // file.examples_in_shard,
            )
        )

    def _documents(self, piece: Piece) -> Iterator[Document]:
        from tensorflow_datasets.core import read_only_builder

        for span in piece.spans:
            try:
                builder: Any = read_only_builder.builder_from_directory(self._directory)
                values = builder.as_data_source(self._split, file_format=TFDS_FORMAT)
                first = _number(builder.info.splits[self._split].file_instructions, span)
            except Exception as error:
                raise unusable(self._directory, error) from error
            numbers = range(first, first + span.end - span.begin)
            for row, record in enumerate(read_numbers(values, numbers, span.path), span.begin):
                yield _document(record[self._field], f"{span.path} record {row}", self._field)


def read_numbers(values: Any, numbers: range, path: str) -> Iterator[Any]:
    """Yields records by their numbers, reading some at a time.

    Args:
      values: what a builder's `as_data_source` returns.
      numbers: of the records.
      path: what the message of a refusal names.

    Raises:
      UserError: for records that are not what TFDS wrote.
    """
    for begin in range(0, len(numbers), _BATCH_ROWS):
        try:
            batch = values.__getitems__(list(numbers[begin : begin + _BATCH_ROWS]))
        except Exception as error:  # checksums that do not fit, among others
            raise unusable(path, error) from error
        yield from batch


def open_dataset(name: str, split: str) -> Any:
    """Returns the builder of a prepared dataset, which has such a split as array_record.

    Args:
      name: NAME[/CONFIG][:VERSION].
      split: as TFDS has it, "train[:10%]" too.

    Raises:
      UserError: for one that is not there, or not so.
    """
    builder = _prepared(name)
    _refuse_unreadable(builder, name, split)
    return builder


def _prepared(name: str) -> Any:
    """Opens a dataset from its files alone: its own code may need the network, or TensorFlow."""
    from tensorflow_datasets.core import read_only_builder, registered
    from tensorflow_datasets.core.utils import file_utils

    try:
        return read_only_builder.builder_from_files(name)
    except registered.DatasetNotFoundError as error:
        folders = ", ".join(map(str, file_utils.list_data_dirs()))
        raise UserError(
            f"TFDS dataset '{name}' is not prepared in {folders}: run {_build(name)}, or say in the"
            " environment variable TFDS_DATA_DIR where it is"
        ) from error
    except Exception as error:  # of many kinds, for files that are not what TFDS wrote
        raise unusable(f"TFDS dataset '{name}'", error) from error


def _build(name: str) -> str:
    return f"`tfds build {name} --file_format={TFDS_FORMAT}`"


def _refuse_unreadable(builder: Any, name: str, split: str) -> None:
    formats = sorted(kind.value for kind in builder.info.available_file_formats())
    if TFDS_FORMAT not in formats:
        raise UserError(
            f"{builder.data_path} is stored as {' and '.join(formats)}, not as {TFDS_FORMAT}:"
            f" run {_build(name)} with another TFDS_DATA_DIR, or `tfds convert_format"
            f" --dataset_version_dir={builder.data_path} --out_file_format={TFDS_FORMAT}`"
        )
    try:
        builder.as_data_source(split, file_format=TFDS_FORMAT)
    except ValueError as error:
        raise UserError(
            f"TFDS dataset '{name}' has no records in a split '{split}': its splits are"
            f" {', '.join(builder.info.splits)}"
        ) from error


def _refuse_no_text(builder: Any, name: str, field: str) -> None:
    features = builder.info.features
    if field not in features:
        raise UserError(
            f"TFDS dataset '{name}' has no feature '{field}': its features are"
            f" {', '.join(sorted(features))}"
        )
    if features[field].shape != () or features[field].np_dtype != np.object_:
        raise UserError(
            f"TFDS dataset '{name}': feature '{field}' is {features[field]}: it must be text"
        )


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError as error:
        raise documents.unreadable(path, error) from error


def _number(instructions: Iterable[Any], span: Span) -> int:
    """Returns the number in its split of the first record of a span."""
    number = 0
    for file in instructions:
        if file.filename == span.path and file.skip <= span.begin < file.skip + file.take:
            return number + span.begin - file.skip
        number += file.take
    raise ValueError(f"{span.path} is no longer part of it")


def unusable(path: str, error: Exception) -> UserError:
    """Makes the refusal of files that are not what TFDS wrote."""
    return UserError(f"{path} is damaged or cut short ({fold(str(error))}): build or copy it again")
