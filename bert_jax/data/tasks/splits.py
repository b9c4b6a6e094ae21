"""The interface of a labelled task: splits of examples, and scores of the model's outputs."""

import abc
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax.config import TaskDataConfig
from bert_jax.data.tasks.rows import TaskInputs
from bert_jax.files import path_list

Outputs = Sequence[np.ndarray]  # of each input: [C], or [size, C] of its tokens; float32


class Split(abc.ABC):
    """The examples of a file, tokenised, with their gold labels or answers.

    Attributes:
      inputs: of the encoder.
      examples: number of examples.
      notes: remarks on the data for the user's log, such as "3 cut to 64 tokens"; '' for none.
    """

    inputs: TaskInputs
    examples: int
    notes: str

    def tuned_by(self, scores: dict[str, float]) -> None:
        """Takes thresholds that were tuned on the run's `dev`, instead of tuning them on itself."""
        del scores

    def gold_text(self) -> str:
        """Returns gold data besides the labels of the inputs, to be fingerprinted."""
        return ""

    @abc.abstractmethod
    def scores(self, outputs: Outputs) -> dict[str, float]:
        """Returns named scores of the model's outputs for all inputs, in order."""

    def undefined(self, outputs: Outputs) -> dict[str, str]:
        """Returns why some of the `scores` are undefined, by name; they are given as 0."""
        del outputs
        return {}

    @abc.abstractmethod
    def predictions(self, outputs: Outputs) -> Iterator[dict[str, Any]]:
        """Yields the prediction and the gold label of each example, ready for JSON."""

    def classes(self, outputs: Outputs) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns the gold classes, [K] int, and the probabilities, [K, C], of all K items.

        Returns None for a task without classes.
        """
        del outputs
        return None

    @abc.abstractmethod
    def constant_outputs(self) -> Outputs:
        """Returns the outputs of the majority-class baseline: always the most common answer."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A labelled task, read and tokenised.

    Attributes:
      labels: names of the classes; empty for a task without classes.
      train: the training split.
      dev: the held-out splits by name: `dev`, `dev2` and so on.
      unlabelled: more inputs to train on, whose labels do not count; None: there are none.
      unlabelled_notes: what of them was left out or cut; '' for nothing.
    """

    labels: list[str]
    train: Split
    dev: Mapping[str, Split]
    unlabelled: TaskInputs | None = None
    unlabelled_notes: str = ""

    def fingerprint(self) -> str:
        """Returns a digest of every token, label and gold answer."""
        digest = hashlib.blake2b(json.dumps(self.labels).encode(), digest_size=16)
        for split in (self.train, *self.dev.values()):
            for values in (*split.inputs.a, *split.inputs.b, *split.inputs.labels):
                digest.update(values.size.to_bytes(8) + values.tobytes())
            digest.update(split.gold_text().encode())
        if self.unlabelled is not None:
            for values in (*self.unlabelled.a, *self.unlabelled.b):
                digest.update(values.size.to_bytes(8) + values.tobytes())
        return digest.hexdigest()


def dev_sources(config: TaskDataConfig) -> dict[str, str]:
    """Returns the held-out sources by name of the split: `dev`, `dev2` and so on."""
    numbered = enumerate(filter(None, path_list(config.dev)), 1)
    return {f"dev{number}" if number > 1 else "dev": source for number, source in numbered}
