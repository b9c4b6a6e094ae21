"""Fine-tunes a checkpoint on a labelled task: the encoder is transferred, the head is swapped.

    python -m bert_jax.finetune --config=configs/finetune_text.py --checkpoint=runs/base \
        --config.data.train=train.tsv --config.data.dev=dev.tsv --workdir=runs/task

A run that is started again in its directory goes on where it was.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from bert_jax import cli, sharding
from bert_jax.checkpoint import (
    FOLDER,
    Checkpoints,
    find_checkpoint,
    newest_facts,
    read_facts,
    restore_newest,
    steps_in,
)
from bert_jax.config import EncoderMode, FinetuneConfig, TaskKind, flatten, to_dict
from bert_jax.data import draws
from bert_jax.data.loader import load_batches
from bert_jax.data.splits import Task
from bert_jax.data.task_batches import TaskBatches
from bert_jax.data.task_rows import RowFormat, TaskInputs, TaskStream, examples_per_row
from bert_jax.debugging import check_ids, profiled, watched
from bert_jax.errors import UserError
from bert_jax.evaluation import InputsOnDevices, make_features_step, make_outputs_step
from bert_jax.files import write_atomically
from bert_jax.fingerprint import json_digest
from bert_jax.flops import finetuning_flops
from bert_jax.health import Health
from bert_jax.logs import StartClock, StepReports, open_log
from bert_jax.loop import run_steps
from bert_jax.losses import Params
from bert_jax.model import Batch
from bert_jax.processes import (
    check_agreed,
    first_alone,
    is_first,
    join,
    keep_compiled,
    stop_request,
)
from bert_jax.programs import Compiled, finetuning_step
from bert_jax.task_kinds import (
    KINDS,
    chosen_metric,
    class_weights,
    make_model,
    read_task,
)
from bert_jax.tokenizer import tokenizer_from_dict
from bert_jax.training import TrainState, init_state, run_key_on
from bert_jax.transfer import initial_params, parameter_table, read_encoder
from bert_jax.workdir import check_workdir, claim_workdir

SUMMARY_FILE = "summary.json"  # of several seeds

_SUBSET = 102  # purpose of the draw that chooses `data.examples`

_CONFIG = config_flags.DEFINE_config_file("config", None, "a recipe that returns a FinetuneConfig")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "the run to start from, of either kind")
_WORKDIR = flags.DEFINE_string("workdir", None, "the directory of this run")


class Setup:
    """What the runs of all seeds share: the checkpoint, the task, the model and the mesh."""

    def __init__(self, config: FinetuneConfig, checkpoint: pathlib.Path, clock: StartClock) -> None:
        """Reads the checkpoint's facts and the task, and checks that they go together.

        Raises:
          UserError: for what does not fit, before anything is trained or written.
        """
        facts = read_facts(checkpoint)
        self.config, self.checkpoint, self.clock = config, checkpoint, clock
        self.stored_tokenizer = facts["tokenizer"]  # with its fingerprint
        self.source = json_digest(facts["fingerprints"]["params"])  # which parameters it has
        self.tokenizer = tokenizer_from_dict(self.stored_tokenizer)
        self.encoder = read_encoder(facts, config)
        self.mesh = sharding.make_mesh(config.mesh)
        sharding.check_encoder(self.encoder, self.mesh)
        self.task = read_task(config, self.tokenizer)
        self.task_digest = self.task.fingerprint()
        self.model = make_model(config, self.encoder, self.task.labels)
        dev = self.task.dev["dev"]
        floor = dev.scores(dev.constant_outputs())
        self.metric = chosen_metric(config, list(floor))
        self.floor = floor[self.metric]  # of who always gives the commonest answer
        self.rows = RowFormat(
            length=config.data.length,
            special=self.tokenizer.special,
            pool_last=self.encoder.causal,
            batch_size=config.batch_size,
            max_examples=config.data.max_examples_per_row or examples_per_row(config.data.length),
        )
        self.eval_step = make_outputs_step(self.model, KINDS[config.task].totals, self.mesh)
        self.features_step = make_features_step(self.model, self.mesh)
        self.compiled = functools.lru_cache(self._compiled)  # it is mostly the same for all seeds

    def _compiled(self, steps: int, weights: tuple[float, ...]) -> Compiled:
        return finetuning_step(self.config, self.model, self.mesh, steps, weights)

    def on_devices(self, inputs: TaskInputs) -> InputsOnDevices:
        """Deals inputs out, to be run through the model."""
        whole_inputs = self.model.whole_inputs
        return InputsOnDevices(inputs, self.rows, self.mesh, whole_inputs=whole_inputs)

    def with_features(self, inputs: TaskInputs, params: Params) -> TaskInputs:
        """Runs the frozen encoder over inputs, once, and keeps what the head reads of it."""
        features, _ = self.on_devices(inputs).outputs(self.features_step, params)
        kept = np.stack(features) if self.model.whole_inputs else features
        return dataclasses.replace(inputs, features=kept)


def training_inputs(config: FinetuneConfig, task: Task) -> TaskInputs:
    """Returns the inputs to train on: all, or those of `data.examples` drawn by the seed.

    More examples of the same seed include the fewer.

    Raises:
      UserError: if there are fewer than asked for, or a class has none among them.
    """
    inputs, wanted, there = task.train.inputs, config.data.examples, task.train.examples
    if not wanted:
        return inputs
    if wanted > there:
        raise UserError(
            f"--config.data.examples={wanted}: {config.data.train} has {there:,}; 0 takes all"
        )
    order = draws.words(there, seed=config.seed, purpose=_SUBSET, epoch=0, block=0).argsort()
    inputs = inputs.of_examples(order[:wanted])
    if config.task is TaskKind.CLASSIFICATION:
        for number, label in enumerate(task.labels):
            if number not in inputs.labels:
                raise UserError(
                    f"--config.data.examples={wanted} with seed={config.seed} draws no example of"
                    f" {label!r}: take more, or another seed"
                )
    return inputs


@dataclasses.dataclass
class Progress:
    """The best score so far, and for how many epochs there was no better one."""

    best: float | None = None
    stale: int = 0

    def add(self, score: float) -> None:
        """Takes the score of an epoch."""
        better = self.best is None or score > self.best
        self.best, self.stale = (score, 0) if better else (self.best, self.stale + 1)

    def is_over(self, patience: int) -> bool:
        """Whether it is time to stop; never with a patience of 0."""
        return 0 < patience <= self.stale


class Scorer:
    """Scores parameters on the held-out splits."""

    def __init__(self, setup: Setup, inputs: dict[str, TaskInputs]) -> None:
        """Takes the inputs of the splits by name, with features where they are cached."""
        self._step = setup.eval_step
        self._splits = [
            (name, split, setup.on_devices(inputs[name])) for name, split in setup.task.dev.items()
        ]

    def __call__(self, params: Params) -> dict[str, float]:
        """Returns `dev_loss`, `dev_accuracy`, `dev2_loss` and so on."""
        scores = {}
        for name, split, on_devices in self._splits:
            outputs, means = on_devices.outputs(self._step, params)
            means |= split.scores(outputs)
            scores |= {f"{name}_{key}": value for key, value in means.items()}
        return scores


def check_same_task(setup: Setup, workdir: pathlib.Path, facts: dict[str, Any]) -> None:
    """Raises UserError if a directory holds the run of other examples or another checkpoint."""
    if facts["task"] != setup.task_digest:
        raise UserError(
            f"{workdir} began with other examples or another tokenizer: give the same"
            " --checkpoint, data.train and data.dev, or name another --workdir"
        )
    if facts.get("source") != setup.source:  # those of earlier versions have none
        raise UserError(
            f"{workdir} began with the parameters of {facts['checkpoint']}, which are not those of"
            f" {setup.checkpoint}: give that --checkpoint, or name another --workdir"
        )


def begin(setup: Setup, config: FinetuneConfig, compiled: Compiled) -> tuple[TrainState, list[str]]:
    """Puts the transferred groups over fresh ones; also says which."""
    abstract = compiled.abstract.params
    params, transferred = initial_params(setup.checkpoint, setup.model, abstract, config)
    table = parameter_table(params, transferred, config)
    state = init_state(params, compiled.tx, compiled.abstract)
    return state, [f"from {setup.checkpoint}:\n{table}"]


def train(setup: Setup, seed: int, workdir: pathlib.Path) -> dict[str, float]:
    """Trains with one seed, or goes on with what is in the directory, keeping the best epoch.

    Returns:
      The scores of the best epoch.

    Raises:
      UserError: for a directory that holds another run.
      cli.Stopped: if the user asked for it; all is saved.
    """
    config, clock = dataclasses.replace(setup.config, seed=seed, seeds=1), setup.clock
    check_workdir(workdir, config)
    inputs = {"train": training_inputs(config, setup.task)}
    inputs |= {name: split.inputs for name, split in setup.task.dev.items()}
    multiple = sharding.row_groups(setup.mesh) * config.micro_batches
    batches = setup.rows.deal(
        inputs["train"], epochs=config.epochs, seed=seed, rows_multiple=multiple
    )
    steps = config.epochs * batches.per_epoch
    weights = class_weights(config.class_weights, setup.task.labels, inputs["train"])
    compiled = setup.compiled(steps, weights)

    # The state: resumed, or made of what is transferred.
    progress = Progress()
    if facts := newest_facts(workdir):
        check_same_task(setup, workdir, facts)
        progress = Progress(**facts["progress"])
    step = facts.get("step", 0)
    check_agreed("a run at step", step, "keep --workdir where all hosts see it")
    if step >= steps or progress.is_over(config.patience):
        print(f"{workdir} is finished: {step:,} steps")
        return best_scores(workdir)
    claim = functools.partial(claim_workdir, workdir, config)
    if steps_in(workdir):
        first_alone(claim)
        state, facts, said = restore_newest(workdir, compiled.abstract)
        progress = Progress(**facts["progress"])
        said.append(f"resuming at step {facts['step']:,} from {workdir / FOLDER}")
    else:
        state, said = begin(setup, config, compiled)
        first_alone(claim)
    keep_compiled(workdir)
    first_step = int(state.step)
    clock.mark("parameters")
    log = open_log(workdir, first_step=first_step, steps=steps)
    for line in (*said, *_introduction(setup, inputs, batches)):
        log.say(line)
    if not first_step:
        log.write(0, {"metric": f"dev_{setup.metric}", "floor": setup.floor})

    # What is learned from, and what is scored.
    if config.encoder_mode is EncoderMode.CACHED:
        log.say("the encoder runs once over all of them")
        inputs = {name: setup.with_features(each, state.params) for name, each in inputs.items()}
    scorer = Scorer(setup, inputs)
    stream = TaskStream(inputs["train"], batches, setup.rows)
    rows = sharding.host_rows(batches.rows, setup.mesh)
    local_batches = load_batches(
        lambda numbers: stream.rows(numbers + first_step * batches.rows),
        batches=steps - first_step,
        batch_size=batches.rows,
        host_rows=rows,
    )

    def to_devices(batch: dict[str, np.ndarray]) -> Batch:
        if config.debug:
            check_ids(batch, setup.encoder)
        return sharding.global_batch(batch, rows, batches.rows, setup.mesh)

    global_batches = profiled(
        map(to_devices, local_batches),
        first_step,
        config.profile,
        workdir / "profile",
    )

    facts = _facts(setup, config)
    checkpoints = Checkpoints(workdir, keep=1, keep_best=True)

    def rows_of(step: int) -> str:
        epoch, batch = divmod(step - 1, batches.per_epoch)
        return f"batch {batch} of epoch {epoch}, counted from 0"

    flops = finetuning_flops(setup.encoder, config.data.length, config.encoder_mode)
    health = Health(config.max_skipped_steps, rows_of)
    reports = StepReports(log, config.log_steps, compiled.learning_rate, lambda step: flops, health)
    train_step = compiled.train_step
    if config.debug:
        train_step = watched(train_step, rows_of)
    step, key = first_step, run_key_on(setup.mesh, seed)
    with stop_request() as stop, jax.transfer_guard("disallow"):
        trained = run_steps(
            train_step,
            state,
            global_batches,
            key,
            steps=steps,
            reports=reports,
            stop=stop,
        )
        for step, state, last in trained:
            if step == first_step + 1:
                log.started(clock, state)
            ends_epoch = step % batches.per_epoch == 0
            if not ends_epoch and not last:
                continue
            with reports.paused("evaluation"):
                scores, score = {}, None  # what stops inside an epoch is no candidate for the best
                if ends_epoch:
                    scores = scorer(state.params)
                    score = scores[f"dev_{setup.metric}"]
                    progress.add(score)
                    log.write(step, scores)
                    told = " ".join(f"{name} {value:.4g}" for name, value in scores.items())
                    log.say(f"epoch {step // batches.per_epoch}: {told}")
            with reports.paused("checkpoint"):
                now = {"scores": scores, "progress": dataclasses.asdict(progress)}
                checkpoints.save(state, facts | now, score=score)
            if progress.is_over(config.patience):
                log.say(f"no better {setup.metric} for {progress.stale} epochs: enough")
                break
        checkpoints.close()
    log.close()
    if step < steps and not progress.is_over(config.patience):
        raise cli.Stopped(
            f"stopped at step {step:,} and saved: the same command goes on from there"
        )
    print(f"finished {step:,} steps; the best epoch is {find_checkpoint(workdir)}")
    return best_scores(workdir)


def _introduction(
    setup: Setup, inputs: dict[str, TaskInputs], batches: TaskBatches
) -> Iterator[str]:
    """Says what the run is about to do."""
    named = f"; labels: {', '.join(setup.task.labels)}" if setup.task.labels else ""
    yield f"{sharding.describe(setup.mesh)}{named}"
    for name, split in {"train": setup.task.train, **setup.task.dev}.items():
        examples = len(np.unique(inputs[name].example_of))
        windows = f" in {len(inputs[name]):,} windows" if len(inputs[name]) > examples else ""
        notes = f"; {split.notes}" if split.notes else ""
        yield f"{name}: {examples:,} examples{windows}{notes}"
    yield f"an epoch is {batches.describe()}"
    yield f"whoever always gives the commonest answer has a dev {setup.metric} of {setup.floor:.4f}"


def _facts(setup: Setup, config: FinetuneConfig) -> dict[str, Any]:
    return {
        "kind": config.task.value,
        "config": to_dict(config),
        "encoder": to_dict(setup.encoder),
        "tokenizer": setup.stored_tokenizer,
        "labels": setup.task.labels,
        "task": setup.task_digest,
        "checkpoint": str(setup.checkpoint),
        "source": setup.source,
    }


def best_scores(workdir: pathlib.Path) -> dict[str, float]:
    """Reads the scores of a run's best epoch."""
    return read_facts(find_checkpoint(workdir))["scores"]


