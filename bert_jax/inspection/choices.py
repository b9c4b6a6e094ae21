"""Choices of the commands that look at checkpoints; imports nothing slow."""

import enum


class Pooling(enum.Enum):
    """Choice of the vectors of a text."""

    CLS = "cls"  # the first token's, [CLS]; the last token's if the encoder is causal
    MEAN = "mean"  # the mean over all tokens, with [CLS] and [SEP]
    TOKENS = "tokens"  # every token's, with [CLS] and [SEP]


class View(enum.Enum):
    """A view of one or two checkpoints."""

    PARAMETERS = "parameters"
    GROUPS = "groups"
    LAYERS = "layers"
    MOMENTS = "moments"
    CHANGES = "changes"
    NEIGHBOURS = "neighbours"
    TOKENS = "tokens"
    ATTENTION = "attention"


PLOTTED = (View.CHANGES, View.ATTENTION)
PICTURES = (".png", ".svg")
