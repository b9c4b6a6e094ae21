"""The kinds of task: for each its head, loss, metrics and file readers.

Tasks about whole inputs use the vector of [CLS]; tasks about tokens use every token's vector.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from bert_jax.config import EncoderConfig, EncoderMode, FinetuneConfig, TaskDataConfig, TaskKind
from bert_jax.data.tasks import classes as tasks
from bert_jax.data.tasks import spans as span_task
from bert_jax.data.tasks import tag_tasks as tag_task
from bert_jax.data.tasks import unlabelled
from bert_jax.data.tasks.labels import choices, clean_label
from bert_jax.data.tasks.rows import TaskInputs
from bert_jax.data.tasks.splits import Split, Task, dev_sources
from bert_jax.data.tasks.tables import is_tfds
from bert_jax.errors import UserError
from bert_jax.model.encoder import Batch
from bert_jax.model.heads import TaskModel
from bert_jax.objectives.distillation import taught_classes, taught_numbers, taught_spans
from bert_jax.objectives.losses import (
    Loss,
    Total,
    Totals,
    TotalsOf,
    class_totals,
    make_task_loss,
    number_totals,
    span_totals,
)
from bert_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of task.

    Attributes:
      head: parameter group of the head.
      whole_inputs: True if the head reads [CLS], False if it reads every token.
      outputs: outputs of the head for each input or token; 0: one for each label.
      totals: computes the loss and its companions from outputs and labels.
      taught: computes the loss to a teacher's outputs, from outputs, batch and temperature.
      metrics: scores that can choose the best epoch; the first is the default.
      read_task: reads all files of a task.
      read_split: reads one file of a task, given the labels.
      read_unlabelled: reads the inputs of a file alone.
      suffixes: of files with such a task, beside .jsonl and tfds:.
    """

    head: str
    whole_inputs: bool
    outputs: int
    totals: TotalsOf
    taught: Callable[[jax.Array, Batch, float], Total]
    metrics: tuple[str, ...]
    read_task: Callable[[TaskDataConfig, Tokenizer], Task]
    read_split: Callable[[str, TaskDataConfig, Tokenizer, Sequence[str]], Split]
    read_unlabelled: Callable[[str, TaskDataConfig, Tokenizer], TaskInputs]
    suffixes: tuple[str, ...]


_TABLES = (".tsv", ".txt", ".csv")
KINDS = {
    TaskKind.CLASSIFICATION: Kind(
        head="classifier",
        whole_inputs=True,
        outputs=0,
        totals=class_totals,
        taught=taught_classes,
        metrics=("accuracy", "f1", "macro_f1", "matthews"),
        read_task=tasks.read_class_task,
        read_split=tasks.read_class_split,
        read_unlabelled=unlabelled.read_texts,
        suffixes=_TABLES,
    ),
    TaskKind.REGRESSION: Kind(
        head="classifier",
        whole_inputs=True,
        outputs=1,
        totals=number_totals,
        taught=taught_numbers,
        metrics=("pearson", "spearman"),
        read_task=tasks.read_number_task,
        read_split=lambda source, data, tokenizer, _: tasks.read_number_split(
            source, data, tokenizer
        ),
        read_unlabelled=functools.partial(unlabelled.read_texts, dtype=np.float32),
        suffixes=_TABLES,
    ),
    TaskKind.TAGS: Kind(
        head="tagger",
        whole_inputs=False,
        outputs=0,
        totals=class_totals,
        taught=taught_classes,
        metrics=("f1", "accuracy"),
        read_task=tag_task.read_tag_task,
        read_split=tag_task.read_tag_split,
        read_unlabelled=unlabelled.read_words,
        suffixes=(".conll", ".conllu", ".conllup", ".iob", ".bio", *_TABLES),
    ),
    TaskKind.SPANS: Kind(
        head="span",
        whole_inputs=False,
        outputs=2,
        totals=span_totals,
        taught=taught_spans,
        metrics=("f1", "exact_match"),
        read_task=span_task.read_span_task,
        read_split=lambda source, data, tokenizer, _: span_task.read_span_split(
            source, data, tokenizer
        ),
        read_unlabelled=unlabelled.read_question_texts,
        suffixes=(".json",),
    ),
}


