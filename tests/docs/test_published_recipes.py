"""The recipes equal the tables of docs/recipes.md, which name the source of each number."""

import pathlib
import re

import numpy as np
import pytest

from bert_jax.cli.recipes import resolve_config
from bert_jax.config import DistillConfig, PretrainConfig, flatten, validate
from bert_jax.data.pretraining.phases import resolve_phases
from bert_jax.training.schedules import pretraining_settings

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "recipes.md"


def tables() -> dict[str, dict[str, str]]:
    """Returns recipe -> field -> value, as the page has them."""
    found: dict[str, dict[str, str]] = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        rows = re.findall(r"^\| `([^`]+)` \| (\S+) \| (.+) \|$", section, re.MULTILINE)
        assert all(source for _, _, source in rows)
        found[section.split("\n")[0]] = {field: value for field, value, _ in rows}
    return found


def config_of(recipe: str) -> PretrainConfig:
    """Returns the config of a recipe, as a user's run would have it."""
    distils = recipe.startswith("distil")
    config = resolve_config(recipe, [], DistillConfig if distils else PretrainConfig)
    config.data.corpus = "corpus"
    return config


@pytest.mark.parametrize("recipe", tables())
def test_each_number_is_that_of_the_page(recipe: str) -> None:
    config, table = config_of(recipe), tables()[recipe]
    validate(config)
    values = {name: str(value) for name, value in flatten(config)}
    assert len(table) > 15
    assert {name: values[name] for name in table} == table


def test_the_page_has_every_recipe_that_follows_a_paper() -> None:
    assert set(tables()) == {
        "pretrain_base",
        "pretrain_roberta_base",
        "pretrain_modern_base",
        "pretrain_neobert",
        "pretrain_crammed_base",
        "distilbert",
        "distil_minilm_6x384",
    }


def test_the_phases_of_modernbert_have_the_tokens_of_the_paper() -> None:
    config = config_of("pretrain_modern_base")
    phases = resolve_phases(config)
    tokens = [
        (phase.end_step - phase.first_step) * phase.batch_size * phase.data.length
        for phase in phases
    ]
    np.testing.assert_allclose(sum(tokens[:5]), 50e9, rtol=1e-3)
    np.testing.assert_allclose(sum(tokens[:6]), 1.719e12, rtol=1e-5)
    np.testing.assert_allclose(tokens[6:], [250e9, 50e9], rtol=1e-5)
    settings = pretraining_settings(config.optimizer, config.masking, phases, config.steps)
    begin = phases[-1].first_step
    rates = {step: float(settings(step).learning_rate) for step in (0, 3815, 382_741, 382_742)}
    assert rates == pytest.approx({0: 0, 3815: 8e-4, 382_741: 8e-4, 382_742: 3e-4}, rel=1e-5)
    assert float(settings(begin).learning_rate) == pytest.approx(3e-4, rel=1e-5)
    half = (begin + config.steps) // 2
    assert float(settings(half).learning_rate) == pytest.approx(3e-4 * (1 - 0.5**0.5), rel=1e-3)
    assert [phase.encoder.rope_theta for phase in phases] == [1e4] * 6 + [1.6e5] * 2


def test_neoberts_rate_falls_over_nine_tenths_of_its_first_million() -> None:
    config = config_of("pretrain_neobert")
    phases = resolve_phases(config)
    settings = pretraining_settings(config.optimizer, config.masking, phases, config.steps)
    steps = (0, 2_000, 451_000, 899_999, 950_000, 1_049_999)
    rates = [float(settings(step).learning_rate) for step in steps]
    assert rates == pytest.approx([0, 6e-4, 3.3e-4, 6e-5, 6e-5, 6e-5], rel=1e-4)
    assert {phase.batch_size * phase.data.length for phase in phases} == {2**21}
