"""How likely a masked language model finds a text (Salazar et al., 2020).

Each token is masked in turn, the others shown; the pseudo-log-likelihood of the text is the sum of
the log-probabilities that the model gives to what was there.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bert_jax.checkpoints.pretrained import MaskedLM
from bert_jax.data.tasks.rows import TaskInputs
from bert_jax.distributed import sharding
from bert_jax.errors import UserError
from bert_jax.model.encoder import Batch
from bert_jax.objectives.losses import Params, Totals
from bert_jax.tasks.evaluation import deal_out


class PseudoLikelihood:
    """Scores of inputs; neither the batch nor the row that a masked copy is in changes them."""

    def __init__(self, lm: MaskedLM, mesh: Mesh, *, batch_size: int, packed: bool = True) -> None:
        """Compiles nothing yet.

        Args:
          lm: from `restore_masked_lm`.
          mesh: that its parameters are on.
          batch_size: masked copies at a time.
          packed: whether several may be in a row.

        Raises:
          UserError: if the model was trained on each next token, and knows no mask.
        """
        if lm.model.config.causal:
            raise UserError(
                "the checkpoint was pretrained to say the next token, not a masked one: --score"
                " needs one that was not causal"
            )
        self._lm, self._mesh = lm, mesh
        self._batch_size, self._packed = batch_size, packed

        def step(params: Params, batch: Batch) -> tuple[jax.Array, Totals]:
            at = _mask_positions(batch, lm.tokenizer.special.mask)
            logits: Any = lm.model.apply(
                {"params": params}, batch | {"mlm_positions": at}, deterministic=True
            )
            # What a larger table holds beyond the tokenizer's vocabulary are no tokens.
            told = jax.nn.log_softmax(logits.mlm[:, :, : lm.tokenizer.vocab_size])
            return jnp.take_along_axis(told, batch["labels"][:, :, None], axis=2), {}

        self._step = jax.jit(step, out_shardings=sharding.replicated(mesh))

    def __call__(self, a: list[np.ndarray], b: list[np.ndarray]) -> list[np.ndarray]:
        """Scores inputs.

        Args:
          a: [I] int32 arrays, none longer than the position table with what is added.
          b: [I] int32 arrays; empty where there is no second text.

        Returns:
          For each input, in order, the log-probability of each of its tokens, those of A and then
          those of B: [size] float32, in nats.
        """
        copies = _masked_copies(a, b, self._lm.tokenizer.special.mask)
        on_devices = deal_out(
            copies,
            self._lm.model.config,
            self._lm.tokenizer.special,
            self._mesh,
            batch_size=self._batch_size,
            packed=self._packed,
            whole_inputs=True,
        )
        told = np.concatenate(on_devices.outputs(self._step, self._lm.params)[0])
        ends = np.cumsum([len(first) + len(second) for first, second in zip(a, b, strict=True)])
        return np.split(told, ends[:-1])


def _masked_copies(a: list[np.ndarray], b: list[np.ndarray], mask: int) -> TaskInputs:
    """Returns each input as often as it has tokens, each time with another masked: its label."""
    copies: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    for sides in zip(a, b, strict=True):
        for side, ids in enumerate(sides):
            hidden = np.where(np.eye(len(ids), dtype=bool), np.int32(mask), ids)  # a copy a row
            copies[side].extend(hidden)
            copies[1 - side].extend([sides[1 - side]] * len(ids))
    labels = np.concatenate([ids for sides in zip(a, b, strict=True) for ids in sides])
    return TaskInputs(*copies, labels, np.arange(len(labels)))


def _mask_positions(batch: Batch, mask: int) -> jax.Array:
    """Finds the one mask of each example: [B, N] int32; 0 where there is no example."""
    numbers = 1 + jnp.arange(batch["pool_positions"].shape[1], dtype=jnp.int32)
    own = batch["example_ids"][:, None, :] == numbers[None, :, None]  # [B, N, T]
    is_mask = batch["token_ids"] == mask  # which no text can produce
    return jnp.argmax(own & is_mask[:, None, :], axis=2).astype(jnp.int32)