def check_source(task: TaskKind, source: str) -> None:
    """Raises UserError if a file's suffix belongs to another kind of task."""
    suffix = pathlib.Path(source).suffix
    fitting = [kind.value for kind, entry in KINDS.items() if suffix in entry.suffixes]
    if fitting and task.value not in fitting and not is_tfds(source):
        raise UserError(
            f"--config.task={task.value} cannot read {source}: a {suffix} file is for"
            f" task={' or '.join(fitting)}"
        )


def read_task(config: FinetuneConfig, tokenizer: Tokenizer) -> Task:
    """Reads and tokenises all files of a run's task.

    Raises:
      UserError: if a file is missing, malformed, or for another kind of task.
    """
    kind, source = KINDS[config.task], config.data.unlabelled
    for each in (config.data.train, *dev_sources(config.data).values(), source):
        check_source(config.task, each)
    task = kind.read_task(config.data, tokenizer)
    if not source:
        return task
    more = kind.read_unlabelled(source, config.data, tokenizer)
    return dataclasses.replace(task, unlabelled=more)


def chosen_metric(config: FinetuneConfig, scores: Sequence[str]) -> str:
    """Returns the name of the metric that chooses the best epoch.

    Args:
      config: of the run.
      scores: names of the scores of the held-out split.

    Raises:
      UserError: if the config names another one.
    """
    usable = [name for name in KINDS[config.task].metrics if name in scores]
    if config.metric and config.metric not in usable:
        raise UserError(
            f"--config.metric={config.metric} is not a metric of this task: choose one of"
            f" {', '.join(usable)}"
        )
    return config.metric or usable[0]


def make_model(config: FinetuneConfig, encoder: EncoderConfig, labels: Sequence[str]) -> TaskModel:
    """Returns the model of a task: an encoder and the task's head."""
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
    """Returns the training loss: label smoothing, weights of classes, a teacher's answers."""
    kind = KINDS[config.task]
    totals = kind.totals
    if totals is class_totals:
        totals = functools.partial(
            class_totals, label_smoothing=config.label_smoothing, class_weights=class_weights
        )
    if not config.teacher:
        return make_task_loss(model, totals, class_weights)
    of_labels = totals

    def with_teacher(outputs: jax.Array, batch: Batch) -> Totals:
        taught = kind.taught(outputs, batch, config.temperature)
        return {**of_labels(outputs, batch), "taught_loss": taught}

    return make_task_loss(model, with_teacher, class_weights, taught_weight=config.teacher_weight)


def class_weights(asked: str, labels: Sequence[str], inputs: TaskInputs) -> tuple[float, ...]:
    """Parses the config's `class_weights`.

    Args:
      asked: '': none; 'balanced': each class has the same total weight; or LABEL=WEIGHT,...
      labels: names of the C classes.
      inputs: of the training split.

    Returns:
      [C] weights; () if none.

    Raises:
      UserError: for an unknown label, or a weight that is not a positive finite number.
    """
    if not asked:
        return ()
    if asked == "balanced":
        counts = inputs.class_counts(len(labels))
        # The weight of a class without examples is never used.
        return tuple((counts.sum() / (len(counts) * np.maximum(counts, 1))).tolist())
    weights = dict.fromkeys(labels, 1.0)
    for part in asked.split(","):
        label, _, number = part.rpartition("=")
        label = clean_label(label)
        try:
            weight = float(number)
        except ValueError:
            weight = 0.0
        if label not in weights or not 0 < weight < float("inf"):
            raise UserError(
                f"--config.class_weights={asked}: {part!r} is not LABEL=WEIGHT with a label of"
                f" {choices(labels)} and a number above 0"
            )
        weights[label] = weight
    return tuple(weights.values())
