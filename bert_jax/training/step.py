"""The compiled steps of a run, shared by pretraining and fine-tuning.

They differ in what is passed in: how a batch is prepared on the device, the loss, the optimizer.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bert_jax.distributed.gathering import on_mesh
from bert_jax.distributed.sharding import split_micro_batches
from bert_jax.model.encoder import Batch
from bert_jax.objectives.contrastive import BatchLoss
from bert_jax.objectives.losses import Loss, Params, Total, Totals
from bert_jax.training.compiler_options import compiler_options
from bert_jax.training.state import DROPOUT_STREAM, ROWS_STREAM, RunInputs, TrainState

# batch, the run's row key, the step's rate of masking -> batch
PrepareFn = Callable[[Batch, jax.Array, jax.Array], Batch]

# A loss and all totals, and the gradient of the loss.
Gradient = tuple[tuple[jax.Array, Totals], Params]
# params, prepared batch, dropout key, the teacher's params or None -> the above
GradientFn = Callable[[Params, Batch, jax.Array, Params | None], Gradient]
# state, batch, what is the same for all steps -> the next state, totals
UpdateFn = Callable[[TrainState, Batch, RunInputs], tuple[TrainState, Totals]]
# a step, counted from 1 -> its update, an `UpdateFn` or that of several runs at once
StepOf = Callable[[int], Callable[..., tuple[TrainState, Any]]]


def gradient_of(loss: Loss) -> GradientFn:
    """Returns the gradient of a loss, of the whole batch at once."""

    def gradient(
        params: Params, batch: Batch, dropout_key: jax.Array, teacher: Params | None
    ) -> Gradient:
        return jax.value_and_grad(loss.given(teacher), has_aux=True)(params, batch, dropout_key)

    return gradient


def accumulate_gradient(
    loss: Loss, params: Params, batch: Batch, dropout_key: jax.Array, count: int, mesh: Mesh
) -> Gradient:
    """Adds the gradients of micro-batches, computed one after another.

    Each is divided by the weights of the whole batch, so that the sum is the whole batch's gradient
    however unevenly the weights lie.

    Args:
      loss: of the model.
      params: to differentiate by.
      batch: masked already; its rows must divide among micro-batches and groups of devices.
      dropout_key: micro-batches derive their own from it.
      count: number of micro-batches.
      mesh: that the rows are split over.
    """
    weights = loss.weights(batch)
    gradient = jax.value_and_grad(loss, has_aux=True)

    def add(total: Gradient, micro_batch: tuple[jax.Array, Batch]) -> tuple[Gradient, None]:
        number, rows = micro_batch
        own = gradient(params, rows, jax.random.fold_in(dropout_key, number), weights)
        return jax.tree.map(jnp.add, total, own), None

    numbered = jnp.arange(count), split_micro_batches(batch, count, mesh)
    first = jax.tree.map(lambda field: field[0], numbered[1])
    shapes = jax.eval_shape(gradient, params, first, dropout_key, weights)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, numbered)[0]


def cached_gradient(
    loss: BatchLoss, micro_batches: int = 1, mesh: Mesh | None = None
) -> GradientFn:
    """Returns the gradient of a loss that compares all vectors of a batch.

    Of micro-batches, by cached gradients (Gao et al., 2021, section 3): all vectors are computed
    without a backward pass; the loss is differentiated by them; then each micro-batch is run again,
    with the same dropout, and its vectors' gradients go back to the parameters.

    Args:
      loss: of the model.
      micro_batches: parts of a batch that are computed one after another.
      mesh: that the rows are split over; needed for more than one part.
    """

    def whole(
        params: Params, batch: Batch, dropout_key: jax.Array, teacher: Params | None
    ) -> Gradient:
        del teacher
        batch = _numbered(batch)

        def of_params(params: Params) -> tuple[jax.Array, Totals]:
            return loss.totals(loss.vectors(params, batch, dropout_key), batch)

        return jax.value_and_grad(of_params, has_aux=True)(params)

    def in_parts(
        params: Params, batch: Batch, dropout_key: jax.Array, teacher: Params | None
    ) -> Gradient:
        del teacher
        assert mesh is not None
        parts = split_micro_batches(_numbered(batch), micro_batches, mesh)

        def vectors(_: None, part: Batch) -> tuple[None, jax.Array]:
            return None, loss.vectors(params, part, dropout_key)

        _, made = jax.lax.scan(vectors, None, parts)
        value, by_vectors = jax.value_and_grad(loss.totals, has_aux=True)(made, parts)

        def add(total: Params, part: tuple[Batch, jax.Array]) -> tuple[Params, None]:
            rows, by_own = part
            _, pull = jax.vjp(lambda params: loss.vectors(params, rows, dropout_key), params)
            return jax.tree.map(jnp.add, total, pull(by_own)[0]), None

        zeros = jax.tree.map(jnp.zeros_like, params)
        return value, jax.lax.scan(add, zeros, (parts, by_vectors))[0]

    return in_parts if micro_batches > 1 else whole


def _numbered(batch: Batch) -> Batch:
    """Adds the number of each row in the batch, from which its dropout is drawn."""
    return batch | {"row_numbers": jnp.arange(len(batch["token_ids"]), dtype=jnp.int32)}


def make_gradient(
    loss: Loss | BatchLoss, micro_batches: int = 1, mesh: Mesh | None = None
) -> GradientFn:
    """Returns the gradient of a loss.

    Args:
      loss: of the model.
      micro_batches: parts of a batch that are computed one after another, to save memory.
      mesh: that the rows are split over; needed for more than one part.
    """
    if isinstance(loss, BatchLoss):
        return cached_gradient(loss, micro_batches, mesh)
    if micro_batches == 1:
        return gradient_of(loss)

    def in_parts(
        params: Params, batch: Batch, dropout_key: jax.Array, teacher: Params | None
    ) -> Gradient:
        assert mesh is not None
        given = loss.given(teacher)
        return accumulate_gradient(given, params, batch, dropout_key, micro_batches, mesh)

    return in_parts


def make_update(
    gradient: GradientFn,
    prepare_fn: PrepareFn,
    tx: optax.GradientTransformation,
    average_decay: float = 0.0,
) -> UpdateFn:
    """Returns the update of a run, to be compiled.

    Where the loss or a gradient is no finite number, the update is skipped: the step counts,
    parameters and optimizer stay as they are, and the step's totals are empty but for `skipped`.

    Args:
      gradient: of the loss; nothing is differentiated by the teacher.
      prepare_fn: draws the masks, of the whole batch.
      tx: the optimizer, without the learning rate.
      average_decay: of the moving average of the parameters, where the state has one; in the
        first steps less, (1 + step) / (10 + step), so that it forgets the random values.
    """
    tx = optax.with_extra_args_support(tx)

    def update(state: TrainState, batch: Batch, run: RunInputs) -> tuple[TrainState, Totals]:
        now = jax.tree.map(lambda table: table[state.step], run.settings)
        batch = prepare_fn(batch, jax.random.fold_in(run.key, ROWS_STREAM), now.mask_rate)
        dropout_key = jax.random.fold_in(jax.random.fold_in(run.key, DROPOUT_STREAM), state.step)
        (value, totals), grads = gradient(state.params, batch, dropout_key, run.teacher)
        norm = optax.tree.norm(grads)
        is_finite = jnp.isfinite(value) & jnp.isfinite(norm)

        def unless_skipped(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda n, o: jnp.where(is_finite, n, o), new, old)

        updates, opt_state = tx.update(
            grads, state.opt_state, state.params, weight_decay=now.weight_decay
        )
        updates = jax.tree.map(lambda update: -now.learning_rate * update, updates)
        params = unless_skipped(optax.apply_updates(state.params, updates), state.params)
        average = None
        if state.average is not None:
            kept = jnp.minimum(average_decay, (1 + state.step) / (10 + state.step))
            average = jax.tree.map(lambda a, p: kept * a + (1 - kept) * p, state.average, params)
            average = unless_skipped(average, state.average)
        opt_state = unless_skipped(opt_state, state.opt_state)
        one = jnp.ones(())
        totals |= {"loss": Total(value, one), "grad_norm": Total(norm, one)}
        totals = unless_skipped(totals, jax.tree.map(jnp.zeros_like, totals))
        totals["tokens"] = Total(jnp.sum(batch["example_ids"] > 0).astype(jnp.float32), one)
        totals["skipped"] = Total(1.0 - is_finite, one)
        return TrainState(state.step + 1, params, opt_state, average), totals

    return update


def make_train_step(
    loss: Loss | BatchLoss,
    prepare_fn: PrepareFn,
    tx: optax.GradientTransformation,
    abstract: TrainState,
    micro_batches: int = 1,
    *,
    average_decay: float = 0.0,
    donate: bool = True,
) -> UpdateFn:
    """Returns the compiled update of a run; see `make_update`.

    Args:
      loss: of the model.
      prepare_fn: draws the masks, of the whole batch.
      tx: the optimizer.
      abstract: the state's shapes and shardings.
      micro_batches: that the batch is computed in, one after another, to save memory.
      average_decay: as in `make_update`.
      donate: the new state takes the place of the one passed in, which must not be used again.
    """
    mesh = abstract.step.sharding.mesh
    gradient = make_gradient(loss, micro_batches, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(
        on_mesh(make_update(gradient, prepare_fn, tx, average_decay), mesh),
        donate_argnums=(0,) if donate else (),
        out_shardings=(shardings, shardings.step),
        compiler_options=compiler_options(mesh),
    )


def make_eval_step(
    loss: Loss, prepare_fn: PrepareFn, mask_rate: float, mesh: Mesh
) -> Callable[..., Totals]:
    """Returns the compiled evaluation, without dropout.

    It takes the parameters, a batch, the run's key, and the parameters of a teacher, if the loss
    has one; and returns the totals.
    """

    def eval_step(
        params: Params, batch: Batch, key: jax.Array, teacher: Params | None = None
    ) -> Totals:
        batch = prepare_fn(batch, jax.random.fold_in(key, ROWS_STREAM), jnp.float32(mask_rate))
        return loss.given(teacher).totals(params, batch, None)

    return jax.jit(on_mesh(eval_step, mesh))


def evaluate(
    eval_step: Callable[..., Totals],
    params: Params,
    batches: Iterable[Batch],
    key: jax.Array,
    teacher: Params | None = None,
) -> list[Totals]:
    """Returns the totals of each batch, on the host: to be added before the one division.

    Args:
      eval_step: from `make_eval_step`.
      params: of the model.
      batches: global arrays; padding rows have weight 0.
      key: for what the evaluation draws, such as its masks.
      teacher: the parameters of a teacher; None: there is none.
    """
    return jax.device_get([eval_step(params, batch, key, teacher) for batch in batches])
