"""Floating-point operations of a model per token, which model FLOPs utilisation (MFU) refers to.

They are those of the model, not of the compiled program: recomputed activations do not count, and
neither do savings, such as the tokens of the last layer that nothing reads.
"""

from bert_jax.config import EncoderConfig, EncoderMode

_BACKWARD = 2  # passes over the products for one forward: to the activations, to the parameters


def encoder_flops(encoder: EncoderConfig, length: int) -> float:
    """Returns the operations of the encoder's forward pass for a token: L (8 D^2 + 4 D F + 4 T D).

    A product of [A, B] with [B, C] counts 2 A B C: the query, key, value and output maps are
    8 D^2, the feed-forward layer 4 D F (16 D^2 where F = 4 D), scores and their use 4 T D.

    Args:
      encoder: the shape.
      length: T, tokens in a row.
    """
    width = encoder.width
    layer = 8 * width**2 + 4 * width * encoder.mlp_width + 4 * length * width
    return float(encoder.layers * layer)


def pretraining_flops(encoder: EncoderConfig, length: int, slots: int) -> float:
    """Returns the operations of a pretraining step for a token of a full row.

    3 [L (8 D^2 + 4 D F + 4 T D) + (M / T) (2 D V + 2 D^2)]: forward and backward, with the masked
    slots alone read by the MLM head.

    Args:
      encoder: the shape, with its vocabulary size.
      length: T, tokens in a row.
      slots: M, masked slots in a row (`masking.masked_slots`).
    """
    width = encoder.width
    head = slots / length * (2 * width * encoder.vocab_size + 2 * width**2)
    return (1 + _BACKWARD) * (encoder_flops(encoder, length) + head)


def finetuning_flops(encoder: EncoderConfig, length: int, mode: EncoderMode) -> float:
    """Returns the operations of a fine-tuning step for a token of a full row, without the head.

    A frozen encoder has no backward pass, and a cached one does not run.

    Args:
      encoder: the shape.
      length: T, tokens in a row.
      mode: what the run does to the encoder.
    """
    passes = {EncoderMode.FULL: 1 + _BACKWARD, EncoderMode.FROZEN: 1, EncoderMode.CACHED: 0}
    return passes[mode] * encoder_flops(encoder, length)
