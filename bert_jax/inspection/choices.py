"""Choices of the commands that look at checkpoints; imports nothing slow."""

import enum

from bert_jax.config import VectorPooling

# Of `predict --features`, beside each pooling of a text, whose vectors are plain.
OF_CHECKPOINT = "of_checkpoint"  # as task=vectors trained it; the plain mean of other checkpoints
TOKENS = "tokens"  # the vector of each token, with [CLS] and [SEP]
FEATURES = (OF_CHECKPOINT, *(each.value for each in VectorPooling), TOKENS)


class VectorType(enum.Enum):
    """Type of the numbers of stored vectors, by NumPy's name."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"  # codes of values, by the range of each dimension


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
