"""Readers of text and JSON lines that take a whole file at once, to compare with."""

import json
from pathlib import Path

from bert_jax.data.documents import Document, Layout


def read_text(path: Path, content: bytes, layout: Layout) -> list[Document]:
    """Returns the documents of a file with that content.

    Raises:
      ValueError: for bytes that are not text.
    """
    found, lines, first, place = [], [], 0, 0
    for raw in content.split(b"\n"):
        words = _text(raw, place).split()
        if words and not lines:
            first = place
        if words:
            lines.append(" ".join(words))
        if lines and (not words or layout is Layout.DOCUMENTS):
            found.append(Document(f"{path} byte {first}", lines))
            lines = []
        place += len(raw) + 1
    return [*found, Document(f"{path} byte {first}", lines)] if lines else found


def read_json(path: Path, content: bytes) -> list[Document]:
    """Returns the documents in the field "text" of a file with that content.

    Raises:
      ValueError: for lines that are not objects with such a text.
    """
    found, place = [], 0
    for raw in content.split(b"\n"):
        line = _text(raw, place)
        if line.strip():
            record = json.loads(line)
            text = record.get("text") if isinstance(record, dict) else None
            if not isinstance(text, str) or "\0" in text:
                raise ValueError("no text")
            text.encode()  # refuses half a surrogate pair
            lines = [" ".join(part.split()) for part in text.split("\n") if part.strip()]
            found.append(Document(f"{path} byte {place}", lines))
        place += len(raw) + 1
    return found


def _text(raw: bytes, place: int) -> str:
    text = raw.decode()
    if "\0" in text:
        raise ValueError("NUL")
    return text.removeprefix("\ufeff") if place == 0 else text
