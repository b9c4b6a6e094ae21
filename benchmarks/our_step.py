"""The pretraining step of this project, as a program that takes turns (`turns.py`).

    python -m benchmarks.our_step --size=base --batch=8 --length=128

A turn is one step with its optimizer update, on full rows or on the next batch of `--batches`,
and then a measurement of the step's matrix products alone.
"""

import itertools
import time
from typing import Any

import jax
import numpy as np
from absl import app, flags

from benchmarks.matrix_rate import MatrixRate
from benchmarks.rows import full_rows
from benchmarks.sizes import (
    SIZES,
    VOCAB,
    Family,
    encoder_of,
    modern_encoder_of,
    vocabulary_of,
)
from benchmarks.turns import Figures, peak_bytes, serve
from bert_jax.config import (
    AttentionKernel,
    ComputeType,
    MeshConfig,
    PretrainConfig,
    Remat,
    SentenceObjective,
)
from bert_jax.distributed import sharding
from bert_jax.model.flops import pretraining_flops
from bert_jax.objectives.masking import masked_slots
from bert_jax.runs.steps import pretraining_steps
from bert_jax.training.compilations import Compilations
from bert_jax.training.state import init_params, init_state

_FAMILY = flags.DEFINE_enum_class("family", Family.BERT, Family, "of the model")
_SIZE = flags.DEFINE_enum("size", "base", list(SIZES), "the model")
_BATCH = flags.DEFINE_integer("batch", 8, "rows")
_LENGTH = flags.DEFINE_integer("length", 128, "tokens in a row")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "of computing")
_UNROLL = flags.DEFINE_integer("unroll", 0, "as in a config")
_REMAT = flags.DEFINE_enum_class("remat", Remat.NONE, Remat, "as in a config")
_DROPOUT = flags.DEFINE_bool("dropout", True, "as published")
_ATTENTION_DROPOUT = flags.DEFINE_bool("attention_dropout", True, "as published")
_ATTENTION = flags.DEFINE_enum_class(
    "attention", AttentionKernel.AUTO, AttentionKernel, "as in a config"
)
_BATCHES = flags.DEFINE_string("batches", "", "an .npz of packed rows; '': full rows")

_WARM_UP = 2


def config_of(examples: int) -> PretrainConfig:
    """Returns the config that the flags describe, with at most `examples` examples in a row."""
    config = PretrainConfig(batch_size=_BATCH.value, steps=1_000_000)
    if _FAMILY.value is Family.MODERN:
        config.encoder = modern_encoder_of(_SIZE.value, length=_LENGTH.value)
        config.data.objective, config.masking.rate = SentenceObjective.NONE, 0.3
    else:
        config.encoder = encoder_of(_SIZE.value, length=_LENGTH.value)
    encoder = config.encoder
    encoder.compute_type = ComputeType(_DTYPE.value)
    encoder.unroll, encoder.remat, encoder.attention = _UNROLL.value, _REMAT.value, _ATTENTION.value
    if not _DROPOUT.value:
        encoder.dropout_rate = 0.0
    if not (_DROPOUT.value and _ATTENTION_DROPOUT.value):
        encoder.attention_dropout_rate = 0.0
    config.data.length, config.data.max_examples_per_row = _LENGTH.value, examples
    return config


class Step:
    """The step, its batches and its state."""

    def __init__(self) -> None:
        """Compiles the step and warms up."""
        batches = [full_rows(_BATCH.value, _LENGTH.value)]
        if _BATCHES.value:
            with np.load(_BATCHES.value) as file:
                fields = {name: file[name] for name in file.files}
            count = len(fields["token_ids"])
            batches = [{name: field[i] for name, field in fields.items()} for i in range(count)]
        examples = batches[0]["weights"].shape[1]
        config = config_of(examples)
        mesh = sharding.make_mesh(MeshConfig())
        vocabulary = vocabulary_of(VOCAB)
        [compiled] = pretraining_steps(config, vocabulary, mesh)
        params = init_params(compiled.model, 0, compiled.abstract.params)
        self._state = init_state(params, compiled.tx, compiled.abstract)
        del params
        self._step, self._run = compiled.train_step, compiled.inputs(0)
        rows = sharding.host_rows(_BATCH.value, mesh)
        self._tokens = [int(np.count_nonzero(batch["example_ids"])) for batch in batches]
        self._batches = itertools.cycle(
            zip(
                [sharding.global_batch(batch, rows, len(rows), mesh) for batch in batches],
                self._tokens,
                strict=True,
            )
        )
        slots = masked_slots(_LENGTH.value, examples, config.masking)
        self._flops = pretraining_flops(config.encoder, _LENGTH.value, slots)
        with Compilations(self._step):  # as in a training run
            for _ in range(_WARM_UP):
                self.run()
        self._peak_bytes = _peak_bytes()
        dtype = np.dtype(jax.numpy.dtype(_DTYPE.value))
        self._rate = MatrixRate(config.encoder, _BATCH.value, _LENGTH.value, slots, dtype)

    def run(self) -> tuple[float, int]:
        """Takes a step; returns its seconds and real tokens."""
        batch, tokens = next(self._batches)
        begin = time.perf_counter()
        self._state, totals = self._step(self._state, batch, self._run)
        jax.block_until_ready((self._state, totals))
        return time.perf_counter() - begin, tokens

    def program(self) -> str:
        """Returns the text of the compiled program (HLO)."""
        batch, _ = next(self._batches)
        lowered = self._step.lower(self._state, batch, self._run)  # pyright: ignore[reportFunctionMemberAccess]
        return lowered.compile().as_text()

    def turn(self) -> Figures:
        """Takes a step, then measures its matrix products alone; rates are per second."""
        seconds, tokens = self.run()
        model_rate = tokens * self._flops / seconds
        rates = self._rate.measure()
        shares = {f"of_{name}": model_rate / rate for name, rate in rates.items()}
        return {"seconds": seconds, "tokens_per_second": tokens / seconds} | rates | shares

    def at_end(self) -> Figures:
        """Returns the peak memory of the step, in bytes, without that of measuring the products."""
        return {"peak_bytes": self._peak_bytes, "batches": len(self._tokens)}


def _peak_bytes() -> int:
    device: Any = jax.devices()[0]
    if device.platform != "cpu":
        return device.memory_stats()["peak_bytes_in_use"]
    return peak_bytes()


def main(_: list[str]) -> None:
    """Serves turns."""
    step = Step()
    serve(step.turn, step.at_end)


if __name__ == "__main__":
    app.run(main)
