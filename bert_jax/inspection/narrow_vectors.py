"""Vectors in fewer bytes: float16, or int8 codes with the range of each dimension.

The ranges are those of a sample, fixed once and stored beside the vectors; whatever is compared
with these vectors is coded by the same ranges. Scores are computed on values, never on codes.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterable

import numpy as np

from bert_jax.errors import UserError
from bert_jax.files import read_json, write_atomically
from bert_jax.inspection.choices import VectorType

_CODES = 256  # of int8, from -128


@dataclasses.dataclass(frozen=True)
class Ranges:
    """The range of each dimension of int8 vectors.

    Attributes:
      low: [D] float32, the value of code -128.
      high: [D] float32, the value of code 127; where it equals `low`, all codes are -128.
      sample: name of the texts that fixed the ranges.
      count: of these texts.
    """

    low: np.ndarray
    high: np.ndarray
    sample: str
    count: int

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Returns the nearest codes, [..., D] int8; values beyond the range get its end."""
        step = self._step()
        places = (vectors.astype(np.float32) - self.low) / np.where(step > 0, step, 1)
        places = np.where(step > 0, np.rint(places), 0)
        return (np.clip(places, 0, _CODES - 1) - _CODES // 2).astype(np.int8)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Returns the values of codes, [..., D] float32."""
        return self.low + (codes.astype(np.float32) + _CODES // 2) * self._step()

    def _step(self) -> np.ndarray:
        return (self.high - self.low) / np.float32(_CODES - 1)

    def save(self, path: pathlib.Path) -> None:
        """Writes the ranges as JSON; `load_ranges` reads them."""
        values = {"sample": self.sample, "count": self.count}
        sides = {"low": self.low.tolist(), "high": self.high.tolist()}
        write_atomically(path, json.dumps(values | sides).encode())


def ranges_of(blocks: Iterable[np.ndarray], sample: str) -> Ranges:
    """Returns the ranges of the vectors of a sample.

    Args:
      blocks: [n, D] float32 each, at least one.
      sample: its name.
    """
    low = high = None
    count = 0
    for block in blocks:
        least, most = block.min(axis=0), block.max(axis=0)
        low = least if low is None else np.minimum(low, least)
        high = most if high is None else np.maximum(high, most)
        count += len(block)
    assert low is not None and high is not None
    return Ranges(low, high, sample, count)


def load_ranges(path: pathlib.Path) -> Ranges:
    """Reads ranges that `Ranges.save` wrote.

    Raises:
      UserError: if the file is damaged.
    """
    values = read_json(path)
    try:
        low, high = (np.array(values[side], np.float32) for side in ("low", "high"))
        if low.ndim != 1 or low.shape != high.shape or not np.all((low <= high) & (high < np.inf)):
            raise ValueError
        return Ranges(low, high, str(values["sample"]), int(values["count"]))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} has no ranges of vectors: write the vectors again") from None


def ranges_path(vectors: pathlib.Path) -> pathlib.Path:
    """Returns the path of the ranges beside a file of int8 vectors."""
    return vectors.with_name(f"{vectors.name}.ranges.json")


def narrowed(vectors: np.ndarray, kind: VectorType, ranges: Ranges | None) -> np.ndarray:
    """Returns vectors in the bytes of a type.

    Args:
      vectors: [n, D] float32.
      kind: of the result.
      ranges: of int8.

    Raises:
      UserError: if a value is beyond float16.
    """
    if kind is VectorType.INT8:
        assert ranges is not None
        return ranges.encode(vectors)
    with np.errstate(over="ignore"):
        narrow = vectors.astype(kind.value)
    if not np.isfinite(narrow).all():
        most = np.abs(vectors).max()
        raise UserError(f"--dtype={kind.value}: a vector has the value {most:g}: use float32")
    return narrow


@dataclasses.dataclass(frozen=True)
class StoredVectors:
    """Vectors as they are kept, in memory or in a file that is mapped into it.

    Attributes:
      kept: [N, D] float32 or float16, or int8 codes.
      ranges: of the codes.
      normalised: True divides the values of each by their length; zeros stay zeros.
    """

    kept: np.ndarray
    ranges: Ranges | None = None
    normalised: bool = False

    def __len__(self) -> int:
        """Number of vectors, N."""
        return len(self.kept)

    @property
    def width(self) -> int:
        """D."""
        return self.kept.shape[1]

    def values(self, chosen: slice | np.ndarray) -> np.ndarray:
        """Returns the values of some vectors, [n, D] float32."""
        part = self.kept[chosen]
        found = self.ranges.decode(part) if self.ranges else part.astype(np.float32)
        if not self.normalised:
            return found
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        return found / np.where(lengths > 0, lengths, 1)


def open_vectors(path: pathlib.Path) -> StoredVectors:
    """Maps a .npy of vectors of lines into memory; of int8 with the ranges beside it.

    Raises:
      UserError: if it is no such file, or the ranges are missing or of another width.
    """
    try:
        kept = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError):
        raise UserError(f"{path} is no .npy of numbers: write it by predict --features") from None
    if kept.ndim != 2 or kept.dtype.name not in [kind.value for kind in VectorType]:
        raise UserError(
            f"{path} has {kept.dtype.name} of shape {kept.shape}, not a vector for each line: write"
            " it by predict --features=mean"
        )
    if kept.dtype != np.int8:
        return StoredVectors(kept)
    beside = ranges_path(path)
    if not beside.is_file():
        raise UserError(f"{path} has codes, and their ranges, {beside}, are missing: copy them")
    ranges = load_ranges(beside)
    if len(ranges.low) != kept.shape[1]:
        raise UserError(
            f"{beside} has ranges of {len(ranges.low)} dimensions, and {path} has {kept.shape[1]}:"
            " copy the file that was written with the vectors"
        )
    return StoredVectors(kept, ranges)
