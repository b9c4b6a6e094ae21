"""Floating-point operations of a model per token, which model FLOPs utilisation (MFU) refers to.

They are those of the model, not of the compiled program: recomputed activations do not count, and
neither do savings, such as the tokens of the last layer that nothing reads.
"""

from bert_jax.config import EncoderConfig, EncoderMode, MlpKind
from bert_jax.model.stack import layer_kinds

_BACKWARD = 2  # passes over the products for one forward: to the activations, to the parameters


def encoder_flops(encoder: EncoderConfig, length: int) -> float:
    """Returns the operations of the encoder's forward pass for a token: L (8 D^2 + 4 D F + 4 T D).

    A product of [A, B] with [B, C] counts 2 A B C: the query, key, value and output maps are
    8 D^2, the feed-forward layer 4 D F (16 D^2 where F = 4 D), scores and their use 4 T D. Shared
    keys and values make the maps smaller, a gate the feed-forward layer 6 D F, and a windowed layer
    reads 2 W + 1 tokens at most.

    Args:
      encoder: the shape.
      length: T, tokens in a row.
    """
    width, heads = encoder.width, encoder.heads
    maps = 4 * width**2 * (1 + (encoder.kv_heads or heads) / heads)
    products = 3 if encoder.mlp is MlpKind.GATED else 2
    layer = maps + 2 * products * width * encoder.mlp_width
    seen = sum(
        min(length, 2 * kind.window + 1) if kind.window else length for kind in layer_kinds(encoder)
    )
    table_width = encoder.embedding_width or width
    projection = 2 * width * table_width if table_width != width else 0
    return float(encoder.layers * layer + 4 * seen * width + projection)


def pretraining_flops(encoder: EncoderConfig, length: int, slots: int) -> float:
    """Returns the operations of a pretraining step for a token of a full row.

    3 [L (8 D^2 + 4 D F + 4 T D) + (M / T) (2 D V + 2 D^2)] for BERT: forward and backward, with
    the masked slots alone read by the MLM head. The arguments are those of `forward_flops`.
    """
    return (1 + _BACKWARD) * forward_flops(encoder, length, slots)


def forward_flops(encoder: EncoderConfig, length: int, slots: int) -> float:
    """Returns the operations of a forward pass with the MLM head for a token of a full row.

    Args:
      encoder: the shape, with its vocabulary size.
      length: T, tokens in a row.
      slots: M, those that the head reads (`masking.masked_slots`).
    """
    table_width = encoder.embedding_width or encoder.width
    transform = 2 * encoder.width * table_width if encoder.mlm_transform else 0
    head = slots / length * (2 * table_width * encoder.vocab_size + transform)
    return encoder_flops(encoder, length) + head


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
