"""What every kind of labelled task has in common: splits of examples, and how outputs score."""

import abc
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax.config import TaskDataConfig
from bert_jax.data.tasks.rows import TaskInputs

Outputs = Sequence[np.ndarray]  # of each input: [C], or [size, C] of its tokens; float32


class Split(abc.ABC):
    """The examples of a file, tokenised, with what is right about them.

    Attributes:
      inputs: what the encoder sees.
      examples: how many there are.
      notes: what a user should know of the reading, '' for nothing: "3 cut to 64 tokens".
    """

    inputs: TaskInputs
    examples: int
    notes: str

    def tuned_by(self, scores: dict[str, float]) -> None:
        """Takes what the run's held-out split has decided, rather than to decide it by itself."""
        del scores

    def gold_text(self) -> str:
        """Returns what is right beyond the labels of the inputs, for the digest."""
        return ""

    @abc.abstractmethod
    def scores(self, outputs: Outputs) -> dict[str, float]:
        """Scores the model's outputs for every input, in order, by name."""

    @abc.abstractmethod
    def predictions(self, outputs: Outputs) -> Iterator[dict[str, Any]]:
        """Yields what is predicted for each example beside what is right, ready for JSON."""

    def classes(self, outputs: Outputs) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns the right class, [K] int, and the probability of each, [K, C], of what is asked.

        None for a task that has no classes.
        """
        del outputs
        return None

    @abc.abstractmethod
    def constant_outputs(self) -> Outputs:
        """Returns the outputs of a model that learned nothing but the commonest answer."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A labelled task, read and tokenised.

    Attributes:
      labels: names of the classes; none where the task has no classes.
      train: the split to learn from.
      dev: the held-out splits by name: `dev`, `dev2` and so on.
    """

    labels: list[str]
    train: Split
    dev: Mapping[str, Split]

    def fingerprint(self) -> str:
        """Returns a digest of every token, label and gold answer."""
        digest = hashlib.blake2b(json.dumps(self.labels).encode(), digest_size=16)
        for split in (self.train, *self.dev.values()):
            for values in (*split.inputs.a, *split.inputs.b, *split.inputs.labels):
                digest.update(values.size.to_bytes(8) + values.tobytes())
            digest.update(split.gold_text().encode())
        return digest.hexdigest()


def dev_sources(config: TaskDataConfig) -> dict[str, str]:
    """Returns the held-out sources by the names of their splits: `dev`, `dev2` and so on."""
    sources = [source for part in config.dev.split(",") if (source := part.strip())]
    return {f"dev{number}" if number > 1 else "dev": s for number, s in enumerate(sources, 1)}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Normalises the last axis: [..., C] float to float64 probabilities."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
