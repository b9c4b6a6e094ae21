"""What the drivers share: flags, configs, and errors told in one line."""

import dataclasses
import difflib
import enum
import errno
import os
import re
import runpy
import signal
import sys
import threading
import time
import traceback
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from absl import app, flags, logging
from ml_collections import config_flags

from bert_jax import config as configs
from bert_jax.config import RootConfig, flatten, item_type, validate
from bert_jax.errors import UserError
from bert_jax.stopping import RESTART_STATUS, Stopped, leave, shares_run

DEBUG = flags.DEFINE_bool("debug", False, "show the traceback of an error")

Config = TypeVar("Config", bound=RootConfig)

_LIFELINE_SECONDS = 5  # to wait for it to say which process is gone


def run(
    main: Callable[[], None],
    *,
    config_type: type | None = None,
    unknown_flags: list[str] | None = None,
    positional: list[str] | None = None,
) -> None:
    """Runs a driver: parses flags, calls `main`, and turns what the user caused into one line.

    The exit status is 0; 1 after an error; `RESTART_STATUS` where the same command goes on, after
    SIGTERM, ctrl-C or the loss of another process; 130 where a second ctrl-C ended it at once.

    Args:
      main: the driver.
      config_type: the root that `--config` must return, to explain a wrong override.
      unknown_flags: takes flags that are another program's; without it they are refused.
      positional: takes arguments that are no flags; without it they are refused.
    """
    if "--debug" not in sys.argv[1:]:
        _quiet_libraries()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see bert_jax/__init__.py
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def parse(argv: Sequence[str]) -> list[str]:
        flags.FLAGS.set_gnu_getopt(positional is not None)  # flags may follow other arguments
        name, *rest = _parse_flags(list(argv), config_type, unknown_flags is not None)
        for argument in rest:
            if positional is not None and not argument.startswith("--"):
                positional.append(argument)
                continue
            if unknown_flags is None or not argument.startswith("--"):
                raise UserError(f"unexpected argument {argument!r}: flags begin with --")
            unknown_flags.append(argument)
        return [name]

    try:
        app.run(lambda _: _main(main), flags_parser=parse)
    except UserError as error:
        _end(f"error: {error}", 1)
    except Stopped as stopped:
        leave(0, "")  # all stop after the same step
        _end(str(stopped), RESTART_STATUS)
    except KeyboardInterrupt:
        _end("stopped", 128 + signal.SIGINT)
    except BrokenPipeError:  # whoever reads the output, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = error.filename or "the output"
            _end(f"error: no space left for {where}: free some or write elsewhere", 1)
        if error.filename is None:
            raise
        _end(f"error: cannot use {error.filename}: {error.strerror}", 1)
    except Exception as error:
        if not shares_run():
            raise
        # A collective fails when a process is gone: then the lifeline says so and ends this one.
        time.sleep(_LIFELINE_SECONDS)
        traceback.print_exc()
        _end(f"error: {type(error).__name__}: {str(error)[:200]}", 1)


def _main(main: Callable[[], None]) -> None:
    main()
    leave(0, "")


def _quiet_libraries() -> None:
    """Keeps what libraries log, and what their threads print when they fail, off the terminal.

    Such a failure reaches the main thread too, where its result is asked for, and is told there.
    """
    logging.set_verbosity(logging.FATAL)
    threading.excepthook = lambda _: None
    sys.unraisablehook = lambda _: None
    # Native threads that call back into Python print by this hook.
    in_main_thread = sys.excepthook
    sys.excepthook = lambda *error: (
        in_main_thread(*error) if threading.current_thread() is threading.main_thread() else None
    )


def _end(message: str, status: int) -> None:
    said = " ".join(message.split())
    leave(status, said.removeprefix("error: "))
    if "--debug" in sys.argv[1:]:
        raise  # this is called while the error is handled
    print(said, file=sys.stderr, flush=True)
    if shares_run():
        os._exit(status)  # JAX would wait for the other processes
    sys.exit(status)


def checked_config(config: Any, config_type: type[Config]) -> Config:
    """Returns the value of the `--config` flag, validated.

    Raises:
      UserError: if the flag was not given, or a value is impossible.
    """
    if not isinstance(config, config_type):  # what a recipe returns was checked before
        raise UserError(
            "--config is not set: name a recipe, such as --config=configs/pretrain_mini.py"
        )
    validate(config)
    return config


def resolve_config(recipe: str, overrides: Sequence[str], config_type: type[Config]) -> Config:
    """Returns what `--config=RECIPE --config.OVERRIDE ...` comes to, not validated yet.

    Args:
      recipe: FILE.py, or FILE.py:WORD.
      overrides: such as "optimizer.learning_rate=1e-3"; a later one wins.
      config_type: the root that the recipe must return.

    Raises:
      UserError: for a recipe or an override that a driver would refuse.
    """
    argv = ["", *(f"--config.{override}" for override in overrides)]
    _check_config_flags([f"--config={recipe}", *argv[1:]], config_type)
    config, values = read_recipe(recipe, config_type), flags.FlagValues()
    holder = config_flags.DEFINE_config_dataclass(
        "config", config, flag_values=values, sys_argv=argv
    )
    values(argv)
    return holder.value


