"""Fully sharded steps: the bytes that they send, and keep for the backward pass."""

import dataclasses

import jax
import pytest

from benchmarks.sizes import encoder_of, vocabulary_of
from bert_jax.config import MeshConfig, PretrainConfig, Remat
from bert_jax.distributed import sharding
from bert_jax.planning.abstract_steps import AbstractStep, abstract_pretraining_steps
from bert_jax.planning.compile_ahead import Footprint, compile_step

_LENGTH, _VOCAB = 128, 2000


def step_on(mesh: MeshConfig, remat: Remat = Remat.NONE, layers: int = 4) -> AbstractStep:
    """Returns the step of a mini, 4 rows on each of the devices, its layers in a scan."""
    encoder = dataclasses.replace(
        encoder_of("mini", length=_LENGTH, vocab=_VOCAB), remat=remat, layers=layers, unroll=1
    )
    groups = mesh.fsdp * max(mesh.data, 1)
    config = PretrainConfig(encoder=encoder, batch_size=4 * groups, mesh=mesh)
    config.data.length = _LENGTH
    devices = jax.devices()[: groups * mesh.tensor]
    [step] = abstract_pretraining_steps(
        config, vocabulary_of(_VOCAB), sharding.make_mesh(mesh, devices)
    )
    return step


def sent_by(footprint: Footprint, operation: str) -> float:
    return sum(count for (name, _), count in footprint.sent.items() if name == operation)


@pytest.mark.parametrize("remat", list(Remat), ids=lambda remat: remat.value)
def test_parameters_are_sent_and_activations_stay(remat: Remat) -> None:
    step = step_on(MeshConfig(fsdp=8), remat)
    found = compile_step(step)
    params = step.compiled.abstract.params
    count = sum(leaf.size for leaf in jax.tree.leaves(params)) * 4 * 7 / 8
    # Forward and backward; in float32.
    assert sent_by(found, "all-gather") < 2.1 * count
    # Once to add up gradients, by an operation that sends twice as much as it must, on a CPU.
    assert sum(found.sent.values()) < 1.2 * 4 * count


def test_gathered_parameters_are_not_kept_for_the_backward_pass() -> None:
    deep, shallow = (compile_step(step_on(MeshConfig(fsdp=8), layers=n)) for n in (12, 6))
    layer = step_on(MeshConfig(fsdp=8)).compiled.abstract.params["encoder"]["layers"]
    whole = sum(leaf.size for leaf in jax.tree.leaves(layer)) * 4 / 4  # bytes of one layer
    alone = compile_step(step_on(MeshConfig(), layers=12)).temporaries
    alone -= compile_step(step_on(MeshConfig(), layers=6)).temporaries
    assert deep.temporaries - shallow.temporaries < alone + 3 * whole


def test_tables_are_read_by_groups() -> None:
    """Rows of all groups would be sent to all, if the partitioner were left to itself."""
    found = compile_step(step_on(MeshConfig(data=2, fsdp=4)))
    assert ("all-to-all", "fsdp") in found.sent
    gathered_over = {axes for operation, axes in found.sent if operation == "all-gather"}
    assert not any("data" in axes for axes in gathered_over)
