"""--help and --show_config: fast, complete, and from the sources themselves."""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import typing

import pytest

from bert_jax import config as configs
from bert_jax.__main__ import DRIVERS
from tests.fixtures.drivers import PATIENCE_SECONDS, ROOT, Result, python_m

SLOW = ("jax", "flax", "orbax", "matplotlib", "numpy", "tensorflow", "pyarrow", "grain")


@pytest.fixture(scope="module")
def helps() -> dict[str, tuple[str, set[str]]]:
    """The help of each driver, and the modules that it imported for it."""
    found = {}
    for driver in DRIVERS:
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", f"bert_jax.{driver}", "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 0, done.stderr[-500:]
        modules = re.findall(r"^import time:.*\| +([\w.]+)$", done.stderr, re.MULTILINE)
        found[driver] = done.stdout, set(modules)
    return found


@pytest.mark.parametrize("driver", DRIVERS)
def test_help_imports_nothing_slow(driver: str, helps: dict[str, tuple[str, set[str]]]) -> None:
    text, modules = helps[driver]
    assert "absl.flags" in modules  # the list is one of modules
    assert not {name.partition(".")[0] for name in modules} & set(SLOW)
    assert f"usage: python -m bert_jax.{driver}" in text
    assert len(re.findall(rf"python -m bert_jax.{driver} ", text)) >= 2  # usage, and an example
    assert all(len(line) <= 100 for line in text.splitlines())


def test_help_lists_flags_with_their_texts(helps: dict[str, tuple[str, set[str]]]) -> None:
    text, _ = helps["predict"]
    flags = re.findall(r"^  --(?:\[no\])?(\w+)", text, re.MULTILINE)
    assert {"checkpoint", "text", "json", "top_k", "features", "debug"} <= set(flags)
    assert len(flags) == len(set(flags)) < 20  # none of a library's
    assert re.search(r"--features=WORD .*: of_checkpoint, cls, mean,\s+last", text)
    assert re.search(r"--top_k=N .*\(default 5\)", text)


def leaves(config_type: type, prefix: str = "") -> list[str]:
    names = []
    for name, kind in typing.get_type_hints(config_type).items():
        item = configs.item_type(kind)
        group = item or kind
        index = "[N]" if item else ""
        nested = dataclasses.is_dataclass(group)
        names += leaves(group, f"{prefix}{name}{index}.") if nested else [f"{prefix}{name}"]
    return names


@pytest.mark.parametrize(
    ("driver", "config_type"),
    [
        ("pretrain", configs.PretrainConfig),
        ("distill", configs.DistillConfig),
        ("plan", configs.PretrainConfig),
        ("finetune", configs.FinetuneConfig),
        ("finetune_sweep", configs.FinetuneConfig),
    ],
)
def test_help_lists_every_field(
    driver: str, config_type: type, helps: dict[str, tuple[str, set[str]]]
) -> None:
    section = helps[driver][0].partition("fields of the config")[2]
    found = re.findall(r"^  ([\w.\[\]]+)(?: |$)", section, re.MULTILINE)
    assert sorted(found) == sorted(leaves(config_type))


def test_help_has_type_default_and_comment_of_a_field(
    helps: dict[str, tuple[str, set[str]]],
) -> None:
    text = " ".join(helps["finetune"][0].split())
    assert "optimizer.learning_rate float = 5e-05 the highest" in text  # fine-tuning's own default
    assert "data.train str = ''" in text
    assert "post|pre = post" in " ".join(helps["pretrain"][0].split())
    for comment in ("norm(x + f(x)), as BERT was published", "x + f(norm(x))"):
        assert comment in " ".join(helps["pretrain"][0].split())
    assert "phases[N].share float = 1.0 of the run's steps" in " ".join(
        helps["pretrain"][0].split()
    )


def shown(*flags: str, cwd: pathlib.Path = ROOT) -> Result:
    """Runs `pretrain --show_config` in a directory; the process cannot import jax."""
    blocked = "import sys, runpy; sys.modules['jax'] = None; sys.argv = sys.argv[1:];"
    code = f"{blocked} runpy.run_module('bert_jax.pretrain', run_name='__main__', alter_sys=True)"
    done = subprocess.run(
        [sys.executable, "-c", code, "pretrain", *flags, "--show_config"],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    return Result(done.returncode, done.stdout, done.stderr)


def test_show_config_prints_every_field_with_all_overrides() -> None:
    result = shown(
        "--config=pretrain_base", "--config.encoder.norm=pre", "--config.phases[0].length=64"
    )
    assert result.status == 0 and not result.err
    lines = result.out.splitlines()
    assert "encoder.norm = pre" in lines and "phases[0].length = 64" in lines
    assert "phases[1].share = 0.1" in lines and "optimizer.bias_correction = true" in lines
    config = configs.PretrainConfig(phases=[configs.PhaseConfig(), configs.PhaseConfig()])
    assert [line.partition(" = ")[0] for line in lines] == [n for n, _ in configs.flatten(config)]


def test_a_path_from_another_directory_gives_the_same(tmp_path: pathlib.Path) -> None:
    by_name = shown("--config=pretrain_mini_cpu", cwd=tmp_path)
    by_path = shown(f"--config={ROOT / 'configs/pretrain_mini_cpu.py'}", cwd=tmp_path)
    assert by_name == by_path and "encoder.width = 256" in by_name.out


def test_a_recipe_imports_its_neighbour_from_any_directory(tmp_path: pathlib.Path) -> None:
    recipes, elsewhere = tmp_path / "recipes", tmp_path / "elsewhere"
    recipes.mkdir()
    elsewhere.mkdir()
    base = (ROOT / "configs/pretrain_tiny.py").read_text()
    (recipes / "base.py").write_text(base.replace("width = 128", "width = 48"))
    (recipes / "mine.py").write_text(
        "import base\n\n\ndef get_config():\n    return base.get_config()\n"
    )
    result = shown("--config=../recipes/mine.py", cwd=elsewhere)
    assert result.status == 0 and "encoder.width = 48" in result.out.splitlines()


@pytest.mark.parametrize("driver", ["convert", "predict"])
def test_a_driver_without_a_config_has_no_such_flag(driver: str) -> None:
    error = python_m(driver, "--show_config").error()
    assert error.startswith("unknown flag --show_config")
