"""Examples written into rows: [CLS] A [SEP], or [CLS] A [SEP] B [SEP]."""

import numpy as np

from bert_jax.data.ragged import exclusive_cumsum, ranges
from bert_jax.tokenizer import SpecialIds

SINGLE_SPECIALS = 2  # [CLS] A [SEP]
PAIR_SPECIALS = 3  # [CLS] A [SEP] B [SEP]


def lay_out(
    held: np.ndarray,
    a: tuple[np.ndarray, np.ndarray],
    b: tuple[np.ndarray, np.ndarray],
    *,
    length: int,
    slots: int,
    special: SpecialIds,
) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Writes examples, in the order of their rows, into the token fields of a batch.

    Args:
      held: [R] int64, how many examples each row holds; 0 leaves it empty.
      a: the ids of all A, end to end, and their lengths [E] int64.
      b: the same for B; a length may be 0.
      length: T; the examples of a row must fit.
      slots: N, at least the most that a row holds.
      special: ids of [PAD], [CLS] and [SEP].

    Returns:
      `token_ids`, `example_ids`, `segment_ids`, `positions` [R, T] int32, `pool_positions` [R, N]
      int32; and the row and the slot of each example, [E] int64 each, to place its label by.
    """
    (a_ids, a_lengths), (b_ids, b_lengths) = a, b
    sizes = a_lengths + b_lengths + np.where(b_lengths > 0, PAIR_SPECIALS, SINGLE_SPECIALS)
    zeros = np.zeros_like(sizes)
    row = np.repeat(np.arange(len(held)), held)
    slot = ranges(np.zeros_like(held), held)
    offset = exclusive_cumsum(sizes)
    offset -= np.repeat(offset[exclusive_cumsum(held)[held > 0]], held[held > 0])
    at = row * length + offset  # of each example's [CLS], in the flattened rows

    batch = {
        name: np.full((len(held), length), fill, np.int32)
        for name, fill in (
            ("token_ids", special.pad),
            ("example_ids", 0),
            ("segment_ids", 0),
            ("positions", 0),
        )
    }
    flat = {name: field.reshape(-1) for name, field in batch.items()}
    flat["token_ids"][at] = special.cls
    flat["token_ids"][ranges(at + 1, a_lengths)] = a_ids
    flat["token_ids"][at + a_lengths + 1] = special.sep
    flat["token_ids"][ranges(at + a_lengths + 2, b_lengths)] = b_ids
    flat["token_ids"][at + sizes - 1] = special.sep
    flat["segment_ids"][ranges(at + a_lengths + 2, sizes - a_lengths - 2)] = 1
    flat["example_ids"][ranges(at, sizes)] = np.repeat(slot + 1, sizes)
    flat["positions"][ranges(at, sizes)] = ranges(zeros, sizes)
    batch["pool_positions"] = np.zeros((len(held), slots), np.int32)
    batch["pool_positions"][row, slot] = offset
    return batch, (row, slot)


def truncated_lengths(
    a_lengths: np.ndarray, b_lengths: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Shortens pairs to `most` tokens in all, always taking from the longer one; ties cut B.

    The closed form of cutting token by token, as the published BERT code does.

    Args:
      a_lengths: [E] int64.
      b_lengths: [E] int64; 0 where there is no B.
      most: tokens of A and B together, at least 2.

    Returns:
      The lengths that are kept, [E] int64 each.
    """
    a_kept = np.minimum(a_lengths, np.maximum(most - b_lengths, -(-most // 2)))
    return a_kept, np.minimum(b_lengths, most - a_kept)
