"""Standard output and error of a driver: UTF-8, and not its end when a reader leaves."""

import codecs
import io
import os
import sys
from typing import Any

_ERRORS = "bytes_or_escapes"


def _bytes_or_escapes(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encodes the surrogates that stand for a file name's bytes, and shows others as escapes."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


codecs.register_error(_ERRORS, _bytes_or_escapes)


class Stream:
    """A text stream that goes on when its reader, such as `head`, has left; the rest is dropped.

    Attributes:
      reader_left: True since then.
    """

    def __init__(self, stream: io.TextIOWrapper) -> None:
        """Writes UTF-8 whatever the locale; names of files that are not UTF-8 as they are."""
        stream.reconfigure(encoding="utf-8", errors=_ERRORS)
        self._stream = stream
        self.reader_left = False

    def write(self, text: str) -> int:
        """Writes text; returns the number of its characters."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Flushes what is buffered."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        self.reader_left = True
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        """Returns any other attribute of the stream."""
        return getattr(self._stream, name)


def open_streams() -> None:
    """Replaces `sys.stdout` and `sys.stderr`, where they are streams of the process."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w")  # the process may have none
        if isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, Stream(stream))


def answer(text: str) -> None:
    """Prints one of many results at once.

    Raises:
      BrokenPipeError: if the reader has left, so that more need not be computed.
    """
    print(text, flush=True)
    if getattr(sys.stdout, "reader_left", False):
        raise BrokenPipeError
