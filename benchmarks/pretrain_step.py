"""Times the pretraining step, alone or in turn with a peer's program.

    python -m benchmarks.pretrain_step --size=base --batch=8 --length=128
    python -m benchmarks.pretrain_step --size=base --batch=8 --length=128 --rounds=3 \
        --peer='python PEER.py --size base --batch 8 --length 128'

Rows are full, dropout is as published, and the optimizer is part of the step. A peer prints a JSON
line with `tokens_per_second`. Absolute figures drift on shared machines: quote the ratio.
"""

import json
import shlex
import statistics
import subprocess
import sys
import time

import jax
import numpy as np
from absl import app, flags

from benchmarks.sizes import SIZES
from bert_jax import sharding
from bert_jax.config import EncoderConfig, MaskingConfig, MeshConfig, OptimizerConfig
from bert_jax.heads import PretrainingModel
from bert_jax.losses import make_pretraining_loss
from bert_jax.masking import MaskVocabulary, mask_rate, mask_tokens
from bert_jax.model import Batch
from bert_jax.optimizer import make_optimizer
from bert_jax.training import abstract_state, init_params, init_state, make_train_step, run_key

_SIZE = flags.DEFINE_enum("size", "base", list(SIZES), "the model")
_BATCH = flags.DEFINE_integer("batch", 8, "rows")
_LENGTH = flags.DEFINE_integer("length", 128, "tokens in a row")
_VOCAB = flags.DEFINE_integer("vocab", 30_522, "size of the vocabulary")
_UNROLL = flags.DEFINE_integer("unroll", 1, "layers per iteration of the scan")
_STEPS = flags.DEFINE_integer("steps", 5, "timed steps of a round; their median counts")
_ROUNDS = flags.DEFINE_integer("rounds", 1, "with a peer: how often each of the two is run")
_PEER = flags.DEFINE_string("peer", "", "a command to run in turn")


def full_rows(batch: int, length: int, vocab: int) -> dict[str, np.ndarray]:
    """Makes random rows without padding: one pair in each."""
    rng = np.random.default_rng(0)
    ones = np.ones((batch, 1))
    return {
        "token_ids": rng.integers(5, vocab, (batch, length), dtype=np.int32),
        "example_ids": np.ones((batch, length), np.int32),
        "segment_ids": np.tile((np.arange(length) >= length // 2).astype(np.int32), (batch, 1)),
        "positions": np.tile(np.arange(length, dtype=np.int32), (batch, 1)),
        "pool_positions": np.zeros((batch, 1), np.int32),
        "row_ids": np.stack([np.zeros(batch), np.arange(batch)], axis=1).astype(np.uint32),
        "labels": rng.integers(0, 2, (batch, 1), dtype=np.int32),
        "weights": ones.astype(np.float32),
    }


def measure() -> dict[str, float]:
    """Times the step after it is compiled.

    Returns:
      Median `seconds`, and `tokens_per_second`.
    """
    layers, width, heads = SIZES[_SIZE.value]
    encoder = EncoderConfig(
        vocab_size=_VOCAB.value,
        layers=layers,
        width=width,
        heads=heads,
        mlp_width=4 * width,
        max_length=max(512, _LENGTH.value),
        unroll=_UNROLL.value,
    )
    mesh = sharding.make_mesh(MeshConfig())
    model, tx = PretrainingModel(encoder), make_optimizer(OptimizerConfig(), 1_000_000)
    abstract = abstract_state(model, tx, mesh)
    masking = MaskingConfig()
    vocabulary = MaskVocabulary(
        special_ids=(0, 1, 2, 3, 4),
        mask_id=4,
        vocab_size=_VOCAB.value,
        word_starts=np.ones(_VOCAB.value, bool),
    )

    def prepare(batch: Batch, key: jax.Array, step: jax.Array | int) -> Batch:
        rate = mask_rate(masking, step, 1)
        return mask_tokens(batch, key, rate, masking, vocabulary=vocabulary)

    step = make_train_step(make_pretraining_loss(model), prepare, tx, abstract)
    state = init_state(init_params(model, 0, abstract.params), tx, abstract)
    batch = sharding.global_batch(
        full_rows(_BATCH.value, _LENGTH.value, _VOCAB.value),
        sharding.host_rows(_BATCH.value, mesh),
        _BATCH.value,
        mesh,
    )
    key, seconds = run_key(0), []
    for turn in range(_STEPS.value + 3):
        begin = time.perf_counter()
        state, totals = step(state, batch, key)
        jax.block_until_ready((state, totals))
        if turn >= 3:
            seconds.append(time.perf_counter() - begin)
    median = statistics.median(seconds)
    return {"seconds": median, "tokens_per_second": _BATCH.value * _LENGTH.value / median}


def last_json(command: list[str]) -> dict[str, float]:
    """Runs a program and reads its last line."""
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.strip().splitlines()[-1])


def main(argv: list[str]) -> None:
    """Measures here, or runs both programs in turn and prints the ratio."""
    if not _PEER.value:
        print(json.dumps(measure()))
        return
    del argv
    alone = [each for each in sys.argv[1:] if not each.startswith(("--peer=", "--rounds="))]
    own = [sys.executable, "-m", "benchmarks.pretrain_step", *alone]
    ours, theirs = [], []
    for _ in range(_ROUNDS.value):
        ours.append(last_json(own)["tokens_per_second"])
        theirs.append(last_json(shlex.split(_PEER.value))["tokens_per_second"])
    summary = {
        "tokens_per_second": ours,
        "peer_tokens_per_second": theirs,
        "ratio": statistics.median(ours) / statistics.median(theirs),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    app.run(main)
