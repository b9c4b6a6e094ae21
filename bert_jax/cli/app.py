"""Runs a driver: flags in, one-line errors and an exit status out."""

import contextlib
import difflib
import errno
import os
import pathlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

from absl import app, flags, logging

from bert_jax.cli.environment import check_environment, wrong_switch
from bert_jax.cli.flags import ConfigFlag
from bert_jax.cli.help import config_lines, driver_flags, help_text
from bert_jax.cli.recipes import named_fields, take_config
from bert_jax.cli.streams import open_streams
from bert_jax.errors import UserError
from bert_jax.files import REMEDIES, given_path
from bert_jax.stopping import RESTART_STATUS, Stopped, leave, shares_run

DEBUG = flags.DEFINE_bool("debug", False, "show the traceback of an error")

_HELP = ("--help", "-help", "-h", "--helpfull", "--helpshort")
_LIFELINE_SECONDS = 5  # until the lifeline has reported which process is gone

Main = Callable[[Sequence[str]], None]  # argv: the name of the program, then what is no flag


def run(main: Main, *, positional: bool = False, unknown_flags: bool = False) -> None:
    """Runs a driver: parses flags, calls `main(argv)`, and reports a user's error in one line.

    The exit status is 0; 1 after an error; `RESTART_STATUS` where the same command goes on, after
    SIGTERM, ctrl-C or the loss of another process; 130 where a second ctrl-C ended it at once.
    `--help` and `--show_config` print and end, and import nothing that `main` imports.

    Args:
      main: the driver; its module's docstring begins its help.
      positional: arguments without -- are allowed, and reach `main` in argv[1:].
      unknown_flags: flags of another program are allowed, and reach `main` in argv[1:].
    """
    open_streams()
    if "--debug" not in sys.argv[1:]:
        _quiet_libraries()
    try:
        if any(argument in _HELP for argument in sys.argv[1:]):
            print(help_text(main), flush=True)
            return
        check_environment()
        app.run(
            lambda argv: _main(main, argv),
            flags_parser=lambda argv: _parse(argv, positional, unknown_flags),
        )
    except UserError as error:
        _end(f"error: {error}", 1, error)
    except Stopped as stopped:
        leave(0, "")  # all stop after the same step
        _end(str(stopped), RESTART_STATUS, stopped)
    except KeyboardInterrupt as interrupt:
        _end("stopped", 128 + signal.SIGINT, interrupt)
    except BrokenPipeError:  # from `streams.answer`: the reader, such as `head`, has enough
        sys.exit(1)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = error.filename or "the output"
            _end(f"error: no space left for {where}: free some or write elsewhere", 1, error)
        if error.filename is None:
            raise
        remedy = REMEDIES.get(error.errno or 0, "check the path")
        _end(f"error: cannot use {error.filename}: {error.strerror}; {remedy}", 1, error)
    except FloatingPointError as error:  # by JAX_DEBUG_NANS or JAX_DEBUG_INFS
        _end(f"error: {error}; --config.debug=True names the operation and its lines", 1, error)
    except Exception as error:
        if switch := wrong_switch(error):
            _end(f"error: {switch}: {error}; correct it, or unset it", 1, error)
        if not shares_run():
            raise
        # A collective fails when a process is gone: the lifeline reports that and ends this one.
        time.sleep(_LIFELINE_SECONDS)
        traceback.print_exc()
        _end(f"error: {type(error).__name__}: {str(error)[:200]}", 1, error)


def _main(main: Main, argv: Sequence[str]) -> None:
    if "show_config" in flags.FLAGS and flags.FLAGS.show_config:
        if flags.FLAGS.config is None:
            raise UserError("--show_config needs a recipe, such as --config=pretrain_mini")
        print("\n".join(config_lines(flags.FLAGS.config)), flush=True)
        return
    main(argv)
    sys.stdout.flush()  # here a full disk is reported
    leave(0, "")


@contextlib.contextmanager
def imports() -> Iterator[None]:
    """Lets ctrl-C end the process without a traceback during the imports of a driver.

    They take seconds, and a KeyboardInterrupt inside an import can be lost or wrapped.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _quiet_libraries() -> None:
    """Keeps the logs of libraries, and what their threads print when they fail, off the terminal.

    Such a failure reaches the main thread too, where its result is read, and is reported there.
    """
    logging.set_verbosity(logging.FATAL)
    threading.excepthook = lambda _: None
    sys.unraisablehook = lambda _: None
    # Native threads that call back into Python print by this hook.
    in_main_thread = sys.excepthook
    sys.excepthook = lambda *error: (
        in_main_thread(*error) if threading.current_thread() is threading.main_thread() else None
    )


def _end(message: str, status: int, error: BaseException) -> None:
    """Prints a message and ends the process, or raises the error where --debug asks for it."""
    line = " ".join(message.split())
    leave(status, line.removeprefix("error: "))
    if "--debug" in sys.argv[1:]:
        raise error
    print(line, file=sys.stderr, flush=True)
    if shares_run():
        os._exit(status)  # JAX would wait for the other processes
    sys.exit(status)


def _parse(argv: Sequence[str], positional: bool, unknown_flags: bool) -> list[str]:
    """Parses a command line; returns the name of the program and what is no flag of the driver."""
    program, *arguments = argv
    flags.FLAGS.set_gnu_getopt(positional)  # flags may follow other arguments
    config, config_flag = None, "config" in flags.FLAGS and flags.FLAGS["config"]
    if isinstance(config_flag, ConfigFlag):
        config_flag.given = named_fields(arguments)
        config, arguments = take_config(arguments, *config_flag.config_types)
    try:
        _, *rest = flags.FLAGS([program, *arguments], known_only=unknown_flags)
    except flags.UnrecognizedFlagError as error:
        raise UserError(_unknown_flag(error.flagname)) from None
    except flags.Error as error:
        message = str(error).splitlines()[0]
        raise UserError(f"{message.removeprefix('FATAL Flags parsing error: ')}") from None
    if isinstance(config_flag, ConfigFlag):
        config_flag.value = config
    for argument in rest:
        if not (unknown_flags if argument.startswith("--") else positional):
            raise UserError(f"unexpected argument {argument!r}: flags begin with --")
    return [program, *rest]


def _unknown_flag(name: str) -> str:
    names = [flag.name for flag in driver_flags()]
    nearest = difflib.get_close_matches(name, names, n=1)
    meant = f"did you mean --{nearest[0]}?" if nearest else "--help lists them"
    return f"unknown flag --{name}; {meant}"


def require(name: str, value: str | None, example: str) -> str:
    """Returns the value of a flag that has no default, or raises UserError."""
    if not value:
        raise UserError(f"--{name} is not set: for example --{name}={example}")
    return value


def require_path(name: str, value: str | None, example: str) -> pathlib.Path:
    """Returns the path of a flag that has no default, or raises UserError."""
    return given_path(require(name, value, example))
