r"""Steps with their layers in a scan and unrolled, compiled ahead of time; nothing runs.

    pip install -e '.[plan]'
    python -m docs.performance.unrolled base,bert,512,v5e:2x4,1,none base,bert,512,h100:8,8,none

A case is a size, family, T, devices, `mesh.fsdp` and remat. bfloat16, 4,096 tokens a device,
products as attention. `bert_jax/model/by_platform.py` has the rule that these figures led to.
"""

import time
from typing import NamedTuple

from absl import app

from benchmarks.sizes import VOCAB, encoder_of, modern_encoder_of, vocabulary_of
from bert_jax.config import (
    AttentionKernel,
    ComputeType,
    EncoderConfig,
    MeshConfig,
    PretrainConfig,
    Remat,
)
from bert_jax.distributed import sharding
from bert_jax.planning.abstract_steps import AbstractStep, abstract_pretraining_steps
from bert_jax.planning.compile_ahead import compile_step
from bert_jax.planning.topologies import topology_devices
from docs.performance.table import print_table

_TOKENS = 4_096  # of a device

HEADER = (
    "size",
    "family",
    "T",
    "devices",
    "fsdp",
    "remat",
    "traffic, GB",
    "unrolled",
    "temporaries, MB",
    "unrolled",
    "sent, MB",
    "unrolled",
    "compiled, s",
    "unrolled",
)


class Case(NamedTuple):
    """A step to compile twice."""

    size: str
    family: str
    length: int
    devices: str
    fsdp: int
    remat: str


def parse_case(text: str) -> Case:
    """Parses "base,bert,512,v5e:2x4,1,none"."""
    size, family, length, devices, fsdp, remat = text.split(",")
    return Case(size, family, int(length), devices, int(fsdp), remat)


def step_of(case: Case, unroll: int) -> AbstractStep:
    """Returns the pretraining step of a case; `unroll` 0 unrolls all layers."""
    devices = topology_devices(case.devices)
    make_encoder = encoder_of if case.family == "bert" else modern_encoder_of
    encoder: EncoderConfig = make_encoder(case.size, length=case.length)
    encoder.compute_type, encoder.attention = ComputeType.BFLOAT16, AttentionKernel.PRODUCTS
    encoder.remat, encoder.unroll = Remat(case.remat), unroll or encoder.layers
    rows = max(_TOKENS // case.length, 1) * len(devices)
    config = PretrainConfig(encoder=encoder, batch_size=rows, mesh=MeshConfig(fsdp=case.fsdp))
    config.data.length = case.length
    mesh = sharding.make_mesh(config.mesh, devices)
    [step] = abstract_pretraining_steps(config, vocabulary_of(VOCAB), mesh)
    return step


def line(case: Case) -> str:
    """Compiles a case both ways, and returns its line of the table."""
    figures = []
    for unroll in (1, 0):
        begin = time.monotonic()
        found = compile_step(step_of(case, unroll))
        assert found.costs, f"{case} does not fit"
        figures.append(
            (
                f"{found.costs.memory_bytes / 1e9:.1f}",
                f"{found.temporaries / 1e6:,.0f}",
                f"{sum(found.sent.values()) / 1e6:,.0f}",
                f"{time.monotonic() - begin:.0f}",
            )
        )
    pairs = [value for pair in zip(*figures, strict=True) for value in pair]
    return f"| {' | '.join([*map(str, case), *pairs])} |"


def main(argv: list[str]) -> None:
    """Prints the table, a line at a time."""
    print_table(
        HEADER,
        argv[1:],
        parse_case,
        lambda case: case.devices,
        line,
        "base,bert,512,v5e:2x2,1,none",
    )


if __name__ == "__main__":
    app.run(main)
