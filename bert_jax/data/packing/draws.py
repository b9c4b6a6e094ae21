"""Random numbers by name: the same on every machine, whatever was drawn before.

They are raw counter bits of Philox with integer rules of our own, because the methods of NumPy's
`Generator` may change between versions.
"""

import numpy as np


def words(
    count: int, *, seed: int, purpose: int, epoch: int, block: int, first: int = 0
) -> np.ndarray:
    """Returns [count] uint64 of the stream that belongs to this name.

    Args:
      count: how many.
      seed: of the run; any integer from 0 to 2^64 - 1.
      purpose: keeps apart what is drawn for different ends; from 0 to 2^64 - 1.
      epoch: from 0.
      block: of the epoch, from 0.
      first: words of the stream before these.
    """
    counter, skipped = divmod(first, 4)  # each count of Philox gives four words
    philox = np.random.Philox(
        key=np.array([seed, purpose], np.uint64),
        counter=np.array([counter, 0, epoch, block], np.uint64),
    )
    return philox.random_raw(skipped + count)[skipped:]


def halves(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Splits [n] uint64 into two independent [n] draws of 32 bits, as uint64."""
    return values >> np.uint64(32), values & np.uint64(0xFFFFFFFF)


def below(half: np.ndarray, bound: np.ndarray | int) -> np.ndarray:
    """Maps 32-bit draws to integers in [0, bound), as int64.

    Args:
      half: [n] uint64 below 2^32.
      bound: at least 1, below 2^31; a value's chance is off by less than bound / 2^32 of itself.
    """
    return ((half * np.asarray(bound, np.uint64)) >> np.uint64(32)).astype(np.int64)


def chance(half: np.ndarray, rate: float) -> np.ndarray:
    """Maps 32-bit draws to True with this rate, exact to 2^-32."""
    return half < np.uint64(round(rate * 2**32))


def below_many(values: np.ndarray, bound: np.ndarray | int) -> np.ndarray:
    """Maps [n] uint64 to integers in [0, bound), for a bound that may be large (to 2^53); int64."""
    unit = (values >> np.uint64(11)).astype(np.float64) * 2.0**-53
    # At most (1 - 2^-53) * bound, which never rounds up to bound.
    return (unit * bound).astype(np.int64)


def permuted(index: np.ndarray, size: int, *, seed: int, purpose: int, epoch: int) -> np.ndarray:
    """Looks up places of a random permutation of range(size), without storing it.

    A Feistel network over the next power of four; places outside the range are sent through again
    until they fall inside (cycle walking).

    Args:
      index: [n] int64 in [0, size).
      size: at least 1.
      seed: of the run.
      purpose: as in `words`.
      epoch: each has a permutation of its own.

    Returns:
      [n] int64 in [0, size); distinct where `index` is.
    """
    half_bits = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    low = (np.uint64(1) << half_bits) - np.uint64(1)
    round_keys = words(_ROUNDS, seed=seed, purpose=purpose, epoch=epoch, block=0)
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


def binomial_halves(
    trials: np.ndarray, *, seed: int, purpose: int, epoch: int, block: int
) -> np.ndarray:
    """Counts heads of fair coins: [n] int64 trials to [n] int64, each from 0 to its trials."""
    used_words = -(-trials // 64)
    ends = np.cumsum(used_words)
    coins = words(int(used_words.sum()), seed=seed, purpose=purpose, epoch=epoch, block=block)
    # The last word of each has coins to spare.
    tossed = trials > 0
    coins[ends[tossed] - 1] >>= (-trials[tossed] % 64).astype(np.uint64)
    heads = np.concatenate([[0], np.cumsum(np.bitwise_count(coins), dtype=np.int64)])
    return heads[ends] - heads[ends - used_words]
