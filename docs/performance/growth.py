"""Growth of a step's time and memory with rows, tokens, layers, width, vocabulary and devices.

    python -m docs.performance.growth --output=docs/performance/growth.png
    python -m docs.performance.growth --long_rows

Starting from one small shape, it doubles one size at a time. After each figure stands its ratio to
the one before, also for model FLOPs by the formula (`model/flops.py`) and bytes of the state. With
several devices the step is only compiled; figures are per device. `--long_rows` doubles the tokens
of a single row to 8,192, where layers see all tokens, and where they see windows.
"""

import dataclasses
import pathlib
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

from benchmarks.rows import full_rows
from benchmarks.sizes import vocabulary_of
from bert_jax.config import EncoderConfig, MeshConfig, PositionEncoding, PretrainConfig
from bert_jax.distributed import sharding
from bert_jax.model.flops import pretraining_flops
from bert_jax.objectives.masking import MaskVocabulary, masked_slots
from bert_jax.planning.abstract_steps import abstract_pretraining_steps
from bert_jax.planning.compile_ahead import compile_step
from bert_jax.runs.steps import pretraining_steps
from bert_jax.training.state import init_params, init_state

_OUTPUT = flags.DEFINE_string("output", "", "file for a plot; '': none")
_TURNS = flags.DEFINE_integer("turns", 5, "steps of each shape; the medians are printed")
_LONG_ROWS = flags.DEFINE_bool("long_rows", False, "long rows instead, with windows and without")

