"""Sizes of the models to measure."""

import enum

import numpy as np

from bert_jax.cli.recipes import resolve_config
from bert_jax.config import EncoderConfig, PretrainConfig
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


class Family(enum.Enum):
    """The model that is measured."""

    BERT = "bert"
    MODERN = "modern"  # ModernBERT, whose base has 22 layers


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


def modern_encoder_of(size: str, *, length: int, vocab: int = VOCAB) -> EncoderConfig:
    """Returns the encoder of ModernBERT at a size, without dropout."""
    encoder = resolve_config("pretrain_modern_base", [], PretrainConfig).encoder
    encoder.vocab_size, encoder.max_length = vocab, length
    encoder.attention_output_dropout_rate = 0.0  # transformers would drop probabilities, too
    if size != "base":
        encoder.layers, encoder.width, encoder.heads = SIZES[size]
        encoder.mlp_width = encoder.width * 3 // 2
    return encoder


def vocabulary_of(size: int) -> MaskVocabulary:
    """Returns a vocabulary of five special pieces, in which every other piece starts a word."""
    return MaskVocabulary((0, 1, 2, 3, 4), 4, size, np.ones(size, bool))
