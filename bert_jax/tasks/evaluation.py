"""Runs a model over the inputs of a split, on any number of devices and hosts."""

import collections
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.config import EncoderConfig
from bert_jax.data.tasks.rows import (
    BatchFormat,
    TaskInputs,
    TaskStream,
    examples_per_row,
    outputs_of_inputs,
    row_length,
)
from bert_jax.distributed import sharding
from bert_jax.distributed.gathering import on_mesh
from bert_jax.errors import UserError
from bert_jax.model.encoder import Batch
from bert_jax.model.heads import TaskModel, VectorModel
from bert_jax.objectives.losses import Params, Totals, TotalsOf
from bert_jax.text.tokenizer import SpecialIds
from bert_jax.training.logs import divide

# params, batch -> outputs [R, N or T, ...], totals
OutputsFn = Callable[[Params, Batch], tuple[jax.Array, Totals]]

_AHEAD = 2  # batches in flight while the outputs of an earlier one are unpacked


def make_outputs(model: TaskModel | VectorModel, totals_of: TotalsOf) -> OutputsFn:
    """Returns the evaluation step, without dropout, not compiled."""

    def step(params: Params, batch: Batch) -> tuple[jax.Array, Totals]:
        outputs = model.apply({"params": params}, batch, deterministic=True)
        assert isinstance(outputs, jax.Array)
        return outputs, totals_of(outputs, batch)

    return step


def make_outputs_step(model: TaskModel | VectorModel, totals_of: TotalsOf, mesh: Mesh) -> OutputsFn:
    """Returns the compiled evaluation step, without dropout; its outputs are on every device."""
    step = on_mesh(make_outputs(model, totals_of), mesh)
    return jax.jit(step, out_shardings=sharding.replicated(mesh))


def make_features_step(model: TaskModel | VectorModel, mesh: Mesh) -> OutputsFn:
    """Returns the compiled encoder step, whose outputs are the vectors that the head reads."""

    def step(params: Params, batch: Batch) -> tuple[jax.Array, Totals]:
        variables = {"params": params}
        x = model.apply(variables, batch, deterministic=True, method="features")
        assert isinstance(x, jax.Array)
        return x, {}

    return jax.jit(on_mesh(step, mesh), out_shardings=sharding.replicated(mesh))


class InputBatches:
    """Inputs in batches of one shape, each input once."""

    def __init__(
        self, inputs: TaskInputs, batch_format: BatchFormat, mesh: Mesh, *, whole_inputs: bool
    ) -> None:
        """Plans the batches.

        Args:
          inputs: at least one.
          batch_format: of the batches.
          mesh: from `sharding.make_mesh`.
          whole_inputs: True if the model has an output for each input, False for each token.
        """
        self._sizes, self._mesh, self._whole_inputs = inputs.sizes, mesh, whole_inputs
        groups = sharding.row_groups(mesh)
        self._batches = batch_format.deal(inputs, epochs=1, seed=0, rows_multiple=groups)
        self._stream = TaskStream(inputs, self._batches, batch_format)

    def outputs(self, step: OutputsFn, params: Params) -> tuple[list[np.ndarray], dict[str, float]]:
        """Runs a step over all batches.

        Args:
          step: from `make_outputs_step` or `make_features_step`.
          params: of the model.

        Returns:
          The outputs of each input, in order, [C] or [size, C] float32; and the mean of each total
          over all batches, its sums and weights added before the one division.
        """
        outputs: list[Any] = [None] * len(self._sizes)
        totals = []
        for number, made, sums in self._results(step, params):
            totals.append(sums)
            self._unpack_outputs(number, check_finite(made), outputs)
        return outputs, divide(totals)

    def outputs_of_runs(
        self, step: OutputsFn, params: Params, runs: int
    ) -> list[tuple[list[np.ndarray], dict[str, float]]]:
        """Runs a step of several runs at once over all batches.

        Args:
          step: its outputs and totals have a leading axis of at least `runs`.
          params: of all runs, on the leading axis.
          runs: number of runs to return, from the first.

        Returns:
          The result of `outputs` for each run.
        """
        outputs: list[list[Any]] = [[None] * len(self._sizes) for _ in range(runs)]
        totals: list[list[Totals]] = [[] for _ in range(runs)]
        for number, made, sums in self._results(step, params):
            for run in range(runs):
                totals[run].append(jax.tree.map(lambda leaf, run=run: leaf[run], sums))
                self._unpack_outputs(number, made[run], outputs[run])
        return [(each, divide(sums)) for each, sums in zip(outputs, totals, strict=True)]

    def _results(self, step: OutputsFn, params: Params) -> Iterator[tuple[int, np.ndarray, Totals]]:
        """Yields the number, outputs and totals of each batch, on the host."""
        rows = self._batches.rows
        local = sharding.host_rows(rows, self._mesh)
        waiting = collections.deque()
        for number in range(self._batches.per_epoch):
            batch = self._stream.rows(number * rows + local)
            batch = sharding.global_batch(batch, local, rows, self._mesh)
            waiting.append((number, step(params, batch)))
            if len(waiting) > _AHEAD:
                number, made = waiting.popleft()
                yield number, *jax.device_get(made)
        for number, made in waiting:
            yield number, *jax.device_get(made)

    def _unpack_outputs(self, number: int, made: np.ndarray, outputs: list[Any]) -> None:
        """Writes the outputs of a batch to the positions of its inputs."""
        chosen, inputs_in_row = self._batches.batch(number)
        tokens = not self._whole_inputs
        parts = outputs_of_inputs(made, self._sizes[chosen], inputs_in_row, tokens=tokens)
        for index, part in zip(chosen.tolist(), parts, strict=True):
            outputs[index] = part.astype(np.float32)  # a copy, so that the batch's array is freed


def check_finite(outputs: Any) -> Any:
    """Returns arrays of the host as they are.

    Raises:
      UserError: if a number is not finite, since nothing could be made of it.
    """
    for leaf in jax.tree.leaves(outputs):
        if np.issubdtype(leaf.dtype, np.inexact) and not np.isfinite(leaf).all():
            raise UserError(
                "the model's outputs are not finite: its parameters are damaged, or its training"
                " diverged; use another checkpoint"
            )
    return outputs


def make_batches(
    inputs: TaskInputs,
    encoder: EncoderConfig,
    special: SpecialIds,
    mesh: Mesh,
    *,
    batch_size: int,
    packed: bool,
    whole_inputs: bool,
    pool_last: bool,
) -> InputBatches:
    """Puts inputs into batches, in rows as long as the longest input needs.

    Args:
      inputs: at least one, none longer than the position table.
      encoder: config of the encoder that reads them.
      special: ids of [PAD], [CLS] and [SEP].
      mesh: from `sharding.make_mesh`.
      batch_size: inputs in a batch.
      packed: True if a row may have several inputs.
      whole_inputs: True if the model has an output for each input, False for each token.
      pool_last: as `RowFormat` has it.
    """
    length = row_length(inputs.sizes, encoder.max_length)
    most = examples_per_row(length) if packed else 1
    batch_format = BatchFormat(length, most, special, pool_last, batch_size)
    return InputBatches(inputs, batch_format, mesh, whole_inputs=whole_inputs)
