"""The commands in the documentation, checked by the flags of the drivers that they start."""

import ast
import dataclasses
import functools
import pathlib
import re
import shlex
from collections.abc import Iterator, Sequence

from absl import flags

from bert_jax import config as configs
from bert_jax.cli.recipes import resolve_config
from bert_jax.errors import UserError
from docs.markdown import Line, Page

ROOT = pathlib.Path(__file__).parents[1]
_OURS = ("bert_jax", "benchmarks", "docs", "experiments", "launch", "notebooks")
_PLACEHOLDER = re.compile(r"\.\.\.|\{?[A-Z][A-Z_]*\}?")


@dataclasses.dataclass(frozen=True)
class Command:
    """A driver and its arguments, as they stand in a page."""

    line: int  # of the page
    module: str  # such as "bert_jax.pretrain"
    arguments: tuple[str, ...]


def commands(page: Page) -> Iterator[Command]:
    """Yields the commands of a page that start a driver of ours."""
    for line in (*page.code_spans(), *_joined_lines(page)):
        for part in re.split(r"&&|;|\|", re.sub(r"\s#\s.*", "", line.text.strip())):
            try:
                words = shlex.split(part.strip().removeprefix("$ "))
            except ValueError:  # prose with an apostrophe
                continue
            while words and re.fullmatch(r"\w+=.*", words[0]):
                del words[0]  # a variable of the environment
            if words[:2] == ["python", "-m"] and words[2:]:
                module, arguments = words[2], words[3:]
            elif words[:1] == ["bert-jax"] and words[1:]:
                module, arguments = f"bert_jax.{words[1]}", words[2:]
            else:
                continue
            if module.partition(".")[0] in _OURS:
                yield Command(line.number, module, tuple(arguments))


def _joined_lines(page: Page) -> Iterator[Line]:
    """Yields the lines of code blocks, those that end in a backslash together with the next."""
    for block in page.blocks:
        number, text = 0, ""
        for line in block.lines:
            number = number or line.number
            text += line.text.removesuffix("\\")
            if not line.text.endswith("\\"):
                yield Line(number, text)
                number, text = 0, ""


def command_faults(command: Command) -> Iterator[str]:
    """Yields what the driver would refuse. The driver is not imported."""
    source = _source_of(command.module)
    if source is None:
        yield f"there is no {command.module}"
        return
    text = source.read_text()
    passes_on = "known_only=True" in text or "unknown_flags=True" in text
    config_types = re.search(r"config_flag\(([\w, ]+)\)", text)
    checks = [_flag_faults(command, _flags_of(source), passes_on)]
    if config_types:
        checks.append(_config_faults(command, config_types[1].split(", ")))
    for check in checks:
        yield from (f"{command.module}: {fault}" for fault in check)


def _flag_faults(command: Command, names: dict[str, ast.Call], passes_on: bool) -> Iterator[str]:
    """Yields what absl says of the arguments, where the driver has these flags."""
    values = flags.FlagValues()
    for name, call in names.items():
        _define(name, call, values)
    argv = [command.module]
    for argument in command.arguments:
        name, _, value = argument.partition("=")
        if name.startswith("--config"):
            continue
        # The value of a placeholder is any value: its flag has to exist.
        if name.startswith("--") and _PLACEHOLDER.fullmatch(value):
            if name.removeprefix("--") not in values:
                yield f"there is no flag {name}"
            continue
        argv.append(argument)
    values.set_gnu_getopt(True)  # flags may follow other arguments
    try:
        values(argv, known_only=passes_on)
    except flags.Error as error:
        yield str(error).splitlines()[0]


def _define(name: str, call: ast.Call, values: flags.FlagValues) -> None:
    """Defines a flag of the same kind; one whose choices are computed takes any of them."""
    kind = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if kind in ("DEFINE_bool", "DEFINE_boolean"):
        flags.DEFINE_bool(name, False, "", values)
    elif kind == "DEFINE_integer":
        flags.DEFINE_integer(name, None, "", flag_values=values)
    elif kind == "DEFINE_float":
        flags.DEFINE_float(name, None, "", flag_values=values)
    elif kind == "DEFINE_enum" and isinstance(call.args[2], ast.List | ast.Tuple):
        flags.DEFINE_enum(name, None, ast.literal_eval(call.args[2]), "", flag_values=values)
    else:
        flags.DEFINE_string(name, None, "", flag_values=values)


def _flags_of(source: pathlib.Path) -> dict[str, ast.Call]:
    """Returns what defines each flag of a module, and of those that it imports."""
    found, waiting, seen = {}, [source], {source}
    while waiting:
        flags_here, imported = _flags_and_imports(waiting.pop())
        found |= flags_here
        waiting += [each for each in imported if each not in seen]
        seen |= set(imported)
    return found


@functools.cache
def _flags_and_imports(source: pathlib.Path) -> tuple[dict[str, ast.Call], list[pathlib.Path]]:
    found, imported = {}, []
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr.startswith("DEFINE_") and isinstance(node.args[0], ast.Constant):
                found[node.args[0].value] = node
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            imported += filter(None, map(_source_of, names))
    return found, imported


@functools.cache
def _source_of(module: str) -> pathlib.Path | None:
    """Returns the file that `python -m MODULE` runs, of our packages."""
    if module.partition(".")[0] not in _OURS:
        return None
    path = ROOT.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__main__.py", path / "__init__.py")
    return next(filter(pathlib.Path.exists, candidates), None)


_ANY_RECIPE = {
    "PretrainConfig": "configs/pretrain_tiny.py",
    "DistillConfig": "configs/distilbert.py",
    "FinetuneConfig": "configs/finetune_text.py",
}


def _config_faults(command: Command, config_types: Sequence[str]) -> Iterator[str]:
    """Yields what is wrong with `--config=RECIPE` and `--config.FIELD=VALUE`."""
    recipe, overrides = "", []
    for argument in command.arguments:
        name, _, value = argument.partition("=")
        if name == "--config" and not _PLACEHOLDER.fullmatch(value):
            recipe = value
        elif name.startswith("--config.") and not _PLACEHOLDER.fullmatch(value):
            overrides.append(argument.removeprefix("--config."))
    is_whole = bool(recipe) and "..." not in command.arguments
    try:
        recipe = recipe or _ANY_RECIPE[config_types[0]]
        types = (getattr(configs, config_type) for config_type in config_types)
        config = resolve_config(recipe, overrides, *types)
        if is_whole:
            needed = ["train", "dev"] if config_types == ["FinetuneConfig"] else ["corpus"]
            for name in needed:  # a driver may have them from elsewhere
                setattr(config.data, name, getattr(config.data, name) or "some")
            configs.validate(config)
    except UserError as error:
        yield str(error)
