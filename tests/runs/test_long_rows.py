"""Memory of long rows: no array of a step grows as the square of their length."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

from benchmarks.sizes import vocabulary_of
from bert_jax.config import (
    EncoderConfig,
    ExampleFormat,
    MeshConfig,
    Norm,
    PositionEncoding,
    PretrainConfig,
    SentenceObjective,
)
from bert_jax.distributed import sharding
from bert_jax.planning.abstract_steps import abstract_pretraining_steps

KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "windows": {"window": 64, "global_every": 3},
    "causal": {"causal": True},
}


def arrays_of(jaxpr: Jaxpr) -> Iterator[tuple[int, ...]]:
    """Yields the shapes that a program's operations make, those of inner programs too."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for value in jax.tree.leaves(equation.params, is_leaf=_is_program):
            if _is_program(value):
                yield from arrays_of(value.jaxpr if isinstance(value, ClosedJaxpr) else value)


def _is_program(value: Any) -> bool:
    return isinstance(value, Jaxpr | ClosedJaxpr)


def largest_array(length: int, changes: dict[str, Any]) -> int:
    """Returns the elements of the largest array in a step of one row."""
    encoder = EncoderConfig(
        vocab_size=37,
        layers=4,
        width=8,
        heads=2,
        mlp_width=16,
        max_length=length,
        norm=Norm.PRE,
        position_encoding=PositionEncoding.ROTARY,
        **changes,
    )
    config = PretrainConfig(encoder=encoder, batch_size=1)
    config.data.length, config.data.max_examples_per_row = length, 2
    config.data.format = ExampleFormat.DOC_SENTENCES
    config.data.objective = SentenceObjective.NONE
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    [step] = abstract_pretraining_steps(config, vocabulary_of(encoder.vocab_size), mesh)
    train_step: Any = step.compiled.train_step
    inputs = step.compiled.abstract_inputs()
    program = train_step.trace(step.compiled.abstract, step.batch, inputs).jaxpr
    return max(int(np.prod(shape)) for shape in arrays_of(program.jaxpr))


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_grow_as_the_rows(kind):
    short, long = (largest_array(length, KINDS[kind]) for length in (8_192, 16_384))
    assert long <= 2 * short
    assert short < 8_192 * 1_025 * 2  # fewer than the scores of both heads for 1,025 queries
