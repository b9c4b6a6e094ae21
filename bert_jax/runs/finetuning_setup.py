"""The task, the model and the scores of fine-tuning runs: shared by single runs and sweeps."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from bert_jax.checkpoints.checkpoint import find_checkpoint, read_metadata
from bert_jax.checkpoints.fingerprint import json_digest
from bert_jax.checkpoints.transfer import check_head, task_encoder
from bert_jax.config import (
    EncoderConfig,
    EncoderMode,
    FinetuneConfig,
    InputPooling,
    TaskKind,
    VectorLoss,
    check_widths,
    from_dict,
)
from bert_jax.data.packing import subsets
from bert_jax.data.tasks.batches import TaskBatches
from bert_jax.data.tasks.labels import choices
from bert_jax.data.tasks.rows import BatchFormat, TaskInputs, examples_per_row
from bert_jax.data.tasks.splits import Outputs, Split, Task
from bert_jax.distributed import sharding
from bert_jax.distributed.compiled import keep_compiled_of_commands
from bert_jax.errors import UserError
from bert_jax.model.by_platform import describe_choices, for_devices
from bert_jax.objectives.losses import Params
from bert_jax.runs.steps import CompiledStep, finetuning_step
from bert_jax.tasks.evaluation import (
    InputBatches,
    OutputsFn,
    make_features_step,
    make_outputs_step,
)
from bert_jax.tasks.finetuned import FineTuned
from bert_jax.tasks.kinds import KINDS, chosen_metric, make_model, read_task
from bert_jax.text.tokenizer import tokenizer_from_dict
from bert_jax.training.logs import StartClock

SUMMARY_FILE = "summary.json"  # of several runs


class FinetuningSetup:
    """The parts that all seeds share: the checkpoint, the task, the model and the mesh."""

    def __init__(
        self, config: FinetuneConfig, checkpoint: pathlib.Path, mesh: Mesh, clock: StartClock
    ) -> None:
        """Reads the checkpoint's metadata and the task, and checks that they go together.

        Args:
          config: of the runs.
          checkpoint: CHECKPOINTS/STEP, of either kind.
          mesh: that they run on.
          clock: of this start.

        Raises:
          UserError: for what does not fit, before anything is trained or written.
        """
        keep_compiled_of_commands()
        metadata = read_metadata(checkpoint)
        self.config, self.checkpoint, self.clock = config, checkpoint, clock
        self.stored_tokenizer = metadata["tokenizer"]  # with its fingerprint
        self.source = json_digest(metadata["fingerprints"]["params"])  # which parameters it has
        self.tokenizer = tokenizer_from_dict(self.stored_tokenizer)
        self.encoder = task_encoder(from_dict(EncoderConfig, metadata["encoder"]), config)
        self.mesh = mesh
        sharding.check_encoder(self.encoder, self.mesh)
        if (
            config.encoder_mode is EncoderMode.CACHED
            and self.encoder.pooling is InputPooling.LATE
            and KINDS[config.task].whole_inputs
        ):
            raise UserError(
                "--config.encoder_mode=cached keeps one vector of an input, and"
                " encoder.pooling=late of this checkpoint reads all: set encoder_mode=frozen"
            )
        check_widths(config.vectors, self.encoder)
        self.task = read_task(config, self.tokenizer)
        check_head(metadata, config, self.task.labels)
        self.task_digest = self.task.fingerprint()
        computed = for_devices(self.encoder, mesh, [config.data.length])
        self.model = make_model(config, computed, self.task.labels)
        dev = self.task.dev["dev"]
        floor = dev.scores(dev.constant_outputs())
        self.metric = chosen_metric(config, list(floor))
        self.floor = floor[self.metric]  # of the majority-class baseline
        self.batch_format = BatchFormat(
            length=config.data.length,
            slots=config.data.max_examples_per_row or examples_per_row(config.data.length),
            special=self.tokenizer.special,
            pool_last=self.model.pool_last,
            batch_size=config.batch_size,
        )
        self.teacher = ""  # the fingerprint of its parameters
        if config.teacher:
            self._ask_teacher(config.teacher)
        self.eval_step = make_outputs_step(self.model, KINDS[config.task].totals, self.mesh)
        self.features_step = make_features_step(self.model, self.mesh)
        self.compiled = functools.lru_cache(self._compiled)  # it is mostly the same for all seeds

    def computed(self) -> str:
        """Tells the devices, and how the encoder is computed on them."""
        return describe_choices(self.model.config, self.mesh)

    def _compiled(self, steps: int, weights: tuple[float, ...]) -> CompiledStep:
        return finetuning_step(self.config, self.model, self.mesh, steps, weights, self.columns)

    @property
    def columns(self) -> int:
        """Texts of an example of vectors, at most."""
        roles = self.task.train.inputs.roles
        return roles.count if roles else 2

    def _ask_teacher(self, path: str) -> None:
        """Runs a teacher over what is trained on, once; its outputs go with the inputs.

        Raises:
          UserError: if it is of another task, or has another tokenizer or other labels.
        """
        checkpoint, train, more = find_checkpoint(path), self.task.train, self.task.unlabelled
        metadata = read_metadata(checkpoint)
        if metadata["tokenizer"]["fingerprint"] != self.stored_tokenizer["fingerprint"]:
            raise UserError(
                f"--config.teacher={path} and --checkpoint={self.checkpoint} have different"
                " tokenizers: choose a teacher with the student's"
            )
        if metadata["kind"] != self.config.task.value:
            raise UserError(
                f"--config.teacher={path} is of kind {metadata['kind']}, and this is"
                f" task={self.config.task.value}: fine-tune the teacher for it first"
            )
        if metadata["labels"] != self.task.labels:
            raise UserError(
                f"--config.teacher={path} has the labels {choices(metadata['labels'])}, and the"
                f" task has {choices(self.task.labels)}: fine-tune the teacher on the same labels"
            )
        teacher = FineTuned(checkpoint, metadata, sharding.make_mesh(self.config.mesh))
        longest = max(int(each.sizes.max()) for each in (train.inputs, more) if each)
        if longest > teacher.encoder.max_length:
            raise UserError(
                f"--config.data.length={self.config.data.length}: the longest input has {longest}"
                f" tokens, and the teacher takes {teacher.encoder.max_length}: lower it"
            )

        def taught(inputs: TaskInputs) -> TaskInputs:
            outputs = teacher.outputs(inputs, batch_size=self.config.batch_size)
            kept = np.stack(outputs) if self.model.whole_inputs else list(outputs)
            return dataclasses.replace(inputs, taught=kept)

        train.inputs = taught(train.inputs)
        if more:
            self.task = dataclasses.replace(self.task, unlabelled=taught(more))
        self.teacher = json_digest(metadata["fingerprints"]["params"])

    def identity(self) -> dict[str, Any]:
        """Returns what `check_same_task` compares, ready for JSON."""
        return {
            "task": self.task_digest,
            "checkpoint": str(self.checkpoint),
            "source": self.source,
            "teacher": self.teacher,
        }

    def input_batches(self, inputs: TaskInputs) -> InputBatches:
        """Puts inputs into batches, to be run through the model."""
        whole_inputs = self.model.whole_inputs
        return InputBatches(inputs, self.batch_format, self.mesh, whole_inputs=whole_inputs)

    def with_features(self, inputs: TaskInputs, params: Params) -> TaskInputs:
        """Runs the frozen encoder over inputs, once, and keeps what the head reads of it."""
        features, _ = self.input_batches(inputs).outputs(self.features_step, params)
        kept = np.stack(features) if self.model.whole_inputs else features
        return dataclasses.replace(inputs, features=kept)


def training_inputs(config: FinetuneConfig, task: Task) -> TaskInputs:
    """Returns the inputs to train on: all, or those that the seed draws.

    `data.examples` draws classes by their shares, `data.examples_per_class` as many of each. More
    examples of the same seed include the fewer. Inputs without labels follow, all of them.

    Raises:
      UserError: if there are fewer than asked for.
    """
    inputs = labelled_inputs(config, task)
    return inputs if task.unlabelled is None else inputs.with_unlabelled(task.unlabelled)


def labelled_inputs(config: FinetuneConfig, task: Task) -> TaskInputs:
    """Returns the labelled ones; see `training_inputs`."""
    data, inputs, there = config.data, task.train.inputs, task.train.examples
    if not data.examples and not data.examples_per_class:
        return inputs
    if data.examples > there:
        raise UserError(
            f"--config.data.examples={data.examples}: {data.train} has {there:,}; 0 takes all"
        )
    is_classified = config.task is TaskKind.CLASSIFICATION
    classes = np.asarray(inputs.labels) if is_classified else None
    order = subsets.drawing_order(there, config.seed, classes)
    if data.examples_per_class:
        assert classes is not None  # as validated
        return inputs.of_examples(subsets.of_each_class(order, classes, data.examples_per_class))
    return inputs.of_examples(order[: data.examples])


def drawn_classes(config: FinetuneConfig, task: Task, inputs: TaskInputs) -> str:
    """Returns a remark on the classes of drawn examples; '' if there is nothing to say.

    Args:
      config: of the run.
      task: with C classes, or none.
      inputs: of the training split, as `training_inputs` drew them.
    """
    data = config.data
    if not task.labels or not (data.examples or data.examples_per_class):
        return ""
    counts = dict(zip(task.labels, inputs.class_counts(len(task.labels)), strict=True))
    if without := [label for label, count in counts.items() if not count]:
        return f"no drawn example is of {choices(without)}, which is not learned so: draw more"
    fewer = [f"{k!r} {count}" for k, count in counts.items() if count < data.examples_per_class]
    wanted = f"fewer than data.examples_per_class={data.examples_per_class} of "
    return wanted + ", ".join(fewer) if fewer else ""


def ends_evaluated_epoch(config: FinetuneConfig, step: int, per_epoch: int) -> bool:
    """Returns True if a step, from 1, is the last of an epoch that is evaluated."""
    epoch, rest = divmod(step, per_epoch)
    return not rest and (epoch % config.eval_epochs == 0 or epoch == config.epochs)


def check_negatives(config: FinetuneConfig, inputs: TaskInputs, batches: TaskBatches) -> None:
    """Raises UserError if a batch has nothing to compare an example with."""
    loss = config.vectors.loss
    if loss is VectorLoss.COSINE or not inputs.roles or inputs.roles.count > 2:
        return
    if batches.smallest < 2:
        lacks = "pair to compare it with" if loss is VectorLoss.COSENT else "wrong text"
        raise UserError(
            f"--config.batch_size={config.batch_size} leaves a batch of one of {inputs.examples:,}"
            f" examples, which has no {lacks}: choose another batch_size, or add examples"
        )


@dataclasses.dataclass
class Progress:
    """The best score so far, and for how many evaluations there was no better one."""

    best: float | None = None
    stale: int = 0

    def add(self, score: float) -> None:
        """Takes the score of an evaluation."""
        better = self.best is None or score > self.best
        self.best, self.stale = (score, 0) if better else (self.best, self.stale + 1)

    def is_over(self, patience: int) -> bool:
        """Returns True if training should stop; never with a patience of 0."""
        return 0 < patience <= self.stale


class Scorer:
    """Scores parameters on the held-out splits.

    Attributes:
      undefined: why some of the scores of the last call are undefined, by name; they are 0.
    """

    def __init__(self, setup: FinetuningSetup, inputs: dict[str, TaskInputs]) -> None:
        """Takes the inputs of the splits by name, with features where they are cached."""
        self._step = setup.eval_step
        self._splits = [
            (name, split, setup.input_batches(inputs[name]))
            for name, split in setup.task.dev.items()
        ]
        self.undefined: dict[str, str] = {}

    def __call__(self, params: Params) -> dict[str, float]:
        """Returns `dev_loss`, `dev_accuracy`, `dev2_loss` and so on."""
        scores, self.undefined = {}, {}
        for name, split, batches in self._splits:
            outputs, means = batches.outputs(self._step, params)
            scores |= _named(name, split, outputs, means)
            reasons = split.undefined(outputs)
            self.undefined |= {f"{name}_{key}": reason for key, reason in reasons.items()}
        return scores

    def of_runs(
        self, step: OutputsFn, params: Params, runs: int
    ) -> list[tuple[dict[str, float], Outputs]]:
        """Returns for each of several runs its scores, and its outputs for `dev`.

        Args:
          step: of several runs (`InputBatches.outputs_of_runs`).
          params: of all.
          runs: how many are asked for, the first ones.
        """
        scores: list[dict[str, float]] = [{} for _ in range(runs)]
        kept: list[Outputs] = []
        for name, split, batches in self._splits:
            found = batches.outputs_of_runs(step, params, runs)
            for run, (outputs, means) in enumerate(found):
                scores[run] |= _named(name, split, outputs, means)
            kept = kept or [outputs for outputs, _ in found]  # `dev` is the first
        return list(zip(scores, kept, strict=True))


def _named(name: str, split: Split, outputs: Outputs, means: dict[str, float]) -> dict[str, float]:
    scores = means | split.scores(outputs)
    return {f"{name}_{key}": value for key, value in scores.items()}


def check_same_task(
    setup: FinetuningSetup, workdir: pathlib.Path, metadata: dict[str, Any]
) -> None:
    """Raises UserError if a directory holds the run of other examples or another checkpoint."""
    if metadata["task"] != setup.task_digest:
        raise UserError(
            f"{workdir} began with other examples or another tokenizer: give the same"
            " --checkpoint, data.train and data.dev, or name another --workdir"
        )
    if metadata["source"] != setup.source:
        raise UserError(
            f"{workdir} began with the parameters of {metadata['checkpoint']}, which are not those"
            f" of {setup.checkpoint}: give that --checkpoint, or name another --workdir"
        )
    if metadata.get("teacher", "") != setup.teacher:
        raise UserError(
            f"{workdir} began with another teacher than {setup.config.teacher}: name another"
            " --workdir"
        )


def introduction(
    setup: FinetuningSetup, inputs: dict[str, TaskInputs], batches: TaskBatches
) -> Iterator[str]:
    """Says what the run is about to do."""
    named = f"; labels: {', '.join(setup.task.labels)}" if setup.task.labels else ""
    yield f"{setup.computed()}{named}"
    for name, split in {"train": setup.task.train, **setup.task.dev}.items():
        examples = inputs[name].examples
        more = setup.task.unlabelled if name == "train" else None
        windows = f" in {len(inputs[name]):,} windows" if len(inputs[name]) > examples else ""
        if setup.config.task is TaskKind.VECTORS:
            examples = examples if inputs[name].roles else split.examples
            windows = f" of {len(inputs[name]):,} texts"
        notes = f"; {split.notes}" if split.notes else ""
        without = f", {more.examples:,} of them without labels" if more else ""
        yield f"{name}: {examples:,} examples{without}{windows}{notes}"
        if more and setup.task.unlabelled_notes:
            yield f"{setup.config.data.unlabelled}: {setup.task.unlabelled_notes}"
        if name == "train" and (remark := drawn_classes(setup.config, setup.task, inputs[name])):
            yield remark
    yield f"an epoch is {batches.describe()}"
    longest = max(int(each.sizes.max()) for each in inputs.values())
    if advice := row_advice(longest, setup.config.data.length):
        yield advice
    yield f"majority-class baseline: dev {setup.metric} of {setup.floor:.4f}"


def row_advice(longest: int, length: int) -> str | None:
    """Says which shorter rows would do, where half of their length would; None otherwise.

    Args:
      longest: tokens of the longest input.
      length: T.
    """
    enough = -(-longest // 8) * 8
    if 2 * enough > length:
        return None
    return (
        f"the longest input has {longest} tokens: --config.data.length={enough} has room for it,"
        " and attention over shorter rows is faster"
    )


def spread(values: Sequence[float], floor: float) -> dict[str, Any]:
    """Returns `mean`, `standard_deviation` (None of one run) and how many `failed`, for JSON.

    A run that ends no better than the majority-class baseline has failed: small data and large
    encoders do that now and then (Devlin et al., 2019, section 4.1).

    Args:
      values: the scores of runs.
      floor: the score of the majority-class baseline.
    """
    return {
        "mean": float(np.mean(values)),
        "standard_deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "failed": int(np.count_nonzero(np.array(values) <= floor)),
    }
