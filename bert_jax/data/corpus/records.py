"""Sources of documents in records: a column of Parquet files, a feature of a TFDS dataset.

The libraries that read them are large and few runs need them, so they are imported when such a
source is opened.
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
TFDS_FORMAT = "array_record"  # the file format that TFDS reads by index, without TensorFlow


def _document(value: Any, location: str, field: str) -> Document:
    """Makes a document from the value of a field: text, or text in UTF-8.

    Raises:
      UserError: if the value is not text.
    """
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise _not_utf8(location, field) from error
    if not isinstance(value, str):
        kind = "null" if value is None else f"of type {type(value).__name__}"
        raise UserError(f"{location}: field '{field}' is {kind}: write text")
    if len(value) >= documents.MAX_DOCUMENT_BYTES:
        raise documents.too_long(location)
    refuse_nul(value, location)
    return Document(location, folded_lines(value))


def _not_utf8(location: str, field: str) -> UserError:
    return UserError(f"{location}: field '{field}' is not UTF-8: convert it to UTF-8")


class ParquetFiles(FileSource):
    """Parquet files; the values of a column are documents. A span counts row groups."""

    def __init__(self, paths: Iterable[str], field: str, layout: Layout) -> None:
        """Divides the row groups of files into pieces.

        Raises:
          UserError: if a file is not Parquet, or has no such column of text.
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
                raise UserError(f"{path}: column '{self._field}' is {kind}: write strings")
            if file.metadata.num_rows == 0:
                raise UserError(f"{path} has no rows: leave it out of the source")
            for group in range(file.num_row_groups):
                # The size of all columns: asking for that of one column ends the process if the
                # metadata of a damaged file lacks it.
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
                    location = f"{span.path} row {row}"
                    try:
                        text = value.as_py()
                    except UnicodeDecodeError as error:
                        raise _not_utf8(location, self._field) from error
                    yield _document(text, location, self._field)
                    row += 1


@contextlib.contextmanager
def _parquet(path: str) -> Iterator[Any]:
    """Opens a Parquet file; raises UserError for its faults."""
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
            f"{path} is not Parquet, damaged or incomplete ({fold(str(error))}):"
            " copy or write it again"
        ) from error


class TfdsRecords(Source):
    """A split of a prepared TFDS dataset; the values of a text feature are documents.

    A span counts the records of one file.
    """

    def __init__(self, name: str, split: str, field: str, layout: Layout) -> None:
        """Opens a dataset by its NAME[/CONFIG][:VERSION], in the directories of TFDS.

        Raises:
          UserError: if the dataset does not exist, is not stored as array_record, or has no such
            split or text feature.
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
    """Yields records by their indices, reading some at a time.

    Args:
      values: from `as_data_source` of a builder.
      numbers: indices of the records.
      path: names the dataset in error messages.

    Raises:
      UserError: if records are damaged.
    """
    for begin in range(0, len(numbers), _BATCH_ROWS):
        try:
            batch = values.__getitems__(list(numbers[begin : begin + _BATCH_ROWS]))
        except Exception as error:  # wrong checksums, among others
            raise unusable(path, error) from error
        yield from batch


def open_dataset(name: str, split: str) -> Any:
    """Returns the builder of a prepared dataset.

    Args:
      name: NAME[/CONFIG][:VERSION].
      split: in the syntax of TFDS, such as "train[:10%]".

    Raises:
      UserError: if it does not exist, is not stored as array_record, or has no such split.
    """
    builder = _prepared(name)
    _refuse_unreadable(builder, name, split)
    return builder


def _prepared(name: str) -> Any:
    """Opens a dataset from its files; its builder's code may need the network or TensorFlow."""
    from tensorflow_datasets.core import read_only_builder, registered
    from tensorflow_datasets.core.utils import file_utils

    try:
        return read_only_builder.builder_from_files(name)
    except registered.DatasetNotFoundError as error:
        folders = ", ".join(map(str, file_utils.list_data_dirs()))
        raise UserError(
            f"TFDS dataset '{name}' is not prepared in {folders}: run {_build(name)}, or set the"
            " environment variable TFDS_DATA_DIR to its directory"
        ) from error
    except Exception as error:  # of many kinds, where files are damaged
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
            f"TFDS dataset '{name}' has no records in a split '{split}': choose one of"
            f" {', '.join(builder.info.splits)}"
        ) from error


def _refuse_no_text(builder: Any, name: str, field: str) -> None:
    features = builder.info.features
    if field not in features:
        raise UserError(
            f"TFDS dataset '{name}' has no feature '{field}': choose one of"
            f" {', '.join(sorted(features))}"
        )
    if features[field].shape != () or features[field].np_dtype != np.object_:
        raise UserError(
            f"TFDS dataset '{name}': feature '{field}' is {features[field]}: choose a text feature"
        )


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError as error:
        raise documents.unreadable(path, error) from error


def _number(instructions: Iterable[Any], span: Span) -> int:
    """Returns the index, in its split, of the first record of a span."""
    number = 0
    for file in instructions:
        if file.filename == span.path and file.skip <= span.begin < file.skip + file.take:
            return number + span.begin - file.skip
        number += file.take
    raise ValueError(f"{span.path} is no longer part of it")


def unusable(path: str, error: Exception) -> UserError:
    """Returns the error for damaged files of a TFDS dataset."""
    return UserError(
        f"{path} is damaged or incomplete ({fold(str(error))}): build or copy it again"
    )
