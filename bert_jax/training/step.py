"""The state of a run and its compiled steps, shared by pretraining and fine-tuning.

They differ in what is passed in: how a batch is prepared on the device, the loss, the optimizer.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bert_jax.distributed.sharding import micro_batches, parameter_shardings, replicated
from bert_jax.model.encoder import Batch
from bert_jax.objectives.losses import Loss, Params, Total, Totals
from bert_jax.training.compiler_options import compiler_options
from bert_jax.training.logs import divide

# batch, the run's row key, finished steps (int32 scalar) -> batch
PrepareFn = Callable[[Batch, jax.Array, jax.Array | int], Batch]

# What the run's key is folded with, so that no two uses share their draws.
_INIT, _ROWS, _DROPOUT = range(3)


class TrainState(NamedTuple):
    """All that a step changes; arrays only."""

    step: Any  # int32 scalar, finished steps
    params: Any
    opt_state: Any


def run_key(seed: int) -> jax.Array:
    """Returns the key that everything random on the device is derived from."""
    return jax.random.key(seed, impl="threefry2x32")


def run_key_on(mesh: Mesh, seed: int) -> jax.Array:
    """Returns the run's key on every device of a mesh, so that no step has to bring it there."""
    return jax.jit(functools.partial(run_key, seed), out_shardings=replicated(mesh))()


def _init_variables(model: nn.Module, key: jax.Array) -> Any:
    # The parameters do not depend on the batch, so the smallest one will do.
    fields = ("token_ids", "example_ids", "segment_ids", "positions", "pool_positions")
    batch = {name: jnp.zeros((1, 1), jnp.int32) for name in (*fields, "mlm_positions")}
    return model.init(key, batch, deterministic=True)


def abstract_params(model: nn.Module, mesh: Mesh) -> Params:
    """Returns the shapes, dtypes and shardings of a model's parameters, without making them."""
    variables = jax.eval_shape(functools.partial(_init_variables, model), run_key(0))
    shardings = parameter_shardings(variables, mesh)["params"]
    return jax.tree.map(_placed, nn.unbox(variables)["params"], shardings)


