"""Files of vectors of lines of text: a NumPy array or a Parquet table."""

import io
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bert_jax.errors import UserError
from bert_jax.files import new_file
from bert_jax.inspection.choices import VectorType
from bert_jax.inspection.line_vectors import LineBlock
from bert_jax.inspection.narrow_vectors import Ranges, narrowed, ranges_path

SUFFIXES = (".npy", ".parquet")

Columns = dict[str, Any]  # n rows: `vector` [n, D], and other columns of length n


def check_output(output: pathlib.Path) -> None:
    """Raises UserError if the file has an unknown suffix, or exists, or its ranges do."""
    if output.suffix not in SUFFIXES:
        raise UserError(f"--output={output} must end in {' or '.join(SUFFIXES)}")
    for path in (output, ranges_path(output)):
        if path.exists():
            raise UserError(f"--output={output}: {path} exists: name a new file")


def line_columns(blocks: Iterable[LineBlock]) -> Iterator[Columns]:
    """Yields the columns of lines: `line` from 1, `text`, `vector` float32."""
    done = 0
    for block in blocks:
        lines = np.arange(done, done + len(block.lines)) + 1
        texts = ["\t".join(filter(None, pair)) for pair in block.lines]
        yield {"line": lines, "text": texts, "vector": np.stack(block.vectors)}
        done += len(block.lines)


def token_columns(blocks: Iterable[LineBlock], pieces: Sequence[str]) -> Iterator[Columns]:
    """Yields the columns of tokens: `line` from 1, `token_id`, `token`, `vector` float32.

    Args:
      blocks: some lines at a time, with the vectors of their tokens.
      pieces: of the vocabulary, by id.
    """
    done = 0
    for block in blocks:
        sizes = [len(each) for each in block.ids]
        lines = np.repeat(np.arange(done, done + len(sizes)) + 1, sizes)
        ids, vectors = np.concatenate(block.ids), np.concatenate(block.vectors)
        tokens = [pieces[id] for id in ids]
        yield {"line": lines, "token_id": ids, "token": tokens, "vector": vectors}
        done += len(sizes)


def write_vectors(
    output: pathlib.Path,
    columns: Iterable[Columns],
    kind: VectorType = VectorType.FLOAT32,
    ranges: Ranges | None = None,
) -> tuple[int, int]:
    """Writes rows as they come; the file is whole or absent, and so are its ranges.

    Args:
      output: a .parquet gets all columns. A .npy gets [rows, D] for lines; for tokens [rows]
        records with the fields `line`, `token_id` and `vector`.
      columns: some rows at a time, at least once.
      kind: of the numbers that are written.
      ranges: of int8; they are written beside the file.

    Returns:
      The number of rows, and D.

    Raises:
      UserError: if a value is beyond float16.
    """
    write = _write_npy if output.suffix == ".npy" else _write_parquet
    narrow = (some | {"vector": narrowed(some["vector"], kind, ranges)} for some in columns)
    with new_file(output) as made:
        shape = write(made, narrow)
        if ranges:
            ranges.save(ranges_path(output))
    return shape


def _write_npy(path: pathlib.Path, columns: Iterable[Columns]) -> tuple[int, int]:
    rows, width, part = 0, 0, None
    with path.open("wb") as file:
        for some in columns:
            part, width = _array(some), some["vector"].shape[1]
            if not rows:
                file.write(_header(part, 0))
            file.write(part.data)  # not `tofile`, whose errors do not say that the disk is full
            rows += len(part)
        assert part is not None
        file.seek(0)
        file.write(_header(part, rows))
    return rows, width


def _header(part: np.ndarray, rows: int) -> bytes:
    """Returns the header of a file of `rows`; NumPy gives it one size for any number of them."""
    descr, shape = np.lib.format.dtype_to_descr(part.dtype), (rows, *part.shape[1:])
    values, file = {"descr": descr, "fortran_order": False, "shape": shape}, io.BytesIO()
    np.lib.format.write_array_header_1_0(file, values)
    return file.getvalue()


def _array(some: Columns) -> np.ndarray:
    """Returns the vectors of lines, or the records of tokens."""
    vectors = some["vector"]
    if "token_id" not in some:
        return np.ascontiguousarray(vectors)
    fields = [("line", np.int64), ("token_id", np.int32)]
    fields.append(("vector", vectors.dtype, (vectors.shape[1],)))
    records = np.zeros(len(vectors), np.dtype(fields))
    for name in ("line", "token_id", "vector"):
        records[name] = some[name]
    return records


def _write_parquet(path: pathlib.Path, columns: Iterable[Columns]) -> tuple[int, int]:
    writer, rows, width = None, 0, 0
    for some in columns:
        flat, width = pa.array(some["vector"].reshape(-1)), some["vector"].shape[1]
        vectors = pa.FixedSizeListArray.from_arrays(flat, width)
        table = pa.table(some | {"vector": vectors})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
        rows += len(table)
    assert writer is not None
    writer.close()
    return rows, width
