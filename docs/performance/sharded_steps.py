r"""Bytes that fully sharded steps send, beside the count on paper; compiled ahead, nothing runs.

    pip install -e '.[plan]'
    python -m docs.performance.sharded_steps base,v5e:2x4,8,1 large,v5e:16x16,256,1

A case is a size, devices, `mesh.fsdp` and `mesh.tensor`; the rest of the mesh is data parallel.
bfloat16, 8 rows of 512 tokens for each group of devices that shares rows. On paper a device sends
(n - 1) / n of what it gathers, exchanges or adds up with n devices. With `fsdp` that are the
parameters, in bfloat16, three times: gathered forward and backward, their gradients added up; and
the float32 vectors of the tokens and their gradients, since each device looks up a part of the
width. Data parallel groups add up what is left of the gradients, and `tensor` the activations of
each layer four times.
"""

import time
from typing import NamedTuple

import jax
from absl import app

from benchmarks.sizes import SIZES, VOCAB, encoder_of, vocabulary_of
from bert_jax.config import ComputeType, MeshConfig, PretrainConfig
from bert_jax.distributed import sharding
from bert_jax.planning.abstract_steps import AbstractStep, abstract_pretraining_steps
from bert_jax.planning.compile_ahead import compile_step
from bert_jax.planning.topologies import topology_devices
from docs.performance.table import print_table

_ROWS, _LENGTH = 8, 512  # of a group of devices that shares rows
_BYTES = 2  # of a bfloat16

HEADER = (
    "size",
    "devices",
    "fsdp",
    "tensor",
    "sent, MB",
    "on paper, MB",
    "ratio",
    "state, MB",
    "temporaries, MB",
    "traffic, GB",
    "compiled, s",
)


class Case(NamedTuple):
    """A step to compile, and the mesh it is for."""

    size: str
    devices: str
    fsdp: int
    tensor: int


def parse_case(text: str) -> Case:
    """Parses "base,v5e:2x4,8,1"."""
    size, devices, fsdp, tensor = text.split(",")
    assert size in SIZES, size
    return Case(size, devices, int(fsdp), int(tensor))


def step_of(case: Case) -> AbstractStep:
    """Returns the pretraining step of a case."""
    devices = topology_devices(case.devices)
    encoder = encoder_of(case.size, length=_LENGTH)
    encoder.compute_type, encoder.unroll = ComputeType.BFLOAT16, 1
    config = PretrainConfig(encoder=encoder, batch_size=_ROWS * len(devices) // case.tensor)
    config.data.length = _LENGTH
    config.mesh = MeshConfig(fsdp=case.fsdp, tensor=case.tensor)
    mesh = sharding.make_mesh(config.mesh, devices)
    [step] = abstract_pretraining_steps(config, vocabulary_of(VOCAB), mesh)
    return step


def sent_on_paper(step: AbstractStep) -> float:
    """Returns the bytes that a device must send in a step."""
    shape = step.mesh.shape
    fsdp, tensor, data = shape["fsdp"], shape["tensor"], shape["data"]
    params = step.compiled.abstract.params
    encoder = step.compiled.model.config
    layers = sum(leaf.size for leaf in jax.tree.leaves(params["encoder"]["layers"]))
    weights = sum(leaf.size for leaf in jax.tree.leaves(params)) - layers * (1 - 1 / tensor)
    activations = _ROWS * _LENGTH * encoder.width
    sent = 3 * _BYTES * weights * (fsdp - 1) / fsdp
    sent += 2 * 4 * activations * (fsdp - 1) / fsdp
    # A sum that all devices get is sent twice: added up in parts, and gathered.
    sent += 2 * _BYTES * weights / fsdp * (data - 1) / data
    sent += 2 * _BYTES * 4 * encoder.layers * activations * (tensor - 1) / tensor
    return sent


def line(case: Case) -> str:
    """Compiles a case, and returns its line of the table."""
    step, begin = step_of(case), time.monotonic()
    found = compile_step(step)
    seconds, paper = time.monotonic() - begin, sent_on_paper(step)
    sent = sum(found.sent.values())
    assert found.costs, f"{case} does not fit"
    cells = [
        *map(str, case),
        f"{sent / 1e6:,.0f}",
        f"{paper / 1e6:,.0f}",
        f"{sent / paper:.2f}",
        f"{(found.parameters + found.optimizer) / 1e6:,.0f}",
        f"{found.temporaries / 1e6:,.0f}",
        f"{found.costs.memory_bytes / 1e9:.1f}",
        f"{seconds:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main(argv: list[str]) -> None:
    """Prints the table, a line at a time."""
    print_table(HEADER, argv[1:], parse_case, lambda case: case.devices, line, "base,v5e:2x4,8,1")


if __name__ == "__main__":
    app.run(main)
