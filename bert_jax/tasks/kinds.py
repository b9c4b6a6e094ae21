"""Which head, loss, scores and reading of files belong together, for each kind of task.

The rule that nobody must remember: a task about whole inputs reads [CLS], a task about tokens reads
every token.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from bert_jax.config import EncoderConfig, EncoderMode, FinetuneConfig, TaskDataConfig, TaskKind
from bert_jax.data.tasks import classes as tasks
from bert_jax.data.tasks import spans as span_task
from bert_jax.data.tasks import tags as tag_task
from bert_jax.data.tasks.rows import TaskInputs
from bert_jax.data.tasks.splits import Split, Task, dev_sources
from bert_jax.errors import UserError
from bert_jax.model.heads import TaskModel
from bert_jax.objectives.losses import (
    Loss,
    TotalsOf,
    class_totals,
    make_task_loss,
    number_totals,
    span_totals,
)
from bert_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Kind:
    """What belongs to a kind of task.

    Attributes:
      head: the head's parameter group.
      whole_inputs: whether it reads [CLS]; False: every token.
      outputs: C; 0: as many as there are labels.
      totals: the loss.
      metrics: scores that can choose the best epoch; the first is the default.
      read_task: reads all files of a task.
      read_split: reads one file of a task whose labels are known.
      suffixes: of the files that hold such tasks, beside .jsonl and tfds:.
    """

    head: str
    whole_inputs: bool
    outputs: int
    totals: TotalsOf
    metrics: tuple[str, ...]
    read_task: Callable[[TaskDataConfig, Tokenizer], Task]
    read_split: Callable[[str, TaskDataConfig, Tokenizer, Sequence[str]], Split]
    suffixes: tuple[str, ...]


_TABLES = (".tsv", ".csv")
KINDS = {
    TaskKind.CLASSIFICATION: Kind(
        head="classifier",
        whole_inputs=True,
        outputs=0,
        totals=class_totals,
        metrics=("accuracy", "f1", "macro_f1", "matthews"),
        read_task=tasks.read_class_task,
        read_split=tasks.read_class_split,
        suffixes=_TABLES,
    ),
    TaskKind.REGRESSION: Kind(
        head="classifier",
        whole_inputs=True,
        outputs=1,
        totals=number_totals,
        metrics=("pearson", "spearman"),
        read_task=tasks.read_number_task,
        read_split=lambda source, data, tokenizer, _: tasks.read_number_split(
            source, data, tokenizer
        ),
        suffixes=_TABLES,
    ),
    TaskKind.TAGS: Kind(
        head="tagger",
        whole_inputs=False,
        outputs=0,
        totals=class_totals,
        metrics=("f1", "accuracy"),
        read_task=tag_task.read_tag_task,
        read_split=tag_task.read_tag_split,
        suffixes=(".conll", ".conllu", ".iob", ".bio", ".txt", *_TABLES),
    ),
    TaskKind.SPANS: Kind(
        head="span",
        whole_inputs=False,
        outputs=2,
        totals=span_totals,
        metrics=("f1", "exact_match"),
        read_task=span_task.read_span_task,
        read_split=lambda source, data, tokenizer, _: span_task.read_span_split(
            source, data, tokenizer
        ),
        suffixes=(".json",),
    ),
}


def check_source(task: TaskKind, source: str) -> None:
    """Raises UserError for a file that holds another kind of task, and says which."""
    suffix = pathlib.Path(source).suffix
    fitting = [kind.value for kind, entry in KINDS.items() if suffix in entry.suffixes]
    if fitting and task.value not in fitting and not source.startswith("tfds:"):
        raise UserError(
            f"--config.task={task.value} has the head {KINDS[task].head!r}, which does not suit"
            f" {source}: a {suffix} file is for task={' or '.join(fitting)}"
        )


def read_task(config: FinetuneConfig, tokenizer: Tokenizer) -> Task:
    """Reads and tokenises all files of a run's task.

    Raises:
      UserError: for what is wrong with them.
    """
    for source in (config.data.train, *dev_sources(config.data).values()):
        check_source(config.task, source)
    return KINDS[config.task].read_task(config.data, tokenizer)


def chosen_metric(config: FinetuneConfig, scores: Sequence[str]) -> str:
    """Returns the score that decides which epoch is the best.

    Args:
      config: of the run.
      scores: that the held-out split has.

    Raises:
      UserError: if the run asks for one that it has not.
    """
    usable = [name for name in KINDS[config.task].metrics if name in scores]
    if config.metric and config.metric not in usable:
        raise UserError(
            f"--config.metric={config.metric} is no score of this task: choose one of"
            f" {', '.join(usable)}"
        )
    return config.metric or usable[0]


def make_model(config: FinetuneConfig, encoder: EncoderConfig, labels: Sequence[str]) -> TaskModel:
    """Builds the model of a task on an encoder."""
    kind = KINDS[config.task]
    return TaskModel(
        encoder,
        kind.head,
        kind.outputs or len(labels),
        kind.whole_inputs,
        config.feature_layers,
        config.encoder_mode is not EncoderMode.FULL,
    )


def training_loss(
    model: TaskModel, config: FinetuneConfig, class_weights: tuple[float, ...]
) -> Loss:
    """Returns the loss to train with: smoothed, if the run asks for it, and weighted by class."""
    totals = KINDS[config.task].totals
    if totals is class_totals:
        totals = functools.partial(
            class_totals, label_smoothing=config.label_smoothing, class_weights=class_weights
        )
    return make_task_loss(model, totals, class_weights)


def class_weights(asked: str, labels: Sequence[str], inputs: TaskInputs) -> tuple[float, ...]:
    """Reads `class_weights`.

    Args:
      asked: '', 'balanced' (so that each class has the same weight in all), or LABEL=WEIGHT,...
      labels: names of the classes.
      inputs: that are trained on.

    Returns:
      [C], or () for 1.

    Raises:
      UserError: for a label that is not there, or a weight that is no positive number.
    """
    if not asked:
        return ()
    if asked == "balanced":
        found = inputs.labels
        flat = np.concatenate(found) if isinstance(found, list) else found
        counts = np.bincount(flat[flat >= 0], minlength=len(labels))
        # A class that a subset has not is never weighed.
        return tuple((counts.sum() / (len(counts) * np.maximum(counts, 1))).tolist())
    weights = dict.fromkeys(labels, 1.0)
    for part in asked.split(","):
        label, _, number = part.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = 0.0
        if label not in weights or not 0 < weight < float("inf"):
            raise UserError(
                f"--config.class_weights={asked}: {part!r} is not LABEL=WEIGHT with a label of"
                f" {', '.join(labels[:10])} and a number above 0"
            )
        weights[label] = weight
    return tuple(weights.values())
