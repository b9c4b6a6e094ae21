"""Paths of checkpoints, of which Orbax and TensorStore take every character literally."""

import os
import pathlib
from collections.abc import Iterator
from typing import Self

from etils.epath import gpath

from bert_jax.errors import UserError


class LiteralPath(gpath.PosixGPath):
    """A local path in which no character has a meaning.

    Orbax works with epath's paths. Theirs would list a directory by a pattern of its whole path, so
    that `runs[1]` lists `runs1`, and take /gs/ or /hf/ at the beginning for an object store.
    """

    @property
    def _uri_scheme(self) -> None:
        return None

    def glob(self, pattern: str) -> Iterator[Self]:
        """Yields the paths below this directory that match a pattern."""
        return map(self._new, pathlib.Path(os.fspath(self)).glob(pattern))


def literal_path(directory: str | os.PathLike[str]) -> LiteralPath:
    """Returns the absolute path of a directory that has, or will have, checkpoints.

    Raises:
      UserError: if TensorStore, which writes the arrays, would write them elsewhere.
    """
    path = pathlib.Path(directory).absolute()
    try:
        is_utf8 = os.fsencode(path) == str(path).encode()
    except UnicodeEncodeError:
        is_utf8 = False
    if not is_utf8:
        raise UserError(f"{path} cannot have checkpoints: name a directory in UTF-8")
    for text in ("\\", "gs:/"):
        if text in f"{path}/":
            raise UserError(
                f"{path} cannot have checkpoints, since {text} has a meaning for TensorStore, which"
                " writes them: name a directory without it"
            )
    return LiteralPath(path)
