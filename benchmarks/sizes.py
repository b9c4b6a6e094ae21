"""Sizes of the models to measure."""

import numpy as np

from bert_jax.config import EncoderConfig
from bert_jax.objectives.masking import MaskVocabulary

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


def vocabulary_of(size: int) -> MaskVocabulary:
    """Returns a vocabulary of five special pieces, in which every other piece starts a word."""
    return MaskVocabulary((0, 1, 2, 3, 4), 4, size, np.ones(size, bool))
