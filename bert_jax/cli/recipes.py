"""Recipes and overrides: `--config=RECIPE --config.FIELD=VALUE ...` becomes a config.

A recipe is a Python file with a function `get_config()` that returns a config. RECIPE is the name
of one that comes with bert_jax (`pretrain_base`), or PATH.py; with `:WORD` after it,
`get_config(WORD)` is called. A recipe imports others from its own directory by their bare names.
"""

import contextlib
import dataclasses
import difflib
import enum
import importlib
import os
import pathlib
import re
import runpy
import sys
import traceback
import typing
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from absl import flags

import bert_jax.config as configs
from bert_jax.config import PATH_LISTS, RootConfig, flatten, item_type
from bert_jax.errors import UserError
from bert_jax.files import given_path

Config = TypeVar("Config", bound=RootConfig)

# --config=RECIPE, --config.FIELD=VALUE, or either without a value.
_CONFIG_ARGUMENT = re.compile(r"--?config(?:\.([^=]+))?(?:=(.*))?", re.DOTALL)


def recipe_folder() -> pathlib.Path:
    """Returns the directory of the recipes that come with bert_jax."""
    beside = pathlib.Path(__file__).parents[2]
    installed = beside / "bert_jax_configs"
    return installed if installed.is_dir() else beside / "configs"  # of a checkout


def find_recipe(given: str, flag: str = "config") -> tuple[pathlib.Path, str]:
    """Finds the file of a recipe.

    Args:
      given: NAME, PATH.py, or one of them with :WORD after it.
      flag: that named it, for messages.

    Returns:
      The file, and WORD or ''.

    Raises:
      UserError: if there is no such recipe, with the nearest one.
    """
    recipe, word = _recipe_and_word(given)
    if recipe.endswith(".py") or os.sep in recipe:
        path = given_path(recipe)
        folder, names, suffix = path.parent, [path.stem], ".py"
        problem = "is no file"
    else:
        path = recipe_folder() / f"{recipe}.py"
        folder, names, suffix = recipe_folder(), [recipe], ""
        problem = "is no recipe"
    if path.is_file() and recipe:
        return path, word
    there = sorted(each.stem for each in folder.glob("*.py") if each.stem != "__init__")
    shipped = sorted(each.stem for each in recipe_folder().glob("[!_]*.py"))
    if nearest := difflib.get_close_matches(names[0], there, n=1):
        meant = str(path.with_name(f"{nearest[0]}.py")) if suffix else nearest[0]
        raise UserError(f"--{flag}={given} {problem}; did you mean --{flag}={meant}?")
    if nearest := difflib.get_close_matches(names[0], shipped, n=1):
        raise UserError(f"--{flag}={given} {problem}; did you mean --{flag}={nearest[0]}?")
    raise UserError(f"--{flag}={given} {problem}: name a PATH.py, or one of {', '.join(shipped)}")


def _recipe_and_word(given: str) -> tuple[str, str]:
    """Cuts RECIPE:WORD at its last colon, unless the whole is a file."""
    recipe, colon, word = given.rpartition(":")
    is_whole = not colon or (given and given_path(given).is_file())
    return (given, "") if is_whole else (recipe, word)


def read_recipe(given: str, *config_types: type[Config], flag: str = "config") -> Config:
    """Runs a recipe and returns its config.

    Args:
      given: as in `find_recipe`.
      config_types: the roots that it may return.
      flag: that named it, for messages.

    Raises:
      UserError: for a file that is none, or returns something else, or fails, with the line.
    """
    path, word = find_recipe(given, flag)
    try:
        with _neighbours(path.parent):
            config = runpy.run_path(str(path))["get_config"](*([word] if word else []))
    except SyntaxError as error:
        raise UserError(f"--{flag}={given}, line {error.lineno}: {error.msg}") from error
    except UserError:
        raise
    except Exception as error:  # the file is the user's: anything may be in it
        if isinstance(error, KeyError) and error.args == ("get_config",):
            raise UserError(f"--{flag}={given} defines no get_config(): add one") from None
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        at = f", line {lines[-1]}" if lines else ""
        message = f"{type(error).__name__}: {error}{_nearest_attribute(str(error))}"
        raise UserError(f"--{flag}={given}{at}: {message}") from error
    if type(config) not in config_types:  # a distilling run is no plain pretraining
        needed = " or a ".join(each.__name__ for each in config_types)
        raise UserError(
            f"--{flag}={given} returns a {type(config).__name__}, and this driver needs a"
            f" {needed}: choose another recipe"
        )
    return config


