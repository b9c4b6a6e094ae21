"""The wheel, built without a network and used where the checkout cannot be imported."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable

import pytest

from bert_jax.__main__ import DRIVERS
from tests.fixtures.drivers import PATIENCE_SECONDS, ROOT, Result

SOURCES = ("pyproject.toml", "setup.py", "requirements.txt", "README.md", "LICENSE")


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    # From a copy: a build leaves directories in the tree.
    copy, made = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copy(ROOT / name, copy)
    for name in ("bert_jax", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip("wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={made}", copy)
    (path,) = made.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def bert_jax(wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """Returns a function that runs the installed command in another directory."""
    installed = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--no-index", f"--target={installed}", wheel)

    def run(*arguments: str, cwd: pathlib.Path = installed.parent) -> Result:
        done = subprocess.run(
            [installed / "bin" / "bert-jax", *arguments],
            cwd=cwd,
            env=os.environ | {"PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


def test_the_wheel_has_all_modules_and_recipes(wheel: pathlib.Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        there = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "bert_jax").rglob("*.py")}
    recipes = {f"bert_jax_configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    assert there == modules | recipes | {"bert_jax/py.typed"}


def test_the_command_lists_the_drivers(bert_jax: Callable[..., Result]) -> None:
    result = bert_jax()
    assert result.status == 0 and not result.err and bert_jax("--help") == result
    listed = [line.split() for line in result.out.splitlines() if line.startswith("  ")]
    assert tuple(words[0] for words in listed) == DRIVERS
    assert all(len(words) > 3 for words in listed)
    assert max(map(len, result.out.splitlines())) <= 100


def test_a_mistyped_command_suggests_the_nearest(bert_jax: Callable[..., Result]) -> None:
    message = "there is no command 'pretrian'; did you mean pretrain?"
    assert bert_jax("pretrian").error() == message
    assert "bert-jax alone lists the commands" in bert_jax("zebra").error()


def test_a_command_has_its_help(bert_jax: Callable[..., Result]) -> None:
    result = bert_jax("finetune", "--help")
    assert result.status == 0 and "usage: bert-jax finetune --config=RECIPE" in result.out
    assert "    bert-jax finetune --config=finetune_text " in result.out
    assert "python -m" not in result.out


def test_recipes_are_inside(bert_jax: Callable[..., Result], tmp_path: pathlib.Path) -> None:
    show = ("pretrain", "--config=pretrain_tiny", "--show_config")
    result = bert_jax(*show, "--config.steps=7", cwd=tmp_path)
    assert result.status == 0 and not result.err
    assert {"encoder.width = 128", "steps = 7"} <= set(result.out.splitlines())
    # A recipe inside imports another one; so does one of the user.
    assert bert_jax("pretrain", "--config=pretrain_large", "--show_config").status == 0
    (tmp_path / "base.py").write_text("WIDTH = 48\n")
    (tmp_path / "mine.py").write_text(
        "import base\n"
        "from bert_jax.config import PretrainConfig\n\n\n"
        "def get_config():\n"
        "    config = PretrainConfig()\n"
        "    config.encoder.width = base.WIDTH\n"
        "    return config\n"
    )
    result = bert_jax("pretrain", "--config=mine.py", "--show_config", cwd=tmp_path)
    assert "encoder.width = 48" in result.out.splitlines()


def test_errors_of_a_command_are_one_line(bert_jax: Callable[..., Result]) -> None:
    assert (
        "did you mean --config=pretrain_tiny?"
        in bert_jax("pretrain", "--config=pretrain_tny").error()
    )
    assert "did you mean --checkpoint?" in bert_jax("predict", "--chekpoint=x").error()
    assert "leave out b" in bert_jax("inspection", "a", "b", "--show=layers").error()
