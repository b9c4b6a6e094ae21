"""Recipes of several directories, in one process."""

import pathlib
import sys

import pytest

from bert_jax.cli.recipes import find_recipe, read_recipe, recipe_folder, resolve_config
from bert_jax.config import FinetuneConfig, PretrainConfig
from bert_jax.errors import UserError

RECIPE = "import base\n\n\ndef get_config():\n    return base.get_config()\n"
BASE = """
from bert_jax.config import PretrainConfig

def get_config():
    return PretrainConfig(steps={steps})
"""


def test_neighbours_of_two_directories_are_not_mistaken(tmp_path: pathlib.Path) -> None:
    for steps in (3, 5):
        folder = tmp_path / str(steps)
        folder.mkdir()
        (folder / "base.py").write_text(BASE.format(steps=steps))
        (folder / "mine.py").write_text(RECIPE)
    before = list(sys.path), set(sys.modules)
    for steps in (3, 5, 3):
        assert read_recipe(f"{tmp_path}/{steps}/mine.py", PretrainConfig).steps == steps
    assert (list(sys.path), set(sys.modules)) == before


def test_every_recipe_is_found_by_its_name() -> None:
    names = [path.stem for path in recipe_folder().glob("[!_]*.py")]
    assert "pretrain_base" in names and len(names) > 10
    for name in names:
        assert find_recipe(name) == (recipe_folder() / f"{name}.py", "")
    assert find_recipe("glue:mrpc")[1] == "mrpc"
    assert resolve_config("glue:mrpc", [], FinetuneConfig).data.positive_label == "1|equivalent"


def test_of_two_overrides_the_later_one_wins() -> None:
    overrides = ["steps=3", "phases[1].share=0.5", "encoder.causal=true", "steps=7"]
    config = resolve_config("pretrain_base", overrides, PretrainConfig)
    assert (config.steps, config.phases[1].share, config.encoder.causal) == (7, 0.5, True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("glue:mprc", "mprc"),
        ("glu", "--config=glu is no recipe; did you mean --config=glue?"),
        ("pretrain_base:x", "--config=pretrain_base:x: TypeError: "),
    ],
)
def test_a_wrong_word_is_named(given: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        read_recipe(given, FinetuneConfig)
    assert message in str(raised.value)
