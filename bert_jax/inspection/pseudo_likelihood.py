"""Pseudo-log-likelihood of texts under a masked language model (Salazar et al., 2020).

It is the sum, over the tokens of a text, of the token's log-probability when it alone is masked.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bert_jax.checkpoints.pretrained import MaskedLM
from bert_jax.data.tasks.rows import TaskInputs
from bert_jax.distributed import sharding
from bert_jax.inspection.fill_mask import check_masks
from bert_jax.model.encoder import Batch
from bert_jax.objectives.losses import Params, Totals
from bert_jax.tasks.evaluation import make_batches
from bert_jax.text.tokenizer import SpecialIds


class PseudoLikelihood:
    """Scores inputs. Scores do not depend on the batch, or on packing."""

    def __init__(self, lm: MaskedLM, mesh: Mesh, *, batch_size: int, packed: bool = True) -> None:
        """Prepares the computation.

        Args:
          lm: from `restore_masked_lm`.
          mesh: of its parameters.
          batch_size: masked copies of inputs in a batch.
          packed: True if a row may have several masked copies.

        Raises:
          UserError: if the model is causal.
        """
        check_masks(lm)
        self._lm, self._mesh = lm, mesh
        self._batch_size, self._packed = batch_size, packed

        def step(params: Params, batch: Batch) -> tuple[jax.Array, Totals]:
            at = _mask_positions(batch, lm.tokenizer.special.mask)
            logits: Any = lm.model.apply(
                {"params": params}, batch | {"mlm_positions": at}, deterministic=True
            )
            log_probabilities = jax.nn.log_softmax(lm.token_logits(logits.mlm))
            return jnp.take_along_axis(log_probabilities, batch["labels"][:, :, None], axis=2), {}

        self._step = jax.jit(step, out_shardings=sharding.replicated(mesh))

    def __call__(self, a: list[np.ndarray], b: list[np.ndarray]) -> list[np.ndarray]:
        """Scores inputs.

        Args:
          a: [I] int32 arrays of token ids; with special tokens none exceeds the position table.
          b: [I] int32 arrays of token ids; empty for inputs without a second text.

        Returns:
          For each input, in order, the log-probabilities in nats of A's tokens, then B's: [size]
          float32.
        """
        copies = _masked_copies(a, b, self._lm.tokenizer.special)
        batches = make_batches(
            copies,
            self._lm.model.config,
            self._lm.tokenizer.special,
            self._mesh,
            batch_size=self._batch_size,
            packed=self._packed,
            whole_inputs=True,
            pool_last=self._lm.model.config.causal,
        )
        scores = np.concatenate(batches.outputs(self._step, self._lm.params)[0])
        ends = np.cumsum([len(first) + len(second) for first, second in zip(a, b, strict=True)])
        return np.split(scores, ends[:-1])


def _masked_copies(a: list[np.ndarray], b: list[np.ndarray], special: SpecialIds) -> TaskInputs:
    """Returns one copy of an input for each token, with this token masked and as its label."""
    copies: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    for sides in zip(a, b, strict=True):
        for side, ids in enumerate(sides):
            masked = np.where(
                np.eye(len(ids), dtype=bool), np.int32(special.mask), ids
            )  # a copy a row
            copies[side].extend(masked)
            copies[1 - side].extend([sides[1 - side]] * len(ids))
    labels = np.concatenate([ids for sides in zip(a, b, strict=True) for ids in sides])
    return TaskInputs(*copies, labels, np.arange(len(labels)), special)


def _mask_positions(batch: Batch, mask: int) -> jax.Array:
    """Returns the position of each example's mask, [B, N] int32; 0 for empty slots."""
    numbers = 1 + jnp.arange(batch["pool_positions"].shape[1], dtype=jnp.int32)
    own = batch["example_ids"][:, None, :] == numbers[None, :, None]  # [B, N, T]
    is_mask = batch["token_ids"] == mask  # no text is tokenised to this id
    return jnp.argmax(own & is_mask[:, None, :], axis=2).astype(jnp.int32)
