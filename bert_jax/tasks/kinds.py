"""The kinds of task: for each its head, loss, metrics and file readers.

Tasks about whole inputs use the vector of [CLS]; tasks about tokens use every token's vector. The
task of vectors has no head: the pooled vector is what it makes.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.config import EncoderConfig, EncoderMode, FinetuneConfig, TaskDataConfig, TaskKind
from bert_jax.data.tasks import classes as tasks
from bert_jax.data.tasks import spans as span_task
from bert_jax.data.tasks import tag_tasks as tag_task
from bert_jax.data.tasks import unlabelled
from bert_jax.data.tasks import vectors as vector_task
from bert_jax.data.tasks.labels import choices, clean_label
from bert_jax.data.tasks.rows import TaskInputs
from bert_jax.data.tasks.splits import Split, Task, dev_sources
from bert_jax.data.tasks.tables import is_tfds
from bert_jax.errors import UserError
from bert_jax.model.encoder import Batch
from bert_jax.model.heads import TaskModel, VectorModel
from bert_jax.objectives.contrastive import BatchLoss, make_vector_loss
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
      head: parameter group of the head; '': there is none.
      whole_inputs: True if the head reads [CLS], False if it reads every token.
      outputs: outputs of the head for each input or token; 0: one for each label.
      totals: computes the loss and its companions from outputs and labels.
      taught: computes the loss to a teacher's outputs, from outputs, batch and temperature; None:
        nothing can be taught.
      metrics: scores that can choose the best epoch; the first is the default.
      read_task: reads all files of a task.
      read_split: reads one file of a task, given the labels.
      read_unlabelled: reads the inputs of a file alone; None: they cannot be used.
      suffixes: of files with such a task, beside .jsonl and tfds:.
    """

    head: str
    whole_inputs: bool
    outputs: int
    totals: TotalsOf
    taught: Callable[[jax.Array, Batch, float], Total] | None
    metrics: tuple[str, ...]
    read_task: Callable[[FinetuneConfig, Tokenizer], Task]
    read_split: Callable[[str, FinetuneConfig, Tokenizer, Sequence[str]], Split]
    read_unlabelled: Callable[[str, TaskDataConfig, Tokenizer], unlabelled.Unlabelled] | None
    suffixes: tuple[str, ...]


def _of_data(
    read: Callable[[TaskDataConfig, Tokenizer], Task],
) -> Callable[[FinetuneConfig, Tokenizer], Task]:
    return lambda config, tokenizer: read(config.data, tokenizer)


def _no_totals(outputs: jax.Array, batch: Batch) -> Totals:
    """Returns nothing: the loss of held-out vectors would depend on their batches."""
    del outputs, batch
    return {}


_TABLES = (".tsv", ".txt", ".csv")
KINDS = {
    TaskKind.CLASSIFICATION: Kind(
        head="classifier",
        whole_inputs=True,
        outputs=0,
        totals=class_totals,
        taught=taught_classes,
        metrics=("accuracy", "f1", "macro_f1", "matthews"),
        read_task=_of_data(tasks.read_class_task),
        read_split=lambda source, config, tokenizer, labels: tasks.read_class_split(
            source, config.data, tokenizer, labels
        ),
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
        read_task=_of_data(tasks.read_number_task),
        read_split=lambda source, config, tokenizer, _: tasks.read_number_split(
            source, config.data, tokenizer
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
        read_task=_of_data(tag_task.read_tag_task),
        read_split=lambda source, config, tokenizer, labels: tag_task.read_tag_split(
            source, config.data, tokenizer, labels
        ),
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
        read_task=_of_data(span_task.read_span_task),
        read_split=lambda source, config, tokenizer, _: span_task.read_span_split(
            source, config.data, tokenizer
        ),
        read_unlabelled=unlabelled.read_question_texts,
        suffixes=(".json",),
    ),
    TaskKind.VECTORS: Kind(
        head="",
        whole_inputs=True,
        outputs=0,
        totals=_no_totals,
        taught=None,
        metrics=("spearman", "pearson", "mrr", "accuracy"),
        read_task=lambda config, tokenizer: vector_task.read_vector_task(
            config.data, config.vectors, tokenizer
        ),
        read_split=lambda source, config, tokenizer, _: vector_task.read_vector_split(
            source, config.data, config.vectors, tokenizer
        ),
        read_unlabelled=None,
        suffixes=(".json", *_TABLES),
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
    task = kind.read_task(config, tokenizer)
    if not source:
        return task
    assert kind.read_unlabelled is not None  # the config is validated
    more = kind.read_unlabelled(source, config.data, tokenizer)
    return dataclasses.replace(task, unlabelled=more.inputs, unlabelled_notes=more.notes)


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


def make_model(
    config: FinetuneConfig, encoder: EncoderConfig, labels: Sequence[str]
) -> TaskModel | VectorModel:
    """Returns the model of a task: an encoder and, but for vectors, the task's head."""
    if config.task is TaskKind.VECTORS:
        return VectorModel(encoder, config.vectors.pooling, config.vectors.normalised)
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
    model: TaskModel | VectorModel,
    config: FinetuneConfig,
    class_weights: tuple[float, ...],
    *,
    columns: int = 2,
    mesh: Mesh | None = None,
) -> Loss | BatchLoss:
    """Returns the training loss: label smoothing, weights of classes, a teacher's answers.

    Args:
      model: from `make_model`.
      config: of the run.
      class_weights: from `class_weights`.
      columns: of vectors: texts of an example, at most.
      mesh: of vectors: whose devices share the work; None: each run has a device of its own.
    """
    kind = KINDS[config.task]
    if isinstance(model, VectorModel):
        examples = config.batch_size
        return make_vector_loss(
            model, config.vectors, examples=examples, columns=columns, mesh=mesh
        )
    totals = kind.totals
    if totals is class_totals:
        totals = functools.partial(
            class_totals, label_smoothing=config.label_smoothing, class_weights=class_weights
        )
    if not config.teacher:
        return make_task_loss(model, totals, class_weights)
    of_labels, of_teacher = totals, kind.taught
    assert of_teacher is not None  # the config is validated

    def with_teacher(outputs: jax.Array, batch: Batch) -> Totals:
        taught = of_teacher(outputs, batch, config.temperature)
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
