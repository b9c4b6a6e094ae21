"""Against transformers' BertForPreTraining: the same weights, logits, gradients and loss curve."""

from typing import Any

import jax
import numpy as np
import optax
import pytest

from bert_jax.config import EncoderConfig, MeshConfig, OptimizerConfig
from bert_jax.distributed import sharding
from bert_jax.inspection.internals import encoder_internals
from bert_jax.model.heads import PretrainingModel
from bert_jax.objectives.losses import make_pretraining_loss, mean
from bert_jax.training import step as training
from bert_jax.training.optimizer import make_optimizer
from bert_jax.training.schedules import learning_rate_schedule, task_settings
from bert_jax.training.state import abstract_state, init_state, make_run_inputs
from tests.fixtures.batches import Batch, make_batch, with_targets
from tests.fixtures.interop import to_params

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CONFIG = EncoderConfig(
    vocab_size=300,
    width=64,
    layers=4,
    heads=4,
    mlp_width=160,
    max_length=28,
    dropout_rate=0.0,
    attention_dropout_rate=0.0,
)


@pytest.fixture
def peer() -> Any:
    """Their model with initial-size weights; biases and norms are off their 0 and 1 as well."""
    torch.manual_seed(0)
    model = transformers.BertForPreTraining(
        transformers.BertConfig(
            vocab_size=CONFIG.vocab_size,
            hidden_size=CONFIG.width,
            num_hidden_layers=CONFIG.layers,
            num_attention_heads=CONFIG.heads,
            intermediate_size=CONFIG.mlp_width,
            max_position_embeddings=CONFIG.max_length,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation="eager",
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.02 * torch.randn(parameter.shape))
    return model.train()


def make_pairs(seed: int) -> Batch:
    """Makes one pair of sentences in each row, with padding behind it and targets in it."""
    return with_targets(make_batch(CONFIG, rows=8, length=24, examples=1, seed=seed), seed)


def run_peer(model: Any, batch: Batch, **wanted: bool) -> Any:
    """Runs their model on our batch: loss and logits, and what else is wanted."""
    labels = np.where(batch["mlm_weights"] > 0, batch["mlm_labels"], -100)
    tensors = {
        "input_ids": batch["token_ids"],
        "attention_mask": batch["example_ids"],
        "token_type_ids": batch["segment_ids"],
        "labels": labels,
        "next_sentence_label": batch["labels"][:, 0],
    }
    inputs = {name: torch.tensor(field).long() for name, field in tensors.items()}
    return model(**inputs, **wanted)


def values(model: Any) -> dict[str, np.ndarray]:
    """Copies their parameters, by name."""
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


@pytest.mark.parametrize("widening", [1, 10])
def test_forward_logits_agree(peer, widening):
    with torch.no_grad():  # wide weights reach where initial-size ones do not, as GELU's tails
        for parameter in peer.parameters():
            if parameter.ndim > 1:
                parameter.mul_(widening)
    model, params = PretrainingModel(CONFIG), to_params(values(peer), PretrainingModel(CONFIG))
    batch = make_pairs(0)
    logits = jax.jit(lambda p, b: model.apply({"params": p}, b, deterministic=True))(params, batch)
    theirs = run_peer(peer, batch)
    real = batch["example_ids"] > 0
    assert 0.2 < real.mean() < 0.9 and batch["segment_ids"].any(axis=1).all()
    mlm, nsp = (
        x.detach().numpy() for x in (theirs.prediction_logits, theirs.seq_relationship_logits)
    )
    atol = 1e-5 * widening
    np.testing.assert_allclose(logits.mlm[real], mlm[real], rtol=0, atol=atol)
    np.testing.assert_allclose(logits.sentence[:, 0], nsp, rtol=0, atol=atol)
    assert mlm[real].std() > 0.05 * widening  # witness: the logits are not all alike


def test_hidden_states_and_attention_agree(peer):
    params, batch = to_params(values(peer), PretrainingModel(CONFIG))["encoder"], make_pairs(0)
    hidden, attention = jax.device_get(encoder_internals(CONFIG, params, batch))
    theirs = run_peer(peer, batch, output_hidden_states=True, output_attentions=True)
    real = batch["example_ids"] > 0
    for ours, other in zip(hidden, theirs.hidden_states, strict=True):
        np.testing.assert_allclose(ours[real], other.detach().numpy()[real], rtol=0, atol=1e-5)
    for ours, other in zip(attention, theirs.attentions, strict=True):
        ours, other = (x.swapaxes(1, 2)[real] for x in (ours, other.detach().numpy()))
        np.testing.assert_allclose(ours, other, rtol=0, atol=1e-6)


def test_gradients_agree(peer):
    params = to_params(values(peer), PretrainingModel(CONFIG))
    batch = make_pairs(0)
    loss_fn = make_pretraining_loss(PretrainingModel(CONFIG))
    (loss, _), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(params, batch, None)
    theirs = run_peer(peer, batch).loss
    theirs.backward()
    np.testing.assert_allclose(loss, theirs.item(), rtol=1e-5)

    expected = to_params(
        {n: p.grad.numpy() for n, p in peer.named_parameters()}, PretrainingModel(CONFIG)
    )
    difference = jax.tree.map(np.subtract, grads, expected)
    assert optax.tree.norm(difference) <= 1e-4 * optax.tree.norm(expected)
    norms = jax.tree.map(lambda d, e: (np.linalg.norm(d), np.linalg.norm(e)), difference, expected)
    for path, (error, norm) in jax.tree_util.tree_leaves_with_path(
        norms, is_leaf=lambda leaf: isinstance(leaf, tuple)
    ):
        name = "/".join(key.key for key in path)
        if name != "encoder/layers/attention/key/bias":  # zero in theory
            assert error <= 1e-4 * norm, name


def torch_adamw(model: Any, config: OptimizerConfig) -> Any:
    """Makes PyTorch's AdamW with our groups; the learning rate is set before each step."""
    plain = [p for p in model.parameters() if p.ndim == 1]
    decayed = [p for p in model.parameters() if p.ndim > 1]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
    )