def abstract_state(model: nn.Module, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Returns the state's shapes, dtypes and shardings, without making it.

    Args:
      model: one of the models of `heads.py`.
      tx: the optimizer.
      mesh: from `sharding.make_mesh`.
    """
    params = abstract_params(model, mesh)
    by_path = {path: leaf.sharding for path, leaf in jax.tree_util.tree_leaves_with_path(params)}

    def place(path: tuple, leaf: Any) -> jax.ShapeDtypeStruct:
        # A moment's path ends in its parameter's, and it is placed alike. What has no parameter,
        # such as a count, is whole.
        owners = [path[i:] for i in range(len(path)) if path[i:] in by_path]
        return _placed(leaf, by_path[owners[0]] if owners else replicated(mesh))

    opt_state = jax.tree_util.tree_map_with_path(place, jax.eval_shape(tx.init, params))
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh))
    return TrainState(step, params, opt_state)


def _placed(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def init_params(model: nn.Module, seed: int, abstract: Params) -> Params:
    """Draws fresh parameters, each made where it belongs."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    draw = functools.partial(draw_params, model)
    return jax.jit(draw, out_shardings=shardings)(run_key(seed))


def draw_params(model: nn.Module, key: jax.Array) -> Params:
    """Draws fresh parameters by a run's key; to be compiled."""
    return nn.unbox(_init_variables(model, jax.random.fold_in(key, _INIT)))["params"]


def init_state(
    params: Params, tx: optax.GradientTransformation, abstract: TrainState
) -> TrainState:
    """Returns the state of step 0: these parameters, and an optimizer that has seen nothing."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, (abstract.step, abstract.opt_state))
    make = jax.jit(lambda p: (jnp.zeros((), jnp.int32), tx.init(p)), out_shardings=shardings)
    step, opt_state = make(params)
    return TrainState(step, params, opt_state)


# A loss and all totals, and the gradient of the loss.
Gradient = tuple[tuple[jax.Array, Totals], Params]
# params, prepared batch, dropout key -> the above
GradientFn = Callable[[Params, Batch, jax.Array], Gradient]
# state, batch, run key -> the next state, totals
UpdateFn = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Totals]]


def gradient_of_parts(
    loss: Loss, params: Params, batch: Batch, dropout_key: jax.Array, parts: int, mesh: Mesh
) -> Gradient:
    """Adds the gradients of a batch's parts, computed one after another.

    Each is divided by the weights of the whole batch, so that the sum is the whole batch's gradient
    however unevenly the weights lie.

    Args:
      loss: of the model.
      params: to differentiate by.
      batch: masked already; its rows must divide among parts and groups of devices.
      dropout_key: parts derive their own from it.
      parts: how many.
      mesh: that the rows are split over.
    """
    weights = loss.weights(batch)
    gradient = jax.value_and_grad(loss, has_aux=True)

    def add(total: Gradient, part: tuple[jax.Array, Batch]) -> tuple[Gradient, None]:
        number, rows = part
        own = gradient(params, rows, jax.random.fold_in(dropout_key, number), weights)
        return jax.tree.map(jnp.add, total, own), None

    cut = jnp.arange(parts), micro_batches(batch, parts, mesh)
    first = jax.tree.map(lambda field: field[0], cut[1])
    shapes = jax.eval_shape(gradient, params, first, dropout_key, weights)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, cut)[0]


def make_update(
    gradient: GradientFn,
    prepare_fn: PrepareFn,
    tx: optax.GradientTransformation,
) -> UpdateFn:
    """Returns the update of a run, to be compiled.

    Where the loss or a gradient is no finite number, the update is skipped: the step counts,
    parameters and optimizer stay as they are, and the step's totals are empty but for `skipped`.

    Args:
      gradient: of the loss.
      prepare_fn: draws the masks, of the whole batch.
      tx: the optimizer.
    """

    def update(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Totals]:
        batch = prepare_fn(batch, jax.random.fold_in(key, _ROWS), state.step)
        dropout_key = jax.random.fold_in(jax.random.fold_in(key, _DROPOUT), state.step)
        (value, totals), grads = gradient(state.params, batch, dropout_key)
        norm = optax.tree.norm(grads)
        is_finite = jnp.isfinite(value) & jnp.isfinite(norm)

        def unless_skipped(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda n, o: jnp.where(is_finite, n, o), new, old)

        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = unless_skipped(optax.apply_updates(state.params, updates), state.params)
        opt_state = unless_skipped(opt_state, state.opt_state)
        one = jnp.ones(())
        totals |= {"loss": Total(value, one), "grad_norm": Total(norm, one)}
        totals = unless_skipped(totals, jax.tree.map(jnp.zeros_like, totals))
        totals["tokens"] = Total(jnp.sum(batch["example_ids"] > 0).astype(jnp.float32), one)
        totals["skipped"] = Total(1.0 - is_finite, one)
        return TrainState(state.step + 1, params, opt_state), totals

    return update


def make_train_step(
    loss: Loss,
    prepare_fn: PrepareFn,
    tx: optax.GradientTransformation,
    abstract: TrainState,
    parts: int = 1,
    *,
    donate: bool = True,
) -> UpdateFn:
    """Returns the compiled update of a run; see `make_update`.

    Args:
      loss: of the model.
      prepare_fn: draws the masks, of the whole batch.
      tx: the optimizer.
      abstract: the state's shapes and shardings.
      parts: that the batch is computed in, one after another, to save memory.
      donate: the new state takes the place of the one passed in, which must not be used again.
    """
    mesh = abstract.step.sharding.mesh

    def gradient(params: Params, batch: Batch, dropout_key: jax.Array) -> Gradient:
        if parts > 1:
            return gradient_of_parts(loss, params, batch, dropout_key, parts, mesh)
        return jax.value_and_grad(loss, has_aux=True)(params, batch, dropout_key)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(
        make_update(gradient, prepare_fn, tx),
        donate_argnums=(0,) if donate else (),
        out_shardings=(shardings, shardings.step),
        compiler_options=compiler_options(mesh),
    )


def make_eval_step(
    loss: Loss, prepare_fn: PrepareFn
) -> Callable[[Params, Batch, jax.Array], Totals]:
    """Returns the compiled evaluation (params, batch, run key) -> totals, without dropout."""

    @jax.jit
    def eval_step(params: Params, batch: Batch, key: jax.Array) -> Totals:
        batch = prepare_fn(batch, jax.random.fold_in(key, _ROWS), 0)
        return loss.totals(params, batch, None)

    return eval_step


def evaluate(
    eval_step: Callable[[Params, Batch, jax.Array], Totals],
    params: Params,
    batches: Iterable[Batch],
    key: jax.Array,
) -> dict[str, float]:
    """Returns the means over all batches: every sum is added before the one division.

    Args:
      eval_step: from `make_eval_step`.
      params: of the model.
      batches: global arrays; padding rows have weight 0.
      key: for what the evaluation draws, such as its masks.
    """
    return divide(jax.device_get([eval_step(params, batch, key) for batch in batches]))
