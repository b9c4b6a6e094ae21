"""Time and memory of a distilling step, compared with its parts: teacher forward, student alone.

    python -m docs.performance.distil_step --size=base --tokens=masked

The student has half the teacher's layers. `teacher` is its forward pass with the logits of the same
tokens; `student` is a training step of its own masked-LM loss with these logits; `both` is the
distilling step of DistilBERT's three losses. The three take turns, a step each. Memory is what
XLA's compiled program needs beside its arguments.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.sizes import SIZES, encoder_of
from bert_jax.config import DistillationConfig, DistilledTokens, MeshConfig, OptimizerConfig
from bert_jax.distributed import sharding
from bert_jax.model.heads import score_tokens, token_scorer
from bert_jax.model.observed import ObservedModel
from bert_jax.objectives.distillation import make_distillation_loss
from bert_jax.objectives.losses import Loss, Total, add_up, token_totals
from bert_jax.training.compiler_options import compiler_options
from bert_jax.training.optimizer import make_optimizer
from bert_jax.training.schedules import task_settings
from bert_jax.training.state import abstract_state, init_params, init_state, make_run_inputs
from bert_jax.training.step import make_train_step

_SIZE = flags.DEFINE_enum("size", "base", list(SIZES), "of the teacher")
_TOKENS = flags.DEFINE_enum_class(
    "tokens", DistilledTokens.MASKED, DistilledTokens, "that soft targets and cosine look at"
)
_BATCH = flags.DEFINE_integer("batch", 8, "rows")
_LENGTH = flags.DEFINE_integer("length", 128, "tokens in a row")
_TURNS = flags.DEFINE_integer("turns", 5, "steps of each; medians are printed")
_MASKED = 0.15


def make_batch(vocab_size: int) -> dict[str, np.ndarray]:
    """Returns full rows of random tokens, with masked tokens chosen."""
    rng = np.random.default_rng(0)
    shape, slots = (_BATCH.value, _LENGTH.value), round(_MASKED * _LENGTH.value)
    places = np.argsort(rng.random(shape), axis=1)[:, :slots]
    return {
        "token_ids": rng.integers(5, vocab_size, shape, np.int32),
        "example_ids": np.ones(shape, np.int32),
        "segment_ids": np.zeros(shape, np.int32),
        "position_ids": np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape),
        "mlm_positions": np.sort(places, axis=1).astype(np.int32),
        "mlm_labels": rng.integers(5, vocab_size, places.shape, np.int32),
        "mlm_weights": np.ones(places.shape, np.float32),
    }


def positions_of(batch: Any) -> Any:
    """Returns the tokens that are compared; None: all."""
    return None if _TOKENS.value is DistilledTokens.ALL else batch["mlm_positions"]


def observed(model: ObservedModel, params: Any, batch: Any, key: Any = None) -> Any:
    """Returns the vectors of the compared tokens."""
    made: Any = model.apply(
        {"params": params},
        batch,
        positions_of(batch),
        deterministic=key is None,
        rngs=None if key is None else {"dropout": key},
        method="observe",
    )
    return made.vectors


def own_loss(model: ObservedModel) -> Loss:
    """Returns a loss of the student alone that needs the logits of the compared tokens."""

    def totals(params: Any, batch: Any, key: Any) -> Any:
        x = observed(model, params, batch, key)
        labels = batch["mlm_labels"] if positions_of(batch) is not None else batch["token_ids"]

        weights = jnp.ones(labels.shape, jnp.float32)
        told = batch | {"mlm_labels": labels, "mlm_weights": weights}
        return {"mlm_loss": token_totals(model.config, params, x, told)["loss"]}

    def weights(batch: Any) -> Any:
        return {"mlm_loss": jnp.float32(batch["token_ids"].size)}

    return Loss(totals, weights, {"mlm_loss": 1.0})


def teacher_forward(model: ObservedModel) -> Callable[[Any, Any], jax.Array]:
    """Returns a program that scores the compared tokens, and reduces the logits to a number."""

    def forward(params: Any, batch: Any) -> jax.Array:
        x = observed(model, params, batch)

        def at(scorer: Any, x: jax.Array) -> Any:
            logits = score_tokens(model.config, scorer, x)
            sum_of_all = jnp.sum(jax.nn.logsumexp(logits, axis=-1))
            return {}, {"sum": Total(sum_of_all, jnp.float32(1))}

        return add_up(at, token_scorer(model.config, params), (x,), _LENGTH.value)[1]["sum"].sum

    return forward


def main(_: list[str]) -> None:
    """Compiles the three programs, runs them in turn, and prints medians and ratios."""
    encoder = encoder_of(_SIZE.value)
    teacher = ObservedModel(encoder)
    student = ObservedModel(dataclasses.replace(encoder, layers=encoder.layers // 2))
    lessons = DistillationConfig(
        mlm_weight=2.0, soft_weight=5.0, cosine_weight=1.0, tokens=_TOKENS.value
    )
    mesh, optimizer = sharding.make_mesh(MeshConfig()), OptimizerConfig(warmup_steps=10)
    tx = make_optimizer(optimizer)
    abstract = abstract_state(student, tx, mesh)
    theirs = init_params(teacher, 1, abstract_state(teacher, tx, mesh).params)
    fields = make_batch(encoder.vocab_size)
    rows = np.arange(_BATCH.value)
    batch = sharding.global_batch(fields, rows, len(rows), mesh)
    steps = 10 * _TURNS.value
    run = make_run_inputs(mesh, 0, task_settings(optimizer, steps), steps)
    programs: dict[str, tuple[Any, Any]] = {}
    for name, loss, inputs in (
        ("student", own_loss(student), run),
        ("both", make_distillation_loss(student, teacher, lessons), run._replace(teacher=theirs)),
    ):
        step: Any = make_train_step(
            loss, lambda batch, key, rate: batch, tx, abstract, donate=False
        )
        state = init_state(init_params(student, 0, abstract.params), tx, abstract)
        programs[name] = step.lower(state, batch, inputs).compile(), (state, batch, inputs)
    forward: Any = jax.jit(teacher_forward(teacher), compiler_options=compiler_options(mesh))
    programs["teacher"] = forward.lower(theirs, batch).compile(), (theirs, batch)
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(_TURNS.value + 1):
        for name, (program, arguments) in programs.items():
            begin = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    for name, (program, _) in programs.items():
        temporary = program.memory_analysis().temp_size_in_bytes / 1e9
        print(f"{name:8} {medians[name]:8.3f} s {temporary:8.3f} GB")
    parts = medians["teacher"] + medians["student"]
    print(f"both of teacher and student: {medians['both'] / parts:.3f}")


if __name__ == "__main__":
    app.run(main)
