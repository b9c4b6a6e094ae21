"""Ten steps of continued pretraining against a plain PyTorch loop, for each family's masked LM."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import (
    EncoderConfig,
    MeshConfig,
    OptimizerConfig,
    SentenceObjective,
    from_dict,
)
from bert_jax.distributed import sharding
from bert_jax.interop import huggingface
from bert_jax.interop.families.family import Family, Head
from bert_jax.interop.families.registry import FAMILIES
from bert_jax.model.heads import PretrainingModel
from bert_jax.objectives.losses import make_pretraining_loss
from bert_jax.training.optimizer import make_optimizer
from tests.fixtures.families import make_family_peer

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

RATE, DECAY, STEPS = 2e-3, 0.01, 10
ADAMW = OptimizerConfig(clip_norm=0.0, weight_decay=DECAY, beta1=0.9, beta2=0.98, epsilon=1e-6)
NO_DROPOUT = {
    name: 0.0
    for name in (
        "dropout_rate",
        "attention_dropout_rate",
        "attention_output_dropout_rate",
        "mlp_output_dropout_rate",
    )
}


def masked_batches(vocabulary: int, pad: int, mask: int) -> list[dict[str, np.ndarray]]:
    """Rows of 30 tokens, some of them shorter, each with four masks."""
    rng, batches = np.random.default_rng(0), []
    for _ in range(STEPS):
        ids = rng.integers(5, vocabulary - 1, (4, 30)).astype(np.int32)
        size = np.array([30, 30, 21, 12])
        real = np.arange(30) < size[:, None]
        positions = np.stack([np.sort(rng.permutation(12)[:4]) for _ in range(4)]).astype(np.int32)
        labels = np.take_along_axis(ids, positions, axis=1)
        np.put_along_axis(ids, positions, mask, axis=1)
        batches.append(
            {
                "token_ids": np.where(real, ids, pad).astype(np.int32),
                "example_ids": real.astype(np.int32),
                "segment_ids": np.zeros((4, 30), np.int32),
                "position_ids": np.where(real, np.arange(30), 0).astype(np.int32),
                "pool_positions": np.zeros((4, 1), np.int32),
                "labels": np.zeros((4, 1), np.int32),
                "weights": np.ones((4, 1), np.float32),
                "mlm_positions": positions,
                "mlm_labels": labels,
                "mlm_weights": np.ones((4, 4), np.float32),
            }
        )
    return batches


def our_losses(params: Any, encoder: EncoderConfig, batches: list[Any]) -> list[float]:
    loss = make_pretraining_loss(PretrainingModel(encoder, SentenceObjective.NONE))
    tx = make_optimizer(ADAMW)
    state = tx.init(params)

    @jax.jit
    def step(params: Any, state: Any, batch: Any) -> Any:
        (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(params, batch, None)
        updates, state = tx.update(gradient, state, params, weight_decay=DECAY)
        return jax.tree.map(lambda p, u: p - RATE * u, params, updates), state, value

    losses = []
    for batch in batches:
        params, state, value = step(params, state, batch)
        losses.append(float(value))
    return losses


def their_losses(model: Any, batches: list[Any]) -> list[float]:
    model.train()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": DECAY},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98), eps=1e-6)
    losses = []
    for batch in batches:
        mask = torch.tensor(batch["example_ids"]).long()
        logits = model(
            input_ids=torch.tensor(batch["token_ids"]).long(), attention_mask=mask
        ).logits
        at = torch.tensor(batch["mlm_positions"]).long()[:, :, None]
        chosen = logits.gather(1, at.expand(-1, -1, logits.shape[-1]))
        value = torch.nn.functional.cross_entropy(
            chosen.flatten(0, 1), torch.tensor(batch["mlm_labels"]).long().flatten()
        )
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_ten_losses(family: Family, tmp_path: pathlib.Path) -> None:
    off = dict.fromkeys(
        ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"), 0.0
    )
    known = {"distilbert": ("dropout", "attention_dropout"), "eurobert": ("attention_dropout",)}
    known |= {"modernbert": ("attention_dropout",)}
    named = known.get(family.model_type, ("hidden_dropout_prob", "attention_probs_dropout_prob"))
    peer = make_family_peer(family, Head.MASKED_LM, tmp_path, **{name: off[name] for name in named})
    mesh = sharding.make_mesh(MeshConfig(data=1), jax.devices()[:1])
    model = huggingface.read_directory(tmp_path, mesh)
    encoder = from_dict(EncoderConfig, model.metadata["encoder"] | NO_DROPOUT)
    special = huggingface.tokenizer_from_dict(model.metadata["tokenizer"]).special
    batches = masked_batches(encoder.vocab_size, special.pad, special.mask)
    ours = our_losses(jax.tree.map(jnp.asarray, model.params), encoder, batches)
    theirs = their_losses(peer, batches)
    assert len(ours) == STEPS and max(ours) - min(ours) > 0.1
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-5)
