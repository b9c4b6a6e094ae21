"""The models that are measured."""

from bert_jax.config import EncoderConfig

# name -> layers, width, heads; the feed-forward layer is four times as wide.
SIZES = {
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (4, 512, 8),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
}
VOCAB = 30_522


def encoder_of(size: str, *, length: int = 512, vocab: int = VOCAB) -> EncoderConfig:
    """Returns the encoder of a size, with dropout as published."""
    layers, width, heads = SIZES[size]
    return EncoderConfig(
        vocab_size=vocab,
        layers=layers,
        width=width,
        heads=heads,
        mlp_width=4 * width,
        max_length=max(512, length),
    )
