"""Memory saved by each option, and its cost in FLOPs, read from the compiled step; nothing runs.

    python -m docs.performance.memory --size=base --batch=32 --length=128
    python -m docs.performance.memory --size=base --batch=32 --length=128 --devices=8

With several devices the table compares meshes instead, by the memory of one device. Bytes are those
of XLA on CPU; FLOPs are those of the program on one device.
"""

import dataclasses

import jax
from absl import app, flags

from benchmarks.sizes import SIZES, VOCAB, encoder_of, vocabulary_of
from bert_jax.config import ComputeType, MeshConfig, PretrainConfig, Remat
from bert_jax.distributed import sharding
from bert_jax.planning.abstract_steps import abstract_pretraining_steps
from bert_jax.planning.compile_ahead import compile_step

_SIZE = flags.DEFINE_enum("size", "base", list(SIZES), "the model")
_BATCH = flags.DEFINE_integer("batch", 32, "rows")
_LENGTH = flags.DEFINE_integer("length", 128, "tokens in a row")
_DEVICES = flags.DEFINE_integer("devices", 1, "more than one: compare their meshes")

LEVERS = {
    "baseline": {},
    "micro_batches=2": {"micro_batches": 2},
    "micro_batches=4": {"micro_batches": 4},
    "micro_batches=8": {"micro_batches": 8},
    "encoder.remat=products": {"remat": Remat.PRODUCTS},
    "encoder.remat=inputs": {"remat": Remat.INPUTS},
    "encoder.unroll=12": {"unroll": 12},
    "encoder.compute_type=bfloat16": {"compute_type": ComputeType.BFLOAT16},
    "optimizer.first_moment_type=bfloat16": {"first_moment_type": ComputeType.BFLOAT16},
    "remat=inputs, micro_batches=4": {"remat": Remat.INPUTS, "micro_batches": 4},
}


def config_with(changes: dict) -> PretrainConfig:
    """Returns a config of the size with some fields changed, in the group that has them."""
    encoder = encoder_of(_SIZE.value)
    encoder.unroll = 1
    config = PretrainConfig(encoder=encoder, batch_size=_BATCH.value)
    config.data.length = _LENGTH.value
    for name, value in changes.items():
        groups = (config, config.encoder, config.optimizer)
        group = next(g for g in groups if name in {f.name for f in dataclasses.fields(g)})
        setattr(group, name, value)
    return config


def measure(changes: dict, mesh: MeshConfig) -> tuple[float, float, float]:
    """Returns GiB of the step's arguments, GiB of temporaries, and FLOPs."""
    vocabulary = vocabulary_of(VOCAB)
    devices = sharding.make_mesh(mesh, jax.devices()[: _DEVICES.value])
    (step,) = abstract_pretraining_steps(config_with(changes), vocabulary, devices)
    footprint = compile_step(step)
    assert footprint.costs
    gib = 2.0**30
    return footprint.arguments / gib, footprint.temporaries / gib, footprint.costs.flops


def main(_: list[str]) -> None:
    """Compiles every setting and prints a line for each."""
    jax.config.update("jax_num_cpu_devices", _DEVICES.value)
    settings = [(name, changes, MeshConfig()) for name, changes in LEVERS.items()]
    if _DEVICES.value > 1:
        powers = [2**n for n in range(_DEVICES.value.bit_length())]
        heads = SIZES[_SIZE.value][2]
        meshes = [MeshConfig(fsdp=n) for n in powers]
        meshes += [MeshConfig(tensor=n) for n in powers[1:] if heads % n == 0]
        settings = [(f"fsdp={mesh.fsdp} tensor={mesh.tensor}", {}, mesh) for mesh in meshes]
    print("| setting | state, GiB | temporaries, GiB | both, of the first | FLOPs, of the first |")
    print("|---|---|---|---|---|")
    first = None
    for name, changes, mesh in settings:
        state, temporaries, flops = measure(changes, mesh)
        first = first or (state + temporaries, flops)
        print(
            f"| {name} | {state:.2f} | {temporaries:.2f} | {(state + temporaries) / first[0]:.2f} |"
            f" {flops / first[1]:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