_DEVICES = 8
_LONGEST = 512  # T of BERT


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a step: rows, tokens in a row, layers, width, vocabulary, devices and window."""

    B: int = 16
    T: int = 128
    L: int = 4
    D: int = 256
    V: int = 8192
    devices: int = 1
    window: int = 0

    def config(self) -> PretrainConfig:
        """Returns the config of the shape, with dropout as published and heads of width 64."""
        encoder = EncoderConfig(
            vocab_size=self.V,
            layers=self.L,
            width=self.D,
            heads=self.D // 64,
            mlp_width=4 * self.D,
            max_length=max(512, self.T),
            unroll=1,
            window=self.window,
        )
        if self.T > _LONGEST:  # no model of so long rows has a table of places, or drops attention
            encoder.position_encoding = PositionEncoding.ROTARY
            encoder.attention_dropout_rate = 0.0
        config = PretrainConfig(encoder=encoder, batch_size=self.B)
        config.data.length, config.data.max_examples_per_row = self.T, 1
        return config


GROWN = {
    "B": (8, 16, 32, 64),
    "T": (64, 128, 256, _LONGEST),
    "L": (2, 4, 8, 16),
    "D": (128, 256, 512, 1024),
    "V": (4096, 8192, 16384, 32768),
    "devices": (1, 2, 4, 8),
}
LONG = (1024, 2048, 4096, 8192)


def shapes() -> dict[str, dict[int, Shape]]:
    """Returns what is measured: axis -> size -> shape."""
    if _LONG_ROWS.value:
        windows = {"windows of 64, T": 64, "all tokens, T": 0}
        return {
            name: {size: Shape(B=1, T=size, window=window) for size in LONG}
            for name, window in windows.items()
        }
    return {
        axis: {size: dataclasses.replace(Shape(), **{axis: size}) for size in sizes}
        for axis, sizes in GROWN.items()
    }


@dataclasses.dataclass(frozen=True)
class Cost:
    """Costs of a step on one device."""

    flops: float  # by the formula
    program_flops: float  # products of the compiled program
    state_bytes: float
    temporary_bytes: float
    traffic_bytes: float
    seconds: float | None  # None: not run


def measure(shape: Shape, turns: int) -> Cost:
    """Compiles a shape, and runs it if it has one device."""
    config = shape.config()
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[: shape.devices])
    vocabulary = vocabulary_of(shape.V)
    (step,) = abstract_pretraining_steps(config, vocabulary, mesh)
    footprint = compile_step(step)
    assert footprint.costs
    slots = masked_slots(shape.T, 1, config.masking)
    tokens = shape.B * shape.T / shape.devices
    return Cost(
        flops=tokens * pretraining_flops(config.encoder, shape.T, slots),
        program_flops=footprint.costs.flops,
        state_bytes=footprint.arguments,
        temporary_bytes=footprint.temporaries,
        traffic_bytes=footprint.costs.memory_bytes,
        seconds=run(config, vocabulary, mesh, turns) if shape.devices == 1 else None,
    )


def run(config: PretrainConfig, vocabulary: MaskVocabulary, mesh: Any, turns: int) -> float:
    """Returns the median seconds of a step on full rows."""
    [compiled] = pretraining_steps(config, vocabulary, mesh)
    params = init_params(compiled.model, 0, compiled.abstract.params)
    state = init_state(params, compiled.tx, compiled.abstract)
    rows = sharding.host_rows(config.batch_size, mesh)
    fields = full_rows(config.batch_size, config.data.length, config.encoder.vocab_size)
    batch = sharding.global_batch(fields, rows, len(rows), mesh)
    run, seconds = compiled.inputs(0), []
    for _ in range(turns + 2):
        begin = time.perf_counter()
        state, totals = compiled.train_step(state, batch, run)
        jax.block_until_ready((state, totals))
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[2:])


def lines(axis: str, costs: Mapping[int, Cost]) -> Iterator[str]:
    """Yields the lines of a table for one axis: figures, and their ratios to the ones before."""
    before: Cost | None = None
    for size, cost in costs.items():
        cells = [f"{axis}={size}"]
        for field in dataclasses.fields(Cost):
            value = getattr(cost, field.name)
            if value is None:
                cells.append("-")
                continue
            unit = 1e9 if field.name != "seconds" else 1.0
            grew = f" ({value / getattr(before, field.name):.2f}x)" if before else ""
            cells.append(f"{value / unit:.3f}{grew}")
        yield f"| {' | '.join(cells)} |"
        before = cost


def draw(costs: Mapping[str, Mapping[int, Cost]], path: pathlib.Path) -> None:
    """Plots seconds, traffic, temporaries and FLOPs over each axis, relative to the first."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, -(-len(costs) // 2))
    shown = {
        "flops": ("model FLOPs", "k--"),
        "seconds": ("seconds", "C0o-"),
        "traffic_bytes": ("memory traffic", "C1s-"),
        "temporary_bytes": ("temporaries", "C2^-"),
    }
    for ax, (axis, of_sizes) in zip(axes.flat, costs.items(), strict=True):
        sizes = list(of_sizes)
        for field, (label, style) in shown.items():
            values = [getattr(cost, field) for cost in of_sizes.values()]
            if None not in values:
                ax.plot(sizes, np.array(values) / values[0], style, label=label)
        ax.set(xscale="log", yscale="log", xlabel=axis, ylabel=f"relative to {axis}={sizes[0]}")
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.minorticks_off()
        ax.grid(visible=True, alpha=0.3)
    axes.flat[0].legend()
    figure.savefig(path, dpi=110)


def main(_: list[str]) -> None:
    """Prints the table, and draws the plot."""
    jax.config.update("jax_num_cpu_devices", _DEVICES)
    print(
        "| shape | model, GFLOP | program, GFLOP | state, GB | temporaries, GB | traffic, GB | s |"
    )
    print("|---|---|---|---|---|---|---|")
    costs: dict[str, dict[int, Cost]] = {}
    for axis, grown in shapes().items():
        costs[axis] = {size: measure(shape, _TURNS.value) for size, shape in grown.items()}
        for line in lines(axis, costs[axis]):
            print(line, flush=True)
    if _OUTPUT.value:
        draw(costs, pathlib.Path(_OUTPUT.value))


if __name__ == "__main__":
    app.run(main)
