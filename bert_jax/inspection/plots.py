"""Plots of attention and of changed parameters, as figures for a notebook to show or save."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bert_jax.errors import UserError
from bert_jax.inspection.internals import Internals
from bert_jax.inspection.tables import STACKED, Table


def plot_attention(inside: Internals, layer: int, head: int) -> Figure:
    """Plots the attention of one head: from each token (row) to each token (column).

    Args:
      inside: from `text_internals`.
      layer: from 1, the lowest.
      head: from 1.
    """
    size = 1.8 + 0.28 * len(inside.tokens)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    image = _map(axes, inside.attention[layer - 1, head - 1], vmax=1)
    _name_ticks(axes, inside.tokens, inside.tokens)
    axes.set_title(f"layer {layer}, head {head}", fontsize=10)
    figure.colorbar(image, label="probability", shrink=0.8)
    return figure


def plot_attention_grid(inside: Internals) -> Figure:
    """Plots the attention of all heads as small maps, the lowest layer at the top."""
    layers, heads = inside.attention.shape[:2]
    figure = Figure(figsize=(0.6 + 1.5 * heads, 1.6 * layers), layout="constrained")
    grid = figure.subplots(layers, heads, squeeze=False)
    for (layer, head), axes in np.ndenumerate(grid):
        _map(axes, inside.attention[layer, head], vmax=1)
        axes.set_xticks([])
        axes.set_yticks([])
        if layer == 0:
            axes.set_title(f"head {head + 1}", fontsize=9)
        if head == 0:
            axes.set_ylabel(f"layer {layer + 1}", fontsize=9)
    return figure


def plot_changes(table: Table) -> Figure:
    """Plots the relative change of each array in each layer.

    Args:
      table: from `parameter_changes`, by array.

    Raises:
      UserError: if none of them is of a layer.
    """
    rows = [row for row in table if row["layer"]]
    if not rows:
        raise UserError("--output: a picture is of arrays of layers, and --match has none")
    names = sorted({row["name"] for row in rows})
    layers = sorted({row["layer"] for row in rows})
    values = np.full((len(layers), len(names)), np.nan)
    for row in rows:
        values[layers.index(row["layer"]), names.index(row["name"])] = row["relative_change"]
    # Biases near 0 change by many times their norm; so the colours cover the range of the kernels.
    kernels = [n for n, name in enumerate(names) if name.endswith(("kernel", "scale"))]
    most = np.nanmax(values[:, kernels] if kernels else values)
    figure = Figure(
        figsize=(2.5 + 0.5 * len(names), 2.2 + 0.35 * len(layers)), layout="constrained"
    )
    axes = figure.subplots()
    image = _map(axes, values, vmax=most, aspect="auto")
    _name_ticks(axes, [str(layer) for layer in layers], [n.removeprefix(STACKED) for n in names])
    _write(axes, values, most)
    axes.set_ylabel("layer")
    figure.colorbar(image, label="relative change", extend="max")
    return figure


def plot_steps(table: Table) -> Figure:
    """Plots the relative change of each part from each checkpoint of a run to the next.

    Args:
      table: from `changes_by_step`, by part.
    """
    parts = list(dict.fromkeys(row["part"] for row in table))
    steps = list(dict.fromkeys((row["from"], row["to"]) for row in table))
    values = np.full((len(parts), len(steps)), np.nan)
    for row in table:
        at = parts.index(row["part"]), steps.index((row["from"], row["to"]))
        values[at] = row["relative_change"]
    figure = Figure(figsize=(2.8 + 0.7 * len(steps), 1.5 + 0.35 * len(parts)), layout="constrained")
    axes = figure.subplots()
    image = _map(axes, values, vmax=np.nanmax(values), aspect="auto")
    _name_ticks(axes, parts, [f"{one:,} to {other:,}" for one, other in steps])
    _write(axes, values, np.nanmax(values))
    axes.set_xlabel("steps")
    figure.colorbar(image, label="relative change")
    return figure


def _map(axes: Axes, values: np.ndarray, *, vmax: float, aspect: Any = "equal") -> Any:
    return axes.imshow(values, cmap="Blues", vmin=0, vmax=vmax, aspect=aspect)


def _name_ticks(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    rows, columns = ([name.replace("$", r"\$") for name in names] for names in (rows, columns))
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.set_xticks(range(len(columns)), columns, fontsize=8, rotation=90)


def _write(axes: Axes, values: np.ndarray, most: float) -> None:
    for (row, column), value in np.ndenumerate(values):
        color = "white" if value > 0.6 * most else "black"
        text = "" if np.isnan(value) else f"{value:.2g}"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=7)
