"""Examples written into rows: [CLS] A [SEP], [CLS] A [SEP] B [SEP], or of more parts."""

import numpy as np

from bert_jax.data.packing.ragged import exclusive_cumsum, ranges
from bert_jax.text.tokenizer import SpecialIds

SINGLE_SPECIALS = 2  # [CLS] A [SEP]
PAIR_SPECIALS = 3  # [CLS] A [SEP] B [SEP]


def lay_out(
    held: np.ndarray,
    parts: np.ndarray,
    part_ids: np.ndarray,
    part_lengths: np.ndarray,
    part_segments: np.ndarray,
    *,
    length: int,
    slots: int,
    special: SpecialIds,
    pool_last: bool = False,
) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Writes examples, in the order of their rows, into the token fields of a batch.

    Args:
      held: [R] int64, how many examples each row holds; 0 leaves it empty.
      parts: [E] int64, how many parts each example has, at least 1.
      part_ids: [tokens] int32, the ids of all parts, end to end.
      part_lengths: [P] int64, the tokens of each part; 0 is allowed.
      part_segments: [P] int32, the segment of each part and of the [SEP] behind it.
      length: T; the examples of a row must fit.
      slots: N, at least the most that a row holds.
      special: ids of [PAD], [CLS] and [SEP].
      pool_last: an example's last token stands for it, rather than its [CLS]: what an encoder that
        looks to the left only needs.

    Returns:
      `token_ids`, `example_ids`, `segment_ids`, `positions` [R, T] int32, `pool_positions` [R, N]
      int32; and the row and the slot of each example, [E] int64 each, to place its label by.
    """
    first_part = exclusive_cumsum(parts)
    part_begins = exclusive_cumsum(part_lengths + 1)  # each with its [SEP]
    part_ends = part_begins + part_lengths + 1
    sizes = 1 + part_ends[first_part + parts - 1] - part_begins[first_part]
    row = np.repeat(np.arange(len(held)), held)
    slot = ranges(np.zeros_like(held), held)
    offset = exclusive_cumsum(sizes)
    offset -= np.repeat(offset[exclusive_cumsum(held)[held > 0]], held[held > 0])
    at = row * length + offset  # of each example's [CLS], in the flattened rows
    part_at = np.repeat(at + 1 - part_begins[first_part], parts) + part_begins

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
    flat["token_ids"][ranges(part_at, part_lengths)] = part_ids
    flat["token_ids"][part_at + part_lengths] = special.sep
    second = part_segments > 0  # segment 0 is there already
    flat["segment_ids"][ranges(part_at[second], part_lengths[second] + 1)] = np.repeat(
        part_segments[second], part_lengths[second] + 1
    )
    inside = ranges(at, sizes)
    flat["example_ids"][inside] = np.repeat(slot + 1, sizes)
    flat["positions"][inside] = ranges(np.zeros_like(sizes), sizes)
    batch["pool_positions"] = np.zeros((len(held), slots), np.int32)
    batch["pool_positions"][row, slot] = offset + (sizes - 1 if pool_last else 0)
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
