"""Texts of `--help` and `--show_config`: from docstrings, flags and the source of `config.py`."""

import ast
import dataclasses
import enum
import inspect
import io
import pathlib
import re
import shutil
import sys
import textwrap
import tokenize
import typing
from collections.abc import Callable, Iterator
from typing import Any

from absl import flags

import bert_jax.config as configs
from bert_jax.cli.flags import ConfigFlag
from bert_jax.config import flatten, item_type

_COLUMNS = (30, 20)  # widths of a name, and of the type and default of a field


def program_name(main: Callable[..., None]) -> str:
    """Returns the words that start a driver: 'python -m bert_jax.plan', or 'bert-jax plan'."""
    spec = main.__globals__.get("__spec__")
    if sys.argv[0].startswith("bert-jax ") or spec is None:
        return sys.argv[0]
    return f"python -m {spec.name.removesuffix('.__main__')}"


def driver_flags() -> list[flags.Flag]:
    """Returns the flags of the driver, without those that libraries define for themselves."""
    by_module = flags.FLAGS.flags_by_module_dict()
    found = {
        flag.name: flag
        for module, defined in by_module.items()
        for flag in defined
        if module in (sys.argv[0], "__main__") or module.startswith("bert_jax.")
    }
    order = list(flags.FLAGS)  # --debug, which all have, comes last
    return sorted(found.values(), key=lambda flag: (flag.name == "debug", order.index(flag.name)))


def help_text(main: Callable[..., None]) -> str:
    """Returns the help of a driver: usage, its flags and the fields of its config."""
    first, _, rest = inspect.cleandoc(main.__globals__["__doc__"]).partition("\n")
    name, defined = program_name(main), driver_flags()
    usage = f"usage: {name}"
    config = next((flag for flag in defined if isinstance(flag, ConfigFlag)), None)
    if config is not None:
        usage += " --config=RECIPE [--config.FIELD=VALUE ...]"
    if name.startswith("bert-jax "):
        rest = rest.replace("python -m bert_jax.", "bert-jax ")
    usage = textwrap.fill(f"{usage} [--FLAG=VALUE ...]", _width(), subsequent_indent="    ")
    lines = [first, "", usage, rest.rstrip(), "", "flags:"]
    for flag in defined:
        lines += _entry(f"  {_flag_form(flag)}", _flag_text(flag))
    if config is not None:
        lines += ["", "fields of the config, by --config.FIELD=VALUE, with their defaults:"]
        lines += _group_lines(config.config_types[0](), "", _Comments(configs))
    return "\n".join(lines)


def _flag_form(flag: flags.Flag) -> str:
    if isinstance(flag, ConfigFlag):
        return "--config=RECIPE"
    if flag.boolean:
        return f"--[no]{flag.name}" if flag.default else f"--{flag.name}"
    kind = flag.flag_type()
    words = {"int": "N", "float": "X", "string": "TEXT"}
    word = "A,B,..." if "list" in kind else "WORD" if "enum" in kind else words.get(kind, "TEXT")
    return f"--{flag.name}={word}"


def _flag_text(flag: flags.Flag) -> str:
    text = flag.help or ""
    if choices := re.fullmatch(r"<(.*?)>: (.*)", text, re.DOTALL):  # how absl shows an enum's
        text = f"{choices[2]}: {choices[1].replace('|', ', ')}"
    if flag.default in (None, "", [], False):
        return text
    default = flag.default_as_str
    return f"{text} (default {default and default.strip(chr(39))})"


def config_lines(config: Any) -> Iterator[str]:
    """Yields a line 'name = value' for each field of a config, in the order of the source."""
    return (f"{name} = {_shown(value)}" for name, value in flatten(config))


def _shown(value: Any) -> str:
    if isinstance(value, enum.Enum):
        value = value.value
    return str(value).lower() if isinstance(value, bool) else f"{value}"


class _Comments:
    """The comments that stand beside the fields of classes, read from the source of a module."""

    def __init__(self, module: Any) -> None:
        source = pathlib.Path(module.__file__).read_text(encoding="utf-8")
        comments = {
            token.start[0]: token.string.lstrip("# ")
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT
        }
        self._found: dict[tuple[str, str], str] = {}
        for node in ast.parse(source).body:
            for statement in node.body if isinstance(node, ast.ClassDef) else ():
                target = statement.target if isinstance(statement, ast.AnnAssign) else None
                if isinstance(statement, ast.Assign):
                    (target,) = statement.targets
                if isinstance(node, ast.ClassDef) and isinstance(target, ast.Name):
                    lines = range(statement.lineno, (statement.end_lineno or 0) + 1)
                    text = " ".join(comments[line] for line in lines if line in comments)
                    self._found[node.name, target.id] = text

    def beside(self, owner: type, name: str) -> str:
        """Returns the comment beside a field, or a member of an enumeration; '' where none is."""
        owners = (each.__name__ for each in owner.__mro__)
        return next((self._found[each, name] for each in owners if (each, name) in self._found), "")


def _group_lines(config: Any, prefix: str, comments: _Comments) -> Iterator[str]:
    """Yields the help of all fields of a config, or of one of its groups."""
    groups = []
    for name, kind in typing.get_type_hints(type(config)).items():
        item, value = item_type(kind), getattr(config, name)
        if item or dataclasses.is_dataclass(kind):
            groups.append((name, item() if item else value, item))
            continue
        default = "''" if value == "" else _shown(value)
        choices = list(kind) if issubclass(kind, enum.Enum) else []
        type_name = "|".join(choice.value for choice in choices) or kind.__name__
        text = comments.beside(type(config), name)
        if choices and not text:
            text = _first_sentence(kind)
        yield from _entry(f"  {prefix}{name}", text, f"{type_name} = {default}")
        for choice in choices:
            if text := comments.beside(kind, choice.name):
                yield from _entry("", text, f"  {choice.value}:")
    for name, group, item in groups:
        index = "[N]" if item else ""
        text = comments.beside(type(config), name) or _first_sentence(type(group))
        yield ""
        yield from textwrap.wrap(f"  {prefix}{name}{index}: {text}", _width())
        yield from _group_lines(group, f"{prefix}{name}{index}.", comments)


def _first_sentence(owner: type) -> str:
    return (owner.__doc__ or "").partition("\n")[0]


def _width() -> int:
    """Returns the columns of the terminal that help uses."""
    return max(min(shutil.get_terminal_size((100, 0)).columns, 100), 80)


def _entry(name: str, text: str, value: str = "") -> Iterator[str]:
    """Yields lines of columns: a name, a value where there is one, and a text.

    What is wider than its column has a line of its own.
    """
    line, column = "", 0
    for cell, width in zip((name, value), _COLUMNS if value else _COLUMNS[:1], strict=False):
        line, column = f"{line:{column}}{cell}", column + width
        if len(line) >= column:
            yield line
            line = ""
    for part in textwrap.wrap(text, _width() - column, break_on_hyphens=False):
        yield f"{line:{column}}{part}"
        line = ""
    if line:
        yield line
