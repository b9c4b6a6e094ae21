"""Eight fake CPU devices, and the small models and batches that the tests share."""

import os
import signal
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
# The programs are many and tiny: compiling them takes longer than running them.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"

import flax.linen as nn
import jax
import numpy as np
import pytest

from bert_jax.config import EncoderConfig
from bert_jax.heads import TaskModel
from bert_jax.losses import Params
from bert_jax.training import run_key

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# A shell's background jobs ignore ctrl-C, and so would the drivers that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["driver_fixtures", "study_fixtures", "slurm_fixtures"]

Batch = dict[str, Any]  # of NumPy arrays

# Ids of the tokenizer that the batches pretend to have.
PAD, UNK, CLS, SEP, MASK = SPECIAL_IDS = tuple(range(5))


@pytest.fixture(scope="session")
def tiny_encoder() -> EncoderConfig:
    """An encoder so shaped that hardly a transposed axis can pass; with B=16, T=14, C=3, N=2.

    It divides every mesh of eight devices that the tests use.
    """
    return EncoderConfig(vocab_size=60, width=24, layers=2, heads=4, mlp_width=40, max_length=18)


def classification_model(config: EncoderConfig) -> TaskModel:
    """Returns a classifier of whole inputs, C = 3."""
    return TaskModel(config, "classifier", 3, whole_inputs=True)


def make_batch(
    config: EncoderConfig, *, rows: int = 16, length: int = 14, examples: int = 2, seed: int = 0
) -> Batch:
    """Makes rows of sentence pairs, [CLS] A [SEP] B [SEP], one to `examples` in a row.

    Args:
      config: for the vocabulary.
      rows: B.
      length: T, at least 5 for each example.
      examples: N.
      seed: decides everything.

    Returns:
      The fields that a loader makes: no masked-LM targets, for which see `with_targets`.
    """
    rng = np.random.default_rng(seed)
    names = ("token_ids", "example_ids", "segment_ids", "positions")
    batch: Batch = {name: np.zeros((rows, length), np.int32) for name in names}
    batch["pool_positions"] = np.zeros((rows, examples), np.int32)
    batch["labels"] = np.zeros((rows, examples), np.int32)
    batch["weights"] = np.zeros((rows, examples), np.float32)
    batch["row_ids"] = np.stack([np.full(rows, seed), np.arange(rows)], axis=1).astype(np.uint32)
    for row in range(rows):
        begin = 0
        for example in range(examples):
            if example and rng.random() < 0.25:
                break
            size = int(rng.integers(5, (length - begin) // (examples - example) + 1))
            first = int(rng.integers(2, size - 2))  # place of the first [SEP]
            at = (row, slice(begin, begin + size))
            tokens = rng.integers(len(SPECIAL_IDS), config.vocab_size, size)
            tokens[[0, first, -1]] = CLS, SEP, SEP
            batch["token_ids"][at] = tokens
            batch["example_ids"][at] = example + 1
            batch["segment_ids"][at] = np.arange(size) > first
            batch["positions"][at] = np.arange(size)
            batch["pool_positions"][row, example] = begin
            batch["labels"][row, example] = rng.integers(2)
            batch["weights"][row, example] = 1
            begin += size
    return batch


def with_targets(batch: Batch, seed: int = 0) -> Batch:
    """Adds masked-LM targets by hand: every position is a slot, two in every example have weight.

    They stay with their example however the rows are packed, which `mask_tokens` does not promise.
    """
    rng = np.random.default_rng(seed)
    token_ids, weights = (batch["token_ids"].copy(), np.zeros(batch["token_ids"].shape, np.float32))
    ordinary = token_ids >= len(SPECIAL_IDS)
    for row, example in zip(*np.nonzero(batch["weights"]), strict=True):
        places = np.nonzero(ordinary[row] & (batch["example_ids"][row] == example + 1))[0]
        weights[row, rng.choice(places, 2, replace=False)] = 1
    token_ids[weights > 0] = MASK
    slots = np.broadcast_to(np.arange(token_ids.shape[1], dtype=np.int32), token_ids.shape)
    return batch | {
        "token_ids": token_ids,
        "mlm_positions": slots.copy(),
        "mlm_labels": np.where(weights > 0, batch["token_ids"], 0).astype(np.int32),
        "mlm_weights": weights,
    }


def random_params(model: nn.Module, batch: Batch, *, stddev: float = 0.2, seed: int = 0) -> Params:
    """Draws every parameter, biases and scales too, so wide that each matters to the output."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        centre = 1.0 if path[-1].key == "scale" else 0.0
        return (centre + stddev * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

    def init() -> Params:
        return nn.unbox(model.init(run_key(0), batch, deterministic=True))["params"]

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init))
