r"""Pretraining on pods, on paper: the steps compiled ahead of time; nothing runs.

    pip install -e '.[plan]'
    python -m docs.performance.scale base,v5e:4x4,1,16,1.2 1b,v5p:4x8x8,64,16,4.2

A case is a size, a TPU slice, `mesh.fsdp`, rows of 512 tokens a chip, and the price of a chip for
an hour; the encoder is BERT's, in bfloat16, with dropout as published. Steps take the sum of the
products', the memory's and the links' times at the chip's peak rates if nothing overlaps, and the
longest of them if all does. Hosts save equal parts of a checkpoint, and each restores what its own
chips hold.
"""

import time
from typing import NamedTuple

from absl import app, flags

from benchmarks.sizes import SIZES, VOCAB, encoder_of, vocabulary_of
from bert_jax.config import ComputeType, MeshConfig, PretrainConfig
from bert_jax.distributed import sharding
from bert_jax.planning.abstract_steps import AbstractStep, abstract_pretraining_steps
from bert_jax.planning.compile_ahead import compile_step
from bert_jax.planning.planner import usable_chip
from bert_jax.planning.report import planned, size
from bert_jax.planning.topologies import topology_devices
from docs.performance.table import print_table

_GIGABYTES = flags.DEFINE_float("host_gigabytes", 1.0, "a second that a host writes and reads", 0.0)

_LENGTH = 512
_TOKENS = 1e11  # that are priced
_TOKEN_BYTES = 2  # on disk, of a vocabulary of up to 65,536
_ONE_BILLION = (24, 1792, 28)  # layers, width, heads

HEADER = (
    "size",
    "slice",
    "fsdp",
    "rows",
    "state a chip",
    "memory a chip",
    "of",
    "MFU",
    "M tokens/s",
    "dollars for 100 B tokens",
    "read, MB/s a host",
    "to its chips",
    "saved in, s",
    "restored in, s",
    "compiled in, s",
)


class Case(NamedTuple):
    """A step to compile, and the slice that it is for."""

    size: str
    devices: str
    fsdp: int
    rows: int
    price: float


def parse_case(text: str) -> Case:
    """Parses "base,v5e:4x4,1,16,1.2"."""
    name, devices, fsdp, rows, price = text.split(",")
    return Case(name, devices, int(fsdp), int(rows), float(price))


def step_of(case: Case) -> AbstractStep:
    """Returns the pretraining step of a case."""
    devices = topology_devices(case.devices)
    encoder = encoder_of("large" if case.size == "1b" else case.size, length=_LENGTH)
    if case.size == "1b":
        encoder.layers, encoder.width, encoder.heads = _ONE_BILLION
        encoder.mlp_width = 4 * encoder.width
    encoder.compute_type = ComputeType.BFLOAT16
    config = PretrainConfig(encoder=encoder, batch_size=case.rows * len(devices))
    config.data.length = _LENGTH
    config.mesh = MeshConfig(fsdp=case.fsdp)
    mesh = sharding.make_mesh(config.mesh, devices)
    [step] = abstract_pretraining_steps(config, vocabulary_of(VOCAB), mesh)
    return step


def line(case: Case) -> str:
    """Compiles a case, and returns its line of the table."""
    assert case.size in (*SIZES, "1b"), case.size
    step, begin = step_of(case), time.monotonic()
    footprint = compile_step(step)
    seconds = time.monotonic() - begin
    devices = list(step.mesh.devices.flat)
    chip = usable_chip(devices[0])
    assert chip, case
    plan, state = planned(step, footprint, chip, case.price), step.checkpoint_bytes
    cells = [case.size, case.devices, str(case.fsdp), f"{step.rows:,}"]
    cells.append(size(footprint.parameters + footprint.optimizer))
    cells += [size(footprint.peak), size(chip.memory_bytes)]
    if plan.estimate is None:
        cells += ["does not fit"] + [""] * 7
    else:
        found, hosts = plan.estimate, len({device.process_index for device in devices})
        times = (found.seconds, found.bound)  # nothing overlaps, or all does
        rates = [found.tokens_per_second(each) for each in times]
        hours = [_TOKENS / rate / 3600 * len(devices) for rate in rates]
        restored = state * min(1.0, len(devices) / hosts / case.fsdp)
        cells += [
            " to ".join(f"{found.utilisation(each):.0%}" for each in times),
            " to ".join(f"{rate / 1e6:.2f}" for rate in rates),
            " to ".join(f"{hour * case.price:,.0f}" for hour in hours),
            " to ".join(f"{_TOKEN_BYTES * rate / hosts / 1e6:.1f}" for rate in rates),
            " to ".join(f"{step.host_batch_bytes / each / 1e6:.0f}" for each in times),
            f"{state / hosts / (_GIGABYTES.value * 1e9):.1f}",
            f"{restored / (_GIGABYTES.value * 1e9):.1f}",
        ]
    return f"| {' | '.join((*cells, f'{seconds:.0f}'))} |"


def main(argv: list[str]) -> None:
    """Prints the table, a line at a time."""
    example = "base,v5e:4x4,1,16,1.2"
    print_table(HEADER, argv[1:], parse_case, lambda case: case.devices, line, example)


if __name__ == "__main__":
    app.run(main)