@contextlib.contextmanager
def _neighbours(folder: pathlib.Path) -> Iterator[None]:
    """Lets a recipe import others from its directory, and forgets them afterwards.

    Recipes of two directories may have the same name.
    """
    folder, before = folder.absolute(), set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()  # a file may be newer than the last look at the directory
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and pathlib.Path(file).parent == folder:
                del sys.modules[name]


def _nearest_attribute(message: str) -> str:
    """Completes "'EncoderConfig' object has no attribute 'widht'" with the field that was meant."""
    match = re.fullmatch(r"'(\w+)' object has no attribute '(\w+)'.*", message)
    group = getattr(configs, match[1], None) if match else None
    if not match or not dataclasses.is_dataclass(group):
        return ""
    names = [field.name for field in dataclasses.fields(group)]
    nearest = difflib.get_close_matches(match[2], names, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def resolve_config(recipe: str, overrides: Sequence[str], *config_types: type[Config]) -> Config:
    """Returns the config of `--config=RECIPE --config.OVERRIDE ...`, not validated yet.

    Args:
      recipe: as in `find_recipe`.
      overrides: such as "optimizer.learning_rate=1e-3"; see `take_config`.
      config_types: the roots that the recipe may return.

    Raises:
      UserError: for a recipe or an override that a driver would refuse.
    """
    arguments = [f"--config={recipe}", *(f"--config.{override}" for override in overrides)]
    config, _ = take_config(arguments, *config_types)
    assert config is not None
    return config


def take_config(
    arguments: Sequence[str], *config_types: type[Config]
) -> tuple[Config | None, list[str]]:
    """Takes `--config=RECIPE` and `--config.FIELD=VALUE` out of a command line.

    A field that is given again takes the later value; a list of paths takes both.

    Args:
      arguments: of the command line.
      config_types: the roots that the recipe may return.

    Returns:
      The config, None where no recipe is named; and the other arguments.

    Raises:
      UserError: for a recipe that cannot be read, an unknown field or a value of a wrong type.
    """
    config: Config | None = None
    overrides: dict[str, str] = {}
    others = []
    remaining = iter(arguments)
    for argument in remaining:
        match = _CONFIG_ARGUMENT.fullmatch(argument)
        if not match:
            others.append(argument)
            continue
        path, value = match.groups()
        root = type(config) if config else config_types[0]
        leaf = _field_type(root, path, config) if path else str
        if value is None:
            value = "true" if leaf is bool else next(remaining, "")
        if path is None:
            config = read_recipe(value, *config_types)
        elif config is None:
            raise UserError(
                f"--config.{path} has no --config=RECIPE before it: name the recipe first"
            )
        else:
            _check_value(path, leaf, value)
            if path in PATH_LISTS and path in overrides:
                value = f"{overrides[path]},{value}"
            overrides[path] = value
    given = [f"--config.{path}={value}" for path, value in overrides.items()]
    return _overridden(config, given), others


def named_fields(arguments: Sequence[str]) -> frozenset[str]:
    """Returns the fields that a command line names by `--config.FIELD`."""
    matches = map(_CONFIG_ARGUMENT.fullmatch, arguments)
    return frozenset(match[1] for match in matches if match and match[1])


def _overridden(config: Any, overrides: list[str]) -> Any:
    if not overrides:
        return config
    from ml_collections import config_flags  # here: --help does without it

    values, argv = flags.FlagValues(), ["", *overrides]
    holder = config_flags.DEFINE_config_dataclass(
        "config", config, flag_values=values, sys_argv=argv
    )
    try:
        values(argv)
    except (flags.Error, KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise UserError(f"--config: {str(error).splitlines()[0]}") from None
    return holder.value


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
    return f"; did you mean --config.{nearest[0]}?" if nearest else "; --help lists them"


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
