"""Thousands of damaged files: each gives documents, or one line that says what is wrong."""

import gzip
import io
import itertools
import random
import zlib
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from bert_jax.data.corpus import documents, text_files
from bert_jax.data.corpus.documents import Document, Layout
from bert_jax.data.corpus.sources import open_source
from bert_jax.errors import UserError
from tests.fixtures.damage import damaged
from tests.fixtures.slow_readers import read_json, read_text

_TEXT = (
    "\ufeffOne é.\nTwo.\n\n \u2028\nThree \U0001f600.\r\n\r\n" + "Four five six.\n\n" * 20 + "End."
)
_JSON = "".join(f'{{"id": {n}, "text": "É {n}.\\nTwo. \\ud83d\\ude00"}}\r\n' for n in range(12))


def _read(spec: str, layout: Layout) -> list[Document] | None:
    """Returns the documents, or None if they are refused in one line, as they must be."""
    try:
        source = open_source(spec, layout)
        return list(itertools.chain.from_iterable(map(source.read, source.pieces)))
    except UserError as error:
        assert "\n" not in str(error)
        return None


def _expected(kind: str, path: Path, content: bytes, layout: Layout) -> list[Document] | None:
    """Returns what a slow reader finds; None where it finds a fault, or no text."""
    try:
        found = read_json(path, content) if kind == "jsonl" else read_text(path, content, layout)
    except (ValueError, RecursionError):
        return None
    return found if any(document.lines for document in found) else None


@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_damaged_text_is_read_in_full_or_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(11)
    path, results = tmp_path / "a", Counter()
    for _ in range(700):
        content = damaged((_JSON if kind == "jsonl" else _TEXT).encode(), rng)
        path.write_bytes(content)
        monkeypatch.setattr(documents, "PIECE_BYTES", rng.choice([19, 130, 1 << 24]))
        monkeypatch.setattr(text_files, "_CHUNK_BYTES", rng.choice([1, 7, 1 << 16]))
        layout = rng.choice([Layout.LINES, Layout.DOCUMENTS])
        found = _read(f"{kind}:{path}#text" if kind == "jsonl" else f"text:{path}", layout)
        assert found == _expected(kind, path, content, layout)
        results[found is None] += 1
    assert min(results.values()) > 50 and len(results) == 2


def _decompressed(ending: str, content: bytes) -> bytes | None:
    try:
        if ending == ".gz":
            return gzip.decompress(content)
        return pa.CompressedInputStream(io.BytesIO(content), "zstd").read()
    except (OSError, EOFError, zlib.error):
        return None


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_damaged_compressed_files_are_read_in_full_or_refused(ending: str, tmp_path: Path) -> None:
    rng = random.Random(12)
    results = Counter()
    for kind in itertools.islice(itertools.cycle(["text", "jsonl"]), 500):
        content = (_JSON if kind == "jsonl" else _TEXT).encode()
        if rng.random() < 0.2:  # a text that was damaged before
            content = damaged(content, rng)
        if ending == ".gz":
            stored = gzip.compress(content, mtime=0)
        else:
            stored = pa.compress(content, codec="zstd", asbytes=True)
        if rng.random() < 0.9:
            stored = damaged(stored, rng)
        path = tmp_path / f"a{ending}"
        path.write_bytes(stored)
        found = _read(f"jsonl:{path}#text" if kind == "jsonl" else f"text:{path}", Layout.LINES)
        content = _decompressed(ending, stored)
        assert found == (content and _expected(kind, path, content, Layout.LINES))
        results[found is None] += 1
    assert min(results.values()) > 20 and len(results) == 2


def test_damaged_parquet_is_read_or_refused(tmp_path: Path) -> None:
    rng = random.Random(13)
    path, results = tmp_path / "a.parquet", Counter()
    texts = ["One é.", "Two.\nThree.", "", "long " * 30]
    for _ in range(700):
        rows = rng.choice([3, 40])
        table = pa.table({"id": range(rows), "text": [rng.choice(texts) for _ in range(rows)]})
        parquet.write_table(
            table,
            path,
            row_group_size=rng.choice([2, 20]),
            compression=rng.choice(["none", "snappy", "zstd", "gzip"]),
            use_dictionary=rng.random() < 0.5,
        )
        path.write_bytes(damaged(path.read_bytes(), rng))
        found = _read(f"parquet:{path}#text", Layout.LINES)
        results[found is None] += 1
    assert min(results.values()) > 20 and len(results) == 2
