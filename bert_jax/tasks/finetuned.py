"""Fine-tuned checkpoints, ready to run on inputs, for `evaluate` and `predict`."""

import pathlib
from typing import Any

import numpy as np
from jax.sharding import Mesh

from bert_jax.checkpoints.checkpoint import restore_groups
from bert_jax.config import EncoderConfig, FinetuneConfig, TaskKind, from_dict
from bert_jax.data.tasks.rows import NO_LABEL, TaskInputs
from bert_jax.data.tasks.splits import Outputs
from bert_jax.errors import UserError
from bert_jax.tasks.evaluation import make_batches, make_outputs_step
from bert_jax.tasks.kinds import KINDS, make_model
from bert_jax.text.tokenizer import tokenizer_from_dict
from bert_jax.training.state import abstract_params


class FineTuned:
    """The model, tokenizer and labels of a fine-tuned checkpoint.

    Attributes:
      config: of the fine-tuning run.
      encoder: config of the encoder.
      labels: names of the classes, in the order of their ids.
      scores: of its epoch on the held-out splits, by name.
      tokenizer: of the pretraining corpus.
    """

    def __init__(self, checkpoint: pathlib.Path, metadata: dict[str, Any], mesh: Mesh) -> None:
        """Restores the parameters onto a mesh.

        Args:
          checkpoint: CHECKPOINTS/STEP.
          metadata: from `read_metadata`.
          mesh: from `sharding.make_mesh`.

        Raises:
          UserError: if it is damaged, or not fine-tuned.
        """
        if metadata["kind"] not in [kind.value for kind in TaskKind]:
            raise UserError(
                f"{checkpoint} is of kind {metadata['kind']} and has no task head: fine-tune it"
                " first"
            )
        self.config = from_dict(FinetuneConfig, metadata["config"])
        self.encoder = from_dict(EncoderConfig, metadata["encoder"])
        self.tokenizer = tokenizer_from_dict(metadata["tokenizer"])
        self.labels: list[str] = metadata["labels"]
        self.scores: dict[str, float] = metadata["scores"]
        self._mesh = mesh
        model = make_model(self.config, self.encoder, self.labels)
        abstract = abstract_params(model, mesh)
        self._params = restore_groups(checkpoint, abstract, abstract)
        self._model = model
        self._step = make_outputs_step(model, KINDS[self.config.task].totals, mesh)

    def no_labels(self, sizes: np.ndarray) -> np.ndarray | list[np.ndarray]:
        """Returns placeholder labels in the task's form, for inputs without labels.

        Args:
          sizes: [I] int64, tokens in each input.
        """
        match self.config.task:
            case TaskKind.TAGS:
                return [np.full(size, NO_LABEL, np.int32) for size in sizes]
            case TaskKind.SPANS:
                return np.zeros((len(sizes), 2), np.int32)
            case _:
                return np.zeros(len(sizes), np.int32)

    def outputs(self, inputs: TaskInputs, *, batch_size: int) -> Outputs:
        """Runs the model over inputs, packed into rows as long as the longest input needs.

        Args:
          inputs: none longer than the position table.
          batch_size: inputs in a batch.

        Returns:
          The outputs of each input, in order.
        """
        batches = make_batches(
            inputs,
            self.encoder,
            self.tokenizer.special,
            self._mesh,
            batch_size=batch_size,
            packed=True,
            whole_inputs=self._model.whole_inputs,
            pool_last=self._model.pool_last,
        )
        return batches.outputs(self._step, self._params)[0]