def _parse_flags(argv: list[str], config_type: type | None, known_only: bool) -> list[str]:
    if config_type is not None:
        _check_config_flags(argv[1:], config_type)
    try:
        return flags.FLAGS(argv, known_only=known_only)
    except flags.Error as error:
        message = str(error).splitlines()[0]
        raise UserError(f"{message.removeprefix('FATAL Flags parsing error: ')}") from None
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise UserError(f"--config: {error}") from None


def _check_config_flags(arguments: list[str], config_type: type) -> None:
    """Checks `--config=FILE` and `--config.a.b=value`; ml_collections' errors name too little."""
    recipe = None
    for position, argument in enumerate(arguments):
        match = re.fullmatch(r"--?config(?:\.([^=]+))?(?:=(.*))?", argument, re.DOTALL)
        if not match:
            continue
        path, value = match.groups()
        leaf = _field_type(config_type, path, recipe) if path else str
        if value is None and leaf is not bool:
            value = arguments[position + 1] if position + 1 < len(arguments) else ""
        if path is None:
            recipe = read_recipe(value or "", config_type)
        elif recipe is None:
            raise UserError(
                f"--config.{path} has no --config=FILE before it: name the recipe first"
            )
        elif value is not None:
            _check_value(path, leaf, value)


def read_recipe(given: str, config_type: type[Config], flag: str = "config") -> Config:
    """Runs a recipe: FILE.py, or FILE.py:WORD, which calls get_config(WORD).

    `--config` is read so before ml_collections reads it, to say which line of it is wrong.

    Raises:
      UserError: for a file that is none, or returns something else, or fails, with the line.
    """
    path, _, word = given.partition(":")
    if not os.path.isfile(path):
        raise UserError(
            f"--{flag}={path} is no file: name a recipe, such as configs/pretrain_mini.py"
        )
    try:
        config = runpy.run_path(path)["get_config"](*([word] if word else []))
    except SyntaxError as error:
        raise UserError(f"--{flag}={path}, line {error.lineno}: {error.msg}") from error
    except UserError:
        raise
    except Exception as error:  # the file is the user's: anything may be in it
        if isinstance(error, KeyError) and error.args == ("get_config",):
            raise UserError(f"--{flag}={path} defines no get_config(): add one") from None
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == path]
        at = f", line {lines[-1]}" if lines else ""
        said = f"{type(error).__name__}: {error}{_nearest_attribute(str(error))}"
        raise UserError(f"--{flag}={path}{at}: {said}") from error
    if not isinstance(config, config_type):
        raise UserError(
            f"--{flag}={path} returns a {type(config).__name__}, and this driver needs a"
            f" {config_type.__name__}: choose another recipe"
        )
    return config


def _nearest_attribute(message: str) -> str:
    """Completes "'EncoderConfig' object has no attribute 'widht'" with the field that was meant."""
    match = re.fullmatch(r"'(\w+)' object has no attribute '(\w+)'.*", message)
    group = getattr(configs, match[1], None) if match else None
    if not match or not dataclasses.is_dataclass(group):
        return ""
    names = [field.name for field in dataclasses.fields(group)]
    nearest = difflib.get_close_matches(match[2], names, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _field_type(config_type: type, path: str, recipe: RootConfig | None) -> type:
    """Returns the type of the field that a dotted path names, such as `phases[0].length`."""
    names = [name for name, _ in flatten(recipe or config_type())]
    here: Any = config_type
    inside: Any = recipe
    for part in path.split("."):
        match = re.fullmatch(r"(\w+)(?:\[(\d+)\])?", part)
        hints = typing.get_type_hints(here) if dataclasses.is_dataclass(here) else {}
        here = hints.get(match[1]) if match else None
        item = item_type(here)
        if not match or here is None or (match[2] and not item):
            raise UserError(f"--config.{path}: there is no such field{_nearest(path, names)}")
        inside = getattr(inside, match[1], None)
        if item:
            here, inside = item, _item_of(inside or [], match, path)
    if dataclasses.is_dataclass(here):
        inner = ", ".join(field.name for field in dataclasses.fields(here))
        raise UserError(f"--config.{path} is a group: set one of its fields ({inner})")
    return here


def _item_of(items: list[Any], match: re.Match[str], path: str) -> Any:
    """Returns the item that `phases[0]` means."""
    if not match[2]:
        raise UserError(f"--config.{path}: {match[1]} is a list: write {match[1]}[0] and so on")
    if int(match[2]) >= len(items):
        raise UserError(f"--config.{path}: the recipe has {len(items)} {match[1]}, counted from 0")
    return items[int(match[2])]


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
