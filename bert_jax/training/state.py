"""The state of a run: what a step changes, and what stays the same through all steps."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bert_jax.config import OptimizerConfig
from bert_jax.distributed.sharding import parameter_shardings, replicated
from bert_jax.objectives.losses import Params
from bert_jax.training.schedules import SettingsFn, StepSettings, tabulate, task_settings

# What the run's key is folded with, so that no two uses share their draws.
INIT_STREAM, ROWS_STREAM, DROPOUT_STREAM = range(3)


class TrainState(NamedTuple):
    """All that a step changes; arrays only."""

    step: Any  # int32 scalar, finished steps
    params: Any
    opt_state: Any
    average: Any = None  # exponential moving average of `params`; None: none is kept


class RunInputs(NamedTuple):
    """The inputs of every step of a run, beside its state and batch.

    The settings are data, not constants of the program: a run with another rate, warm-up or number
    of steps finds the compiled step of this one.
    """

    key: Any  # a threefry key, from the seed
    settings: StepSettings  # [S] each; those of step i, counted from 0, are the i-th
    teacher: Any = None  # parameters of a teacher, which never change; None: there is none


def run_key(seed: int) -> jax.Array:
    """Returns the key that everything random on the device is derived from."""
    return jax.random.key(seed, impl="threefry2x32")


def run_key_on(mesh: Mesh, seed: int) -> jax.Array:
    """Returns the run's key on every device of a mesh, so that no step has to bring it there."""
    return jax.jit(functools.partial(run_key, seed), out_shardings=replicated(mesh))()


def make_run_inputs(mesh: Mesh, seed: int, settings: SettingsFn, steps: int) -> RunInputs:
    """Returns the inputs of a run on every device of a mesh.

    Args:
      mesh: from `sharding.make_mesh`.
      seed: of the run.
      settings: of its steps.
      steps: of the run.
    """

    def make() -> RunInputs:
        return RunInputs(run_key(seed), tabulate(settings, steps))

    return jax.jit(make, out_shardings=replicated(mesh))()


def abstract_run_inputs(mesh: Mesh, steps: int) -> RunInputs:
    """Returns the shapes, dtypes and shardings of what `make_run_inputs` returns."""
    settings = task_settings(OptimizerConfig(), steps)
    shapes = jax.eval_shape(lambda: RunInputs(run_key(0), tabulate(settings, steps)))
    return jax.tree.map(lambda leaf: _placed(leaf, replicated(mesh)), shapes)


def _init_variables(model: nn.Module, key: jax.Array) -> Any:
    # The parameters do not depend on the batch, so the smallest one will do.
    fields = ("token_ids", "example_ids", "segment_ids", "position_ids", "pool_positions")
    batch = {name: jnp.zeros((1, 1), jnp.int32) for name in (*fields, "mlm_positions")}
    return model.init(key, batch, deterministic=True)


def abstract_params(model: nn.Module, mesh: Mesh) -> Params:
    """Returns the shapes, dtypes and shardings of a model's parameters, without making them."""
    variables = jax.eval_shape(functools.partial(_init_variables, model), run_key(0))
    shardings = parameter_shardings(variables, mesh)["params"]
    return jax.tree.map(_placed, nn.unbox(variables)["params"], shardings)


def abstract_state(
    model: nn.Module, tx: optax.GradientTransformation, mesh: Mesh, *, averages: bool = False
) -> TrainState:
    """Returns the state's shapes, dtypes and shardings, without making it.

    Args:
      model: one of the models of `heads.py`.
      tx: the optimizer.
      mesh: from `sharding.make_mesh`.
      averages: True if a moving average of the parameters is kept.
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
    return TrainState(step, params, opt_state, params if averages else None)


def _placed(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def init_params(model: nn.Module, seed: int, abstract: Params) -> Params:
    """Draws fresh parameters, each made where it belongs."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    draw = functools.partial(draw_params, model)
    return jax.jit(draw, out_shardings=shardings)(run_key(seed))


def draw_params(model: nn.Module, key: jax.Array) -> Params:
    """Draws fresh parameters by a run's key; to be compiled."""
    return nn.unbox(_init_variables(model, jax.random.fold_in(key, INIT_STREAM)))["params"]


def init_state(
    params: Params, tx: optax.GradientTransformation, abstract: TrainState
) -> TrainState:
    """Returns the state of step 0: these parameters, and an optimizer that has seen nothing."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, (abstract.step, abstract.opt_state))
    make = jax.jit(lambda p: (jnp.zeros((), jnp.int32), tx.init(p)), out_shardings=shardings)
    step, opt_state = make(params)
    # A copy: a step's arguments must not share memory that is donated.
    average = None if abstract.average is None else jax.tree.map(jnp.copy, params)
    return TrainState(step, params, opt_state, average)
