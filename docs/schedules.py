"""Draws the settings along the phases of ModernBERT's recipe into one picture.

python -m docs.schedules
"""

import pathlib

import numpy as np

from bert_jax.cli.recipes import resolve_config
from bert_jax.config import PretrainConfig
from bert_jax.data.pretraining.phases import resolve_phases
from bert_jax.training.schedules import pretraining_settings, tabulate
from docs.results import ROOT

RECIPE = "pretrain_modern_base"


def draw(path: pathlib.Path) -> None:
    """Draws learning rate, tokens in a batch and length of rows over the tokens of the run."""
    from matplotlib.figure import Figure

    config = resolve_config(RECIPE, [], PretrainConfig)
    phases = resolve_phases(config)
    settings = pretraining_settings(config.optimizer, config.masking, phases, config.steps)
    rates = np.asarray(tabulate(settings, config.steps).learning_rate)[: config.steps]
    sizes = np.zeros((2, config.steps))  # tokens in a batch, tokens in a row
    for phase in phases:
        tokens = phase.batch_size * phase.data.length
        sizes[:, phase.first_step : phase.end_step] = [[tokens], [phase.data.length]]
    seen = np.cumsum(sizes[0]) / 1e12
    shown = np.unique(np.geomspace(1, config.steps, 4_000).astype(int)) - 1
    shown = np.union1d(shown, np.arange(0, config.steps, 200))
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    curves = (
        ("learning rate", rates),
        ("tokens in a batch", sizes[0]),
        ("tokens in a row", sizes[1]),
    )
    for axis, (name, values) in zip(axes, curves, strict=True):
        axis.plot(seen[shown], values[shown])
        axis.set_ylabel(name)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("tokens seen, trillions")
    figure.suptitle(f"{RECIPE}: {len(phases)} phases, {config.steps:,} steps")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    draw(ROOT / "docs" / "schedules.png")
