"""Writes packed examples as the token fields of a batch.

An example is [CLS] A [SEP], [CLS] A [SEP] B [SEP], or [CLS] and more parts, each with its [SEP].
Some tokenizers have two separators before B (`SpecialIds`).
"""

import dataclasses

import numpy as np

from bert_jax.data.packing.ragged import exclusive_cumsum, ranges
from bert_jax.text.tokenizer import SpecialIds

SINGLE_SPECIALS = 2  # [CLS] A [SEP]


@dataclasses.dataclass(frozen=True)
class RowFormat:
    """Format of the rows of a batch.

    Attributes:
      length: T, tokens in a row.
      slots: N, examples in a row, at most.
      special: ids of [PAD], [CLS] and [SEP], and how they stand around a pair.
      pool_last: True pools an example at its last token, as a causal encoder needs; False at its
        [CLS].
      separate: False numbers all examples of a row as one, with positions from its begin, so that
        their tokens attend to each other.
    """

    length: int
    slots: int
    special: SpecialIds
    pool_last: bool
    separate: bool = dataclasses.field(default=True, kw_only=True)


def lay_out(
    examples_in_row: np.ndarray,
    parts: np.ndarray,
    part_ids: np.ndarray,
    part_lengths: np.ndarray,
    part_segments: np.ndarray,
    row_format: RowFormat,
) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Writes E examples, in the order of their rows, into R rows.

    Args:
      examples_in_row: [R] int64, number of examples in each row; 0 makes an empty row. The examples
        of a row must fit into it.
      parts: [E] int64, number of parts of each example, at least 1.
      part_ids: [tokens] int32, the token ids of all parts, end to end.
      part_lengths: [P] int64, tokens of each part; 0 is allowed.
      part_segments: [P] int32, segment id of each part and of the [SEP] after it; 1 for a B.
      row_format: of the rows.

    Returns:
      `token_ids`, `example_ids`, `segment_ids`, `positions` [R, T] int32 and `pool_positions`
      [R, N] int32; and the row and the slot of each example, [E] int64 each.
    """
    special = row_format.special
    second = part_segments > 0
    before = (special.separators - 1) * second  # more of [SEP], before B
    first_part = exclusive_cumsum(parts)
    part_begins = exclusive_cumsum(before + part_lengths + 1)  # each with its [SEP]
    part_ends = part_begins + before + part_lengths + 1
    sizes = 1 + part_ends[first_part + parts - 1] - part_begins[first_part]
    row = np.repeat(np.arange(len(examples_in_row)), examples_in_row)
    slot = ranges(np.zeros_like(examples_in_row), examples_in_row)
    offset = exclusive_cumsum(sizes)
    used = examples_in_row[examples_in_row > 0]
    offset -= np.repeat(offset[exclusive_cumsum(used)], used)  # in the row
    at = row * row_format.length + offset  # of each example's [CLS], in the flattened rows
    part_at = np.repeat(at + 1 - part_begins[first_part], parts) + part_begins

    shape = (len(examples_in_row), row_format.length)
    batch = {
        name: np.full(shape, fill, np.int32)
        for name, fill in (
            ("token_ids", special.pad),
            ("example_ids", 0),
            ("segment_ids", 0),
            ("position_ids", 0),
        )
    }
    flat = {name: field.reshape(-1) for name, field in batch.items()}
    flat["token_ids"][at] = special.cls
    flat["token_ids"][ranges(part_at, before)] = special.sep
    part_at = part_at + before
    flat["token_ids"][ranges(part_at, part_lengths)] = part_ids
    flat["token_ids"][part_at + part_lengths] = special.sep
    if special.segments:  # the rest is 0 already
        flat["segment_ids"][ranges(part_at[second], part_lengths[second] + 1)] = np.repeat(
            part_segments[second], part_lengths[second] + 1
        )
    inside = ranges(at, sizes)
    flat["example_ids"][inside] = np.repeat(slot + 1, sizes)
    flat["position_ids"][inside] = ranges(np.zeros_like(sizes), sizes)
    if not row_format.separate:  # rows are filled from the left, without gaps
        is_token = batch["example_ids"] > 0
        batch["example_ids"] = is_token.astype(np.int32)
        batch["position_ids"] = np.arange(row_format.length, dtype=np.int32) * is_token
    batch["pool_positions"] = np.zeros((shape[0], row_format.slots), np.int32)
    batch["pool_positions"][row, slot] = offset + (sizes - 1 if row_format.pool_last else 0)
    return batch, (row, slot)


def truncated_lengths(
    a_lengths: np.ndarray, b_lengths: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Truncates pairs to `most` tokens, always cutting the longer side; of equal sides, B.

    The published BERT code cuts one token at a time; this is the closed form of its loop.

    Args:
      a_lengths: [E] int64.
      b_lengths: [E] int64; 0 for no B.
      most: tokens of A and B together, at least 2.

    Returns:
      The lengths of A and B after truncation, [E] int64 each.
    """
    a_kept = np.minimum(a_lengths, np.maximum(most - b_lengths, -(-most // 2)))
    return a_kept, np.minimum(b_lengths, most - a_kept)