def test_loss_curves_of_50_steps_agree(peer):
    steps = 50
    config = OptimizerConfig(learning_rate=1e-3, warmup_steps=5)
    schedule = learning_rate_schedule(config, steps)
    model, tx = PretrainingModel(CONFIG), make_optimizer(config)
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    abstract = abstract_state(model, tx, mesh)
    step = training.make_train_step(
        make_pretraining_loss(model), lambda batch, key, step: batch, tx, abstract
    )
    placed = jax.tree.map(lambda leaf: leaf.sharding, abstract.params)
    params = jax.device_put(to_params(values(peer), PretrainingModel(CONFIG)), placed)
    state = init_state(params, tx, abstract)
    run = make_run_inputs(mesh, 0, task_settings(config, steps), steps)
    optimizer = torch_adamw(peer, config)

    batches = [make_pairs(seed) for seed in range(5)]  # seen ten times each, so that the loss falls
    ours, theirs, clipped = [], [], 0
    for i in range(steps):
        batch = batches[i % len(batches)]
        state, totals = step(state, batch, run)
        ours.append(float(mean(totals["loss"])))

        optimizer.zero_grad()
        loss = run_peer(peer, batch).loss
        loss.backward()
        theirs.append(loss.item())
        norm = torch.nn.utils.clip_grad_norm_(peer.parameters(), config.clip_norm)
        clipped += norm.item() > config.clip_norm
        np.testing.assert_allclose(mean(totals["grad_norm"]), norm.item(), rtol=1e-3)
        for group in optimizer.param_groups:
            group["lr"] = np.asarray(schedule(i)).item()
        optimizer.step()

    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    assert np.mean(ours[-5:]) < np.mean(ours[:5]) - 0.5
    assert 0 < clipped