def train_seeds(setup: Setup, workdir: pathlib.Path) -> None:
    """Trains with each seed in a directory of its own, then tells the mean and the spread.

    A run that ends no better than the commonest answer has failed, and is counted: small data and
    large encoders do that now and then (Devlin et al., 2019, section 4.1).
    """
    config = setup.config
    check_workdir(workdir, config)
    for seed in range(config.seed, config.seed + config.seeds):  # what is wrong is told now
        training_inputs(dataclasses.replace(config, seed=seed), setup.task)
    first_alone(lambda: claim_workdir(workdir, config))
    metric = f"dev_{setup.metric}"
    scores = {}
    for seed in range(config.seed, config.seed + config.seeds):
        scores[seed] = train(setup, seed, workdir / f"seed-{seed}")
    values = np.array([each[metric] for each in scores.values()])
    summary = {
        "metric": metric,
        "mean": float(values.mean()),
        "standard_deviation": float(values.std(ddof=1)),
        "floor": setup.floor,
        "failed": int(np.count_nonzero(values <= setup.floor)),
        "scores": scores,
    }
    if is_first():
        write_atomically(workdir / SUMMARY_FILE, json.dumps(summary, indent=1).encode())
    for seed, value in zip(scores, values, strict=True):
        print(f"seed {seed:<6} {metric} {value:.4f}")
    print(
        f"{len(values)} seeds: mean {summary['mean']:.4f}, standard deviation"
        f" {summary['standard_deviation']:.4f}, {summary['failed']} failed"
    )


def main() -> None:
    """Checks everything, then trains."""
    clock = StartClock()
    clock.mark("imports")
    config = cli.checked_config(_CONFIG.value, FinetuneConfig)
    named = cli.require("checkpoint", _CHECKPOINT.value, "runs/base")
    workdir = pathlib.Path(cli.require("workdir", _WORKDIR.value, "runs/task"))
    join(config.hosts, dict(flatten(config)) | {"workdir": str(workdir), "checkpoint": named})
    checkpoint = find_checkpoint(named)
    clock.mark("other processes")
    setup = Setup(config, checkpoint, clock)
    clock.mark("data")
    if config.seeds > 1:
        train_seeds(setup, workdir)
    else:
        train(setup, config.seed, workdir)


if __name__ == "__main__":
    cli.run(main, config_type=FinetuneConfig)
