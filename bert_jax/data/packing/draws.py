"""Counter-based random numbers: each is a pure function of its key, purpose and index.

Nothing depends on what was drawn before, and the values are the same on every machine. They are raw
bits of Philox, mapped by integer arithmetic of our own, because NumPy does not promise that the
methods of `Generator` give the same values in its next version.
"""

import enum
from typing import NamedTuple

import numpy as np


class Purpose(enum.IntEnum):
    """Purposes of draws; each has its own random stream. The numbers must never change."""

    DOCUMENT_ORDER = 0
    CHUNK = 1  # target length
    COIN = 2  # is B random, and where A ends
    OTHER_DOCUMENT = 3
    OTHER_SENTENCE = 4
    FRONT_CUT_A = 5
    FRONT_CUT_B = 6
    ROW_ORDER = 7
    SWAP = 8
    MIXTURE = 9
    TASK_EPOCH_ORDER = 100
    TASK_BATCH_ORDER = 101
    TASK_SUBSET = 102


class DrawKey(NamedTuple):
    """Key of a random stream, as `jax.random.key` is for jax."""

    seed: int  # of the run; from 0 to 2^64 - 1
    epoch: int = 0
    block: int = 0  # of the epoch


def random_bits(count: int, key: DrawKey, purpose: int, *, first: int = 0) -> np.ndarray:
    """Returns [count] uint64 of random bits.

    Args:
      count: number of values.
      key: of the stream.
      purpose: a `Purpose`; it separates the streams of one key.
      first: index in the stream of the first value returned.
    """
    counter, skipped = divmod(first, 4)  # each count of Philox gives four values
    philox = np.random.Philox(
        key=np.array([key.seed, purpose], np.uint64),
        counter=np.array([counter, 0, key.epoch, key.block], np.uint64),
    )
    return philox.random_raw(skipped + count)[skipped:]


def split_u32(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Splits [n] uint64 into its high and low 32 bits: two independent draws, stored as uint64."""
    return bits >> np.uint64(32), bits & np.uint64(0xFFFFFFFF)


def randint(bits: np.ndarray, bound: np.ndarray | int) -> np.ndarray:
    """Maps 32 random bits to an integer in [0, bound), as int64.

    Args:
      bits: [n] uint64 below 2^32, from `split_u32`.
      bound: from 1 to 2^31 - 1. The probability of a value is off by a factor of at most
        1 + bound / 2^32.
    """
    return ((bits * np.asarray(bound, np.uint64)) >> np.uint64(32)).astype(np.int64)


def bernoulli(bits: np.ndarray, rate: float) -> np.ndarray:
    """Maps 32 random bits to True with probability `rate`, exact to 2^-32."""
    return bits < np.uint64(round(rate * 2**32))


def randint_large(bits: np.ndarray, bound: np.ndarray | int) -> np.ndarray:
    """Maps 64 random bits to an integer in [0, bound), for bounds up to 2^53; int64."""
    unit = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    # At most (1 - 2^-53) * bound, which never rounds up to bound.
    return (unit * bound).astype(np.int64)


def permuted(index: np.ndarray, size: int, key: DrawKey, purpose: int) -> np.ndarray:
    """Evaluates a random permutation of range(size) at some indices, without storing it.

    A Feistel network permutes the next power of four; results outside the range go through it again
    until they fall inside (cycle walking).

    Args:
      index: [n] int64 in [0, size).
      size: at least 1.
      key: of the permutation; its block is not used.
      purpose: as in `random_bits`.

    Returns:
      [n] int64 in [0, size); distinct where `index` is.
    """
    half_bits = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    low = (np.uint64(1) << half_bits) - np.uint64(1)
    round_keys = random_bits(_ROUNDS, key._replace(block=0), purpose)
    result = np.asarray(index, np.uint64).copy()
    outside = np.arange(len(result))
    while len(outside):
        left, right = result[outside] >> half_bits, result[outside] & low
        for round_key in round_keys:
            left, right = right, left ^ (_mix(right ^ round_key) & low)
        result[outside] = (left << half_bits) | right
        outside = outside[result[outside] >= size]
    return result.astype(np.int64)


_ROUNDS = 8


def _mix(x: np.ndarray) -> np.ndarray:
    """Scatters 64 bits over 64 bits: the finaliser of SplitMix64 (Steele et al., 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def count_heads(trials: np.ndarray, key: DrawKey, purpose: int) -> np.ndarray:
    """Draws from Binomial(trials, 1/2): [n] int64 to [n] int64, by tossing every coin."""
    used = -(-trials // 64)  # values of 64 coins each
    ends = np.cumsum(used)
    coins = random_bits(int(used.sum()), key, purpose)
    # The last value of each has coins to spare.
    tossed = trials > 0
    coins[ends[tossed] - 1] >>= (-trials[tossed] % 64).astype(np.uint64)
    heads = np.concatenate([[0], np.cumsum(np.bitwise_count(coins), dtype=np.int64)])
    return heads[ends] - heads[ends - used]
