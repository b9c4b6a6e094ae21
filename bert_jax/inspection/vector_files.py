"""Files of vectors of lines of text: a NumPy array or a Parquet table."""

import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bert_jax.errors import UserError
from bert_jax.files import new_file

SUFFIXES = (".npy", ".parquet")

Columns = dict[str, Any]  # n rows: `vector` [n, D] float32, and other columns of length n


def check_output(output: pathlib.Path) -> None:
    """Raises UserError if the file has an unknown suffix, or exists."""
    if output.suffix not in SUFFIXES:
        raise UserError(f"--output={output} must end in {' or '.join(SUFFIXES)}")
    if output.exists():
        raise UserError(f"--output={output} exists: name a new file")


def line_columns(blocks: Iterable[list[np.ndarray]], texts: Sequence[str]) -> Iterator[Columns]:
    """Yields the columns of lines: `line` from 1, `text`, `vector`.

    Args:
      blocks: vectors of some lines at a time, in order, [D] each.
      texts: all lines.
    """
    done = 0
    for vectors in blocks:
        end = done + len(vectors)
        lines = np.arange(done, end) + 1
        yield {"line": lines, "text": texts[done:end], "vector": np.stack(vectors)}
        done = end


def token_columns(
    blocks: Iterable[list[np.ndarray]], ids: Sequence[np.ndarray], pieces: Sequence[str]
) -> Iterator[Columns]:
    """Yields the columns of tokens: `line` from 1, `token_id`, `token`, `vector`.

    Args:
      blocks: vectors of some lines at a time, in order, [tokens, D] each.
      ids: token ids of all lines, [tokens] int32 each.
      pieces: of the vocabulary, by id.
    """
    done = 0
    for vectors in blocks:
        end = done + len(vectors)
        own = ids[done:end]
        lines = np.repeat(np.arange(done, end) + 1, [len(each) for each in own])
        flat = np.concatenate(own)
        tokens = [pieces[id] for id in flat]
        yield {"line": lines, "token_id": flat, "token": tokens, "vector": np.concatenate(vectors)}
        done = end


def write_vectors(output: pathlib.Path, columns: Iterable[Columns], rows: int) -> None:
    """Writes rows as they come; the file is whole or absent.

    Args:
      output: a .parquet gets all columns. A .npy gets [rows, D] float32 for lines; for tokens
        [rows] records with the fields `line`, `token_id` and `vector`.
      columns: some rows at a time, at least once.
      rows: number of all rows.
    """
    write = _write_npy if output.suffix == ".npy" else _write_parquet
    with new_file(output) as made:
        write(made, columns, rows)


def _write_npy(path: pathlib.Path, columns: Iterable[Columns], rows: int) -> None:
    array, done = None, 0
    for some in columns:
        if array is None:
            width = some["vector"].shape[1]
            fields = [("line", np.int64), ("token_id", np.int32), ("vector", np.float32, (width,))]
            dtype, shape = (fields, (rows,)) if "token_id" in some else (np.float32, (rows, width))
            array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
        part = array[done : done + len(some["line"])]
        if array.dtype.names:
            for name in array.dtype.names:
                part[name] = some[name]
        else:
            part[:] = some["vector"]
        done += len(part)
    assert array is not None and done == rows
    array.flush()


def _write_parquet(path: pathlib.Path, columns: Iterable[Columns], rows: int) -> None:
    del rows
    writer = None
    for some in columns:
        flat, width = pa.array(some["vector"].reshape(-1)), some["vector"].shape[1]
        vectors = pa.FixedSizeListArray.from_arrays(flat, width)
        table = pa.table(some | {"vector": vectors})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()
