"""The machine's rate of matrix products: the limit of a training step.

There are two rates: of one large product, and of the products of a training step, each with its
own shape, one after another with nothing in between.
"""

import collections
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bert_jax.config import EncoderConfig, MlpKind
from bert_jax.model.flops import pretraining_flops
from bert_jax.model.stack import layer_kinds
from bert_jax.model.windowed_attention import blocks_of

# The side of the large product, and the number of runs in one measurement: on a GPU each kernel is
# launched while the previous one runs.
_TRIES = 4
_ON_CPU, _ELSEWHERE = (2048, 1), (8192, 20)

# (batch, A, B, C): `batch` products [A, B] x [B, C].
Shape = tuple[int, int, int, int]


def step_products(
    encoder: EncoderConfig, rows: int, length: int, slots: int
) -> list[tuple[int, Shape]]:
    """Returns the matrix products of a forward pass: how often each occurs, and its shape.

    Args:
      encoder: its shape, with the vocabulary size.
      rows: B, of the batch.
      length: T, tokens in a row.
      slots: M, masked positions in a row.
    """
    tokens, width, heads = rows * length, encoder.width, encoder.heads
    masked, layers = rows * slots, encoder.layers
    up = encoder.mlp_width * (2 if encoder.mlp is MlpKind.GATED else 1)
    products = [
        (4 * layers, (1, tokens, width, width)),
        (layers, (1, tokens, width, up)),
        (layers, (1, tokens, encoder.mlp_width, width)),
        (1, (1, masked, width, width)),
        (1, (1, masked, width, encoder.vocab_size)),
    ]
    for window, count in collections.Counter(each.window for each in layer_kinds(encoder)).items():
        queries, keys = blocks_of(window, length) if window else (length, length)
        batch, channels = rows * heads * -(-length // queries), width // heads
        products += [
            (count, (batch, queries, channels, keys)),
            (count, (batch, queries, keys, channels)),
        ]
    return products


class MatrixRate:
    """Timer for the matrix products of a step."""

    def __init__(
        self, encoder: EncoderConfig, rows: int, length: int, slots: int, dtype: Any
    ) -> None:
        """Makes the arrays and compiles the products; for the arguments see `step_products`."""
        self._flops = rows * length * pretraining_flops(encoder, length, slots)
        self._counts: list[tuple[int, Callable[[], float]]] = []
        for count, shape in step_products(encoder, rows, length, slots):
            batch, a, b, c = shape
            x, w, y = (
                jax.random.normal(jax.random.key(i), (batch, *sides), dtype)
                for i, sides in enumerate(((a, b), (b, c), (a, c)))
            )
            # Forward; gradient of the activations; gradient of the parameters.
            for equation, left, right in (
                ("nab,nbc->nac", x, w),
                ("nac,nbc->nab", y, w),
                ("nab,nac->nbc", x, y),
            ):
                self._counts.append((count, _timer(equation, left, right)))
        side, _ = _scale()
        square = jax.random.normal(jax.random.key(0), (1, side, side), dtype)
        self._large = _timer("nab,nbc->nac", square, square)
        self._large_flops = 2.0 * side**3

    def measure(self) -> dict[str, float]:
        """Returns the rates in FLOP/s: `matrix_rate` of the step, and `large_matrix_rate`."""
        seconds = sum(count * product() for count, product in self._counts)
        return {
            "matrix_rate": self._flops / seconds,
            "large_matrix_rate": self._large_flops / self._large(),
        }


def _scale() -> tuple[int, int]:
    return _ON_CPU if jax.default_backend() == "cpu" else _ELSEWHERE


def _timer(equation: str, left: jax.Array, right: jax.Array) -> Callable[[], float]:
    if left.shape[0] == 1:
        equation, left, right = equation.replace("n", ""), left[0], right[0]
    product = jax.jit(lambda left, right: jnp.einsum(equation, left, right))
    product(left, right).block_until_ready()

    _, repeats = _scale()

    def once() -> float:
        begin = time.perf_counter()
        result = [product(left, right) for _ in range(repeats)]
        jax.block_until_ready(result)
        return (time.perf_counter() - begin) / repeats

    # The best of a few: the limit is the most that the machine can do, and the first run is cold.
    def seconds() -> float:
        return min(once() for _ in range(_TRIES))

    return seconds
