"""What the drivers share: flags, configs, and errors told in one line."""

import dataclasses
import difflib
import enum
import errno
import os
import re
import signal
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from absl import app, flags, logging

from bert_jax.config import RootConfig, flatten, validate
from bert_jax.errors import UserError

DEBUG = flags.DEFINE_bool("debug", False, "show the traceback of an error")

Config = TypeVar("Config", bound=RootConfig)


def run(main: Callable[[], None], *, config_type: type | None = None) -> None:
    """Runs a driver: parses flags, calls `main`, and turns what the user caused into one line.

    The exit status is 0, 1 after an error, or 130 after ctrl-C.

    Args:
      main: the driver.
      config_type: the root that `--config` must return, to explain a wrong override.
    """
    logging.set_verbosity(logging.ERROR)  # what the libraries log at other levels is not for users

    def parse(argv: Sequence[str]) -> list[str]:
        rest = _parse_flags(list(argv), config_type)
        if len(rest) > 1:
            raise UserError(f"unexpected argument {rest[1]!r}: flags begin with --")
        return rest

    try:
        app.run(lambda _: main(), flags_parser=parse)
    except UserError as error:
        _end(str(error), 1)
    except KeyboardInterrupt:
        _end("stopped", 130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _end(f"no space left for {error.filename or 'the output'}: free some or write elsewhere", 1)


def _end(message: str, status: int) -> None:
    if "--debug" in sys.argv[1:]:
        raise  # noqa: PLE0704  (called while the error is handled)
    print(f"error: {message}" if status == 1 else message, file=sys.stderr)
    sys.exit(status)


class StopRequest:
    """Turns ctrl-C and SIGTERM into a flag for a loop to ask; a second ctrl-C ends at once."""

    def __init__(self) -> None:
        """Nothing is asked for yet."""
        self.requested = False

    def __enter__(self) -> "StopRequest":
        """Installs the handlers."""
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        """Puts the earlier handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


def checked_config(config: Any, config_type: type[Config]) -> Config:
    """Returns the value of the `--config` flag, validated.

    Raises:
      UserError: if the file is missing or returns something else, or a value is impossible.
    """
    if config is None:
        raise UserError(
            "--config is not set: name a recipe, such as --config=configs/pretrain_mini.py"
        )
    if not isinstance(config, config_type):
        try:  # what a missing file gives raises its error when it is touched
            found = type(config.encoder).__name__ and type(config).__name__
        except (OSError, AttributeError) as error:
            raise UserError(f"--config cannot be read: {error}") from None
        raise UserError(
            f"--config returns a {found}, and this driver needs a {config_type.__name__}:"
            " choose another recipe in configs/"
        )
    validate(config)
    return config


def _parse_flags(argv: list[str], config_type: type | None) -> list[str]:
    try:
        if config_type is not None:
            _check_overrides(argv[1:], config_type)
        return flags.FLAGS(argv)
    except flags.Error as error:
        message = str(error).splitlines()[0]
        raise UserError(f"{message.removeprefix('FATAL Flags parsing error: ')}") from None
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise UserError(f"--config: {error}") from None
    except (OSError, ImportError, SyntaxError) as error:
        raise UserError(f"--config cannot be read: {error}") from None


def _check_overrides(arguments: list[str], config_type: type) -> None:
    """Checks `--config.a.b=value` by the dataclasses; ml_collections' errors name too little."""
    for position, argument in enumerate(arguments):
        match = re.fullmatch(r"--?config\.([^=]+)(?:=(.*))?", argument, re.DOTALL)
        if not match:
            continue
        path, value = match.groups()
        leaf = _field_type(config_type, path)
        if value is None and leaf is not bool:
            value = arguments[position + 1] if position + 1 < len(arguments) else ""
        if value is not None:
            _check_value(path, leaf, value)


def _field_type(config_type: type, path: str) -> type:
    names = [name for name, _ in flatten(config_type())]
    here: Any = config_type
    for part in path.split("."):
        hints = typing.get_type_hints(here) if dataclasses.is_dataclass(here) else {}
        if part not in hints:
            raise UserError(f"--config.{path}: there is no such field{_nearest(path, names)}")
        here = hints[part]
    if dataclasses.is_dataclass(here):
        inner = ", ".join(field.name for field in dataclasses.fields(here))
        raise UserError(f"--config.{path} is a group: set one of its fields ({inner})")
    return here


def _nearest(path: str, names: list[str]) -> str:
    same_leaf = [name for name in names if name.rpartition(".")[2] == path.rpartition(".")[2]]
    nearest = same_leaf or difflib.get_close_matches(path, names, n=1, cutoff=0.5)
    if not nearest:
        leaves = {name.rpartition(".")[2]: name for name in names}
        close = difflib.get_close_matches(path.rpartition(".")[2], leaves, n=1)
        nearest = [leaves[leaf] for leaf in close]
    return f"; did you mean --config.{nearest[0]}?" if nearest else ""


def _check_value(path: str, leaf: type, value: str) -> None:
    if issubclass(leaf, enum.Enum):
        choices = [choice.value for choice in leaf]
        if value.lower() not in choices:
            raise UserError(f"--config.{path}={value}: choose one of {', '.join(choices)}")
        return
    wanted = {int: "a whole number", float: "a number", bool: "true or false"}
    try:
        if leaf is bool:
            if value.lower() not in ("true", "false", "1", "0", "t", "f", "yes", "no"):
                raise ValueError
        else:
            leaf(value)
    except ValueError:
        raise UserError(f"--config.{path}={value}: must be {wanted[leaf]}") from None


def require(name: str, value: str | None, example: str) -> str:
    """Returns the value of a flag that has no default, or raises UserError."""
    if not value:
        raise UserError(f"--{name} is not set: for example --{name}={example}")
    return os.path.expanduser(value)
