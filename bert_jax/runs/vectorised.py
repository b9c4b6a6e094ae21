"""Several fine-tuning runs as one compiled program: seeds and learning rates, side by side.

Whatever a run changes has a leading axis of runs, split over the devices of
`sharding.make_runs_mesh`; the program is `vmap` of what a run alone computes. Each device has whole
runs, and nothing crosses between devices.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bert_jax.checkpoints.transfer import over_fresh
from bert_jax.config import FinetuneConfig
from bert_jax.data.packing.batches import split_rows
from bert_jax.data.tasks.rows import TaskStream
from bert_jax.distributed.sharding import RUNS_AXIS
from bert_jax.model.encoder import Batch
from bert_jax.model.heads import TaskModel, VectorModel
from bert_jax.objectives.losses import Params, Totals
from bert_jax.runs.steps import no_preparation, task_optimizer
from bert_jax.tasks.evaluation import OutputsFn, make_outputs
from bert_jax.tasks.kinds import KINDS, training_loss
from bert_jax.training.compiler_options import compiler_options
from bert_jax.training.schedules import tabulate
from bert_jax.training.state import RunInputs, TrainState, draw_params, run_key
from bert_jax.training.step import make_gradient, make_update

_SPLIT, _WHOLE = PartitionSpec(RUNS_AXIS), PartitionSpec()
_STATE = TrainState(_WHOLE, _SPLIT, _SPLIT)  # all runs are at the same step


class Runs(NamedTuple):
    """The arrays in which runs differ."""

    inputs: RunInputs  # keys [runs], settings [runs, S]
    highest_rate: Any  # [runs] float32


class Vectorised(NamedTuple):
    """The compiled programs of all runs.

    Attributes:
      begin: transferred parameter groups, runs -> the state of step 0. `step` is one for all, all
        else has the axis of runs.
      train_step: state, batch [runs, ...], runs -> state, totals [runs]. The state is donated.
      outputs_step: params, batch [...], the same for all -> outputs [runs, ...], totals [runs].
    """

    begin: Callable[[Params, Runs], TrainState]
    train_step: Callable[[TrainState, Batch, Runs], tuple[TrainState, Totals]]
    outputs_step: OutputsFn


def vectorise(
    config: FinetuneConfig,
    model: TaskModel | VectorModel,
    mesh: Mesh,
    steps: int,
    class_weights: tuple[float, ...],
    columns: int = 2,
) -> Vectorised:
    """Builds the programs of runs that differ in their keys, batches and learning rates alone.

    Args:
      config: of all runs.
      model: from `kinds.make_model`.
      mesh: from `sharding.make_runs_mesh`.
      steps: of each run.
      class_weights: from `kinds.class_weights`.
      columns: of vectors: texts of an example, at most.
    """
    gradient = make_gradient(training_loss(model, config, class_weights, columns=columns))

    def optimizer(highest_rate: jax.Array) -> Any:
        return task_optimizer(with_rate(config, highest_rate), steps)[0]

    def begin(transferred: Params, run: Runs) -> TrainState:
        params = over_fresh(transferred, draw_params(model, run.inputs.key), config)
        opt_state = optimizer(run.highest_rate).init(params)
        return TrainState(jnp.zeros((), jnp.int32), params, opt_state)

    def train_step(state: TrainState, batch: Batch, run: Runs) -> tuple[TrainState, Totals]:
        tx = optimizer(run.highest_rate)
        return make_update(gradient, no_preparation, tx)(state, batch, run.inputs)

    outputs = make_outputs(model, KINDS[config.task].totals)
    return Vectorised(
        begin=jax.jit(_of_runs(begin, mesh, (_WHOLE, _SPLIT), _STATE)),
        train_step=jax.jit(
            _of_runs(train_step, mesh, (_STATE, _SPLIT, _SPLIT), (_STATE, _SPLIT)),
            donate_argnums=(0,),
            compiler_options=compiler_options(mesh),
        ),
        outputs_step=jax.jit(_of_runs(outputs, mesh, (_SPLIT, _WHOLE), _SPLIT)),
    )


def with_rate(config: FinetuneConfig, highest_rate: Any) -> FinetuneConfig:
    """Returns the config of the run with this highest learning rate."""
    optimizer = dataclasses.replace(config.optimizer, learning_rate=highest_rate)
    return dataclasses.replace(config, optimizer=optimizer)


def _of_runs(fn: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any) -> Any:
    """Maps a run's function over the runs of a device, on every device by itself."""
    in_axes, out_axes = jax.tree.map(
        lambda spec: 0 if spec == _SPLIT else None, (in_specs, out_specs)
    )
    return jax.shard_map(
        jax.vmap(fn, in_axes=in_axes, out_axes=out_axes),
        mesh=mesh,
        in_specs=in_specs,
        out_specs=out_specs,
        check_vma=False,  # it is for what crosses between devices
    )


def place_runs(
    runs: Sequence[tuple[int, float]], config: FinetuneConfig, steps: int, mesh: Mesh
) -> tuple[Runs, int]:
    """Puts runs on the devices, as many on each.

    Args:
      runs: seed and highest learning rate of each.
      config: of all runs.
      steps: of each run.
      mesh: from `sharding.make_runs_mesh`.

    Returns:
      The runs, and how many of them fill the last devices up: copies of the first run, after all.
    """
    filling = -len(runs) % mesh.shape[RUNS_AXIS]
    seeds, rates = zip(*runs, *[runs[0]] * filling, strict=True)
    tables = [tabulate(task_optimizer(with_rate(config, rate), steps)[1], steps) for rate in rates]
    inputs = RunInputs(
        jnp.stack([run_key(seed) for seed in seeds]),
        jax.tree.map(lambda *columns: np.stack(columns), *tables),
    )
    placed = Runs(inputs, np.array(rates, np.float32))
    return jax.device_put(placed, NamedSharding(mesh, _SPLIT)), filling


class SideBySide:
    """The batches of several seeds, with as many rows as the largest of them needs.

    Attributes:
      rows: R.
    """

    def __init__(self, streams: Sequence[TaskStream]) -> None:
        """Takes the rows of each seed; their batches are as many."""
        self.rows = max(stream.batches.rows for stream in streams)
        self._streams = streams

    def batch(self, number: int) -> dict[str, np.ndarray]:
        """Returns the batch of a step from 0 of each seed: field -> [seeds, R, ...]."""
        each = []
        for stream in self._streams:
            rows = stream.batches.rows
            own = stream.rows(number * rows + np.arange(rows))
            each.append(next(split_rows(own, self.rows)))
        return {name: np.stack([batch[name] for batch in each]) for name in each[0]}
