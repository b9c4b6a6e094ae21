"""Effect of each option on the step's program for a TPU, compiled ahead of time; nothing runs.

    pip install libtpu
    python -m docs.performance.tpu_levers --size=base --batch=256 --length=512 --topology=v5e:4x4

The table has the products relative to the formula of `model/flops.py` (fewer, because of what the
last layer leaves out), the traffic and memory of a chip from the compiled program, and the time of
a step at the chip's peak rates, with full overlap and without any.
"""

import dataclasses
import sys
from typing import Any

import jax
from absl import app, flags

from benchmarks.sizes import SIZES, VOCAB, encoder_of, vocabulary_of
from bert_jax.config import AttentionKernel, ComputeType, MeshConfig, PretrainConfig, Remat
from bert_jax.distributed import sharding
from bert_jax.distributed.chips import find_chip
from bert_jax.planning.abstract_steps import AbstractStep, abstract_pretraining_steps
from bert_jax.planning.hlo import parse_program
from bert_jax.planning.hlo_costs import program_costs
from bert_jax.planning.roofline import estimate
from bert_jax.planning.topologies import only_compile, topology_devices

_SIZE = flags.DEFINE_enum("size", "base", list(SIZES), "the model")
_BATCH = flags.DEFINE_integer("batch", 256, "rows, of all chips")
_LENGTH = flags.DEFINE_integer("length", 512, "tokens in a row")
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:4x4", "as in `plan`")
_ONLY = flags.DEFINE_list("only", [], "levers to compile; none: all")

# name -> fields of the config or of its encoder; the first is the baseline.
LEVERS: dict[str, dict[str, Any]] = {
    "bfloat16": {},
    "float32": {"compute_type": ComputeType.FLOAT32},
    "attention dropout 0": {"attention_dropout_rate": 0.0},
    "fused attention": {
        "attention_dropout_rate": 0.0,
        "attention": AttentionKernel.FUSED,
    },
    "no dropout": {"attention_dropout_rate": 0.0, "dropout_rate": 0.0},
    "unrolled": {"unroll": 12},
    "remat=products": {"remat": Remat.PRODUCTS},
    "remat=inputs": {"remat": Remat.INPUTS},
    "micro_batches=4": {"micro_batches": 4},
    "vocabulary of 30,592": {"vocab_size": 30_592},
}


def step_with(changes: dict[str, Any], devices: list[Any]) -> AbstractStep:
    """Returns the pretraining step with some fields of the config changed."""
    encoder = encoder_of(_SIZE.value, length=_LENGTH.value)
    encoder.compute_type = ComputeType.BFLOAT16
    encoder.attention, encoder.unroll = AttentionKernel.PRODUCTS, 1
    config = PretrainConfig(encoder=encoder, batch_size=_BATCH.value)
    config.data.length = _LENGTH.value
    for name, value in changes.items():
        group = encoder if name in {f.name for f in dataclasses.fields(encoder)} else config
        setattr(group, name, value)
    vocabulary = vocabulary_of(VOCAB)
    (step,) = abstract_pretraining_steps(
        config, vocabulary, sharding.make_mesh(MeshConfig(), devices)
    )
    return step


def line(name: str, step: AbstractStep) -> str:
    """Compiles a step, and returns its line of the table."""
    devices = step.mesh.size
    chip = find_chip(step.mesh.devices.flat[0].device_kind)
    assert chip, f"{_TOPOLOGY.value} has no known chip"
    compiled = step.lower().compile()
    text, memory = compiled.as_text(), compiled.memory_analysis()
    assert text and memory
    costs = program_costs(parse_program(text), devices)
    times = estimate(
        chip,
        costs,
        tokens=step.tokens,
        model_flops=step.model_flops,
        steps=1,
        hosts=[device.process_index for device in step.mesh.devices.flat],
    )
    needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    cells = [
        name,
        f"{costs.flops * devices / step.model_flops:.3f}",
        f"{costs.memory_bytes / 1e9:.1f}",
        f"{costs.sent_bytes / 1e9:.2f}",
        f"{needed / 2**30:.2f}",
        f"{times.bound * 1e3:.1f} to {times.seconds * 1e3:.1f}",
        f"{times.utilisation(times.bound):.0%} to {times.utilisation(times.seconds):.0%}",
        f"{text.count(' fusion(')}",
        f"{text.count('custom-call(')}",
    ]
    return f"| {' | '.join(cells)} |"


def main(_: list[str]) -> None:
    """Compiles every lever and prints a line for each."""
    only_compile([_TOPOLOGY.value])
    devices = topology_devices(_TOPOLOGY.value)
    print(
        "| lever | products, of the formula's | traffic, GB | sent, GB | memory, GiB | step, ms |"
        " MFU | fusions | kernels of others |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in _ONLY.value or LEVERS:
        try:
            print(line(name, step_with(LEVERS[name], devices)), flush=True)
        except jax.errors.JaxRuntimeError as error:  # it does not fit
            print(f"{name}: {str(error).splitlines()[0]}", file=sys.stderr)
            print(f"| {name} | does not fit |", flush=True)


if __name__ == "__main__":
    app.run(main)
