"""Fine-tuning runs, one after another, from a config to the checkpoint of the best epoch."""

import dataclasses
import functools
import json
import os
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from bert_jax.checkpoints.checkpoint import (
    FOLDER,
    Checkpoints,
    find_checkpoint,
    newest_metadata,
    read_metadata,
    restore_newest,
    steps_in,
)
from bert_jax.checkpoints.transfer import initial_params, transfer_table
from bert_jax.checkpoints.workdir import check_workdir, claim_workdir
from bert_jax.config import EncoderMode, FinetuneConfig, Launch, flatten, to_dict
from bert_jax.data.packing.loader import load_batches
from bert_jax.data.tasks.rows import TaskBatches, TaskInputs, TaskStream
from bert_jax.distributed import sharding
from bert_jax.distributed.compiled import keep_compiled
from bert_jax.distributed.processes import (
    check_agreed,
    first_alone,
    is_first,
    join,
    stop_request,
)
from bert_jax.files import write_atomically
from bert_jax.model.encoder import Batch
from bert_jax.model.flops import finetuning_flops
from bert_jax.runs.finetuning_setup import (
    SUMMARY_FILE,
    FinetuningSetup,
    Progress,
    Scorer,
    check_negatives,
    check_same_task,
    ends_evaluated_epoch,
    introduction,
    spread,
    training_inputs,
)
from bert_jax.runs.steps import CompiledStep, check_warmup
from bert_jax.stopping import Stopped
from bert_jax.tasks.kinds import class_weights
from bert_jax.training.debugging import check_ids, profiled, watched
from bert_jax.training.logs import StartClock, StepReports, open_log
from bert_jax.training.loop import run_steps
from bert_jax.training.loss_watch import LossWatch
from bert_jax.training.state import TrainState, init_state
from bert_jax.training.step import UpdateFn


def transferred_state(
    setup: FinetuningSetup, config: FinetuneConfig, compiled: CompiledStep
) -> tuple[TrainState, str]:
    """Returns the state of step 0, and a table of what in it is transferred and what is fresh."""
    abstract = compiled.abstract.params
    params, transferred = initial_params(setup.checkpoint, setup.model, abstract, config)
    table = transfer_table(params, transferred, config)
    return init_state(params, compiled.tx, compiled.abstract), table


class Learned(NamedTuple):
    """The training data of a seed, and what is held out.

    Attributes:
      config: with the seed alone.
      inputs: of the training set, and of each held-out one.
      batches: of the training set.
      class_weights: of the loss; () for none.
    """

    config: FinetuneConfig
    inputs: dict[str, TaskInputs]
    batches: TaskBatches
    class_weights: tuple[float, ...]


def learned_from(setup: FinetuningSetup, seed: int) -> Learned:
    """Deals the examples of a seed; raises UserError if it cannot learn from them as asked."""
    config = dataclasses.replace(setup.config, seed=seed, seeds=1)
    inputs = {"train": training_inputs(config, setup.task)}
    inputs |= {name: split.inputs for name, split in setup.task.dev.items()}
    multiple = sharding.row_groups(setup.mesh) * config.micro_batches
    batches = setup.batch_format.deal(
        inputs["train"], epochs=config.epochs, seed=seed, rows_multiple=multiple
    )
    check_negatives(config, inputs["train"], batches)
    check_warmup(config, config.epochs * batches.per_epoch)
    weights = class_weights(config.class_weights, setup.task.labels, inputs["train"])
    return Learned(config, inputs, batches, weights)


def train_seed(setup: FinetuningSetup, seed: int, workdir: pathlib.Path) -> dict[str, float]:
    """Trains with one seed, or goes on with the run in the directory; keeps the best epoch.

    Returns:
      The scores of the best epoch.

    Raises:
      UserError: for a directory that holds another run.
      Stopped: if the user asked for it; all is saved.
    """
    check_workdir(workdir, dataclasses.replace(setup.config, seed=seed, seeds=1))
    config, inputs, batches, weights = learned_from(setup, seed)
    clock, steps = setup.clock, config.epochs * batches.per_epoch
    compiled = setup.compiled(steps, weights)

    # The state: resumed, or made of what is transferred.
    progress = Progress()
    if metadata := newest_metadata(workdir):
        check_same_task(setup, workdir, metadata)
        progress = Progress(**metadata["progress"])
    step = metadata.get("step", 0)
    check_agreed("a run at step", step, "keep --workdir where all hosts see it")
    if step >= steps or progress.is_over(config.patience):
        print(f"{workdir} is finished: {step:,} steps")
        return best_scores(workdir)
    claim = functools.partial(claim_workdir, workdir, config)
    if steps_in(workdir):
        first_alone(claim)
        state, metadata, messages = restore_newest(workdir, compiled.abstract)
        progress = Progress(**metadata["progress"])
        messages.append(f"resuming at step {metadata['step']:,} from {workdir / FOLDER}")
    else:
        state, table = transferred_state(setup, config, compiled)
        messages = [f"from {setup.checkpoint}:\n{table}"]
        first_alone(claim)
    keep_compiled(workdir)
    first_step = int(state.step)
    clock.mark("parameters")
    log = open_log(workdir, first_step=first_step, steps=steps)
    for line in (*messages, *introduction(setup, inputs, batches)):
        log.message(line)
    if not first_step:
        labelled = inputs["train"].with_labels().examples
        known = {"metric": f"dev_{setup.metric}", "floor": setup.floor, "examples": labelled}
        log.record(0, known)

    # What is learned from, and what is scored.
    if config.encoder_mode is EncoderMode.CACHED:
        log.message("the encoder runs once over all of them")
        inputs = {name: setup.with_features(each, state.params) for name, each in inputs.items()}
    scorer = Scorer(setup, inputs)
    stream = TaskStream(inputs["train"], batches, setup.batch_format)
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

    metadata = _metadata(setup, config)
    checkpoints = Checkpoints(workdir, keep=1, keep_best=True)

    def rows_of(step: int) -> str:
        epoch, batch = divmod(step - 1, batches.per_epoch)
        return f"batch {batch} of epoch {epoch}, counted from 0"

    flops = finetuning_flops(setup.encoder, config.data.length, config.encoder_mode)
    watch = LossWatch(rows_of, resumed=first_step > 0)
    step, run = first_step, compiled.inputs(seed)
    rates = np.asarray(run.settings.learning_rate)
    reports = StepReports(log, config.log_steps, rates, lambda step: flops, watch)

    def train_step_of(_: int) -> UpdateFn:
        return compiled.train_step

    checked_step_of = watched(train_step_of, rows_of) if config.debug else train_step_of
    profile = profiled(checked_step_of, config.profile, workdir / "profile")
    with stop_request() as stop, jax.transfer_guard("disallow"), profile as profiled_step_of:
        trained = run_steps(
            profiled_step_of,
            state,
            map(to_devices, local_batches),
            run,
            steps=steps,
            reports=reports,
            stop=stop,
        )
        for step, state, last in trained:
            if step == first_step + 1:
                log.started(clock, state)
            is_evaluated = ends_evaluated_epoch(config, step, batches.per_epoch)
            if not is_evaluated and not last:
                continue
            with reports.paused("evaluation"):
                scores, score = {}, None  # what stops between them is no candidate for the best
                if is_evaluated:
                    scores = scorer(state.params)
                    score = scores[f"dev_{setup.metric}"]
                    progress.add(score)
                    undefined = {"undefined": scorer.undefined} if scorer.undefined else {}
                    log.write(step, scores | undefined)
                    told = " ".join(f"{name} {value:.4g}" for name, value in scores.items())
                    log.message(f"epoch {step // batches.per_epoch}: {told}")
            with reports.paused("checkpoint"):
                now = {"scores": scores, "progress": dataclasses.asdict(progress)}
                checkpoints.save(state, metadata | now, score=score)
            if progress.is_over(config.patience):
                log.message(f"stopping: no better {setup.metric} in {progress.stale} evaluations")
                break
        checkpoints.close()
    reports.close()
    log.close()
    if step < steps and not progress.is_over(config.patience):
        raise Stopped(f"stopped at step {step:,} and saved: the same command goes on from there")
    print(f"finished {step:,} steps; the best epoch is {find_checkpoint(workdir)}")
    return best_scores(workdir)


def _metadata(setup: FinetuningSetup, config: FinetuneConfig) -> dict[str, Any]:
    return {
        "kind": config.task.value,
        "config": to_dict(config),
        "encoder": to_dict(setup.encoder),
        "tokenizer": setup.stored_tokenizer,
        "labels": setup.task.labels,
        "computed": setup.computed(),
        **setup.identity(),
    }


def best_scores(workdir: pathlib.Path) -> dict[str, float]:
    """Reads the scores of a run's best epoch."""
    return read_metadata(find_checkpoint(workdir))["scores"]


def train_seeds(setup: FinetuningSetup, workdir: pathlib.Path) -> None:
    """Trains with each seed in a directory of its own, then tells the mean and the spread."""
    config = setup.config
    check_workdir(workdir, config)
    for seed in range(config.seed, config.seed + config.seeds):  # what is wrong is told now
        learned_from(setup, seed)
    first_alone(lambda: claim_workdir(workdir, config))
    metric = f"dev_{setup.metric}"
    scores = {}
    for seed in range(config.seed, config.seed + config.seeds):
        scores[seed] = train_seed(setup, seed, workdir / f"seed-{seed}")
    values = [each[metric] for each in scores.values()]
    summary = {
        "metric": metric,
        "floor": setup.floor,
        **spread(values, setup.floor),
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


def finetune(
    config: FinetuneConfig,
    checkpoint: str | os.PathLike[str],
    workdir: pathlib.Path,
    *,
    launch: Launch = Launch(),
) -> None:
    """Fine-tunes with each seed, or goes on; checkpoints, logs and scores go to the directory.

    Args:
      config: of the run, validated.
      checkpoint: to start from: a run of either kind, or one of its steps.
      workdir: of the run; may not exist yet.
      launch: the position of this process among those of the run; by default it is alone.

    Raises:
      UserError: for what does not suit, before the first step; or if steps cannot be saved.
      Stopped: if the user asked for it; everything is saved.
    """
    clock = StartClock()
    clock.mark("imports")
    must_agree = {"workdir": str(workdir), "checkpoint": str(checkpoint)}
    join(launch, config.hosts, dict(flatten(config)) | must_agree)
    found = find_checkpoint(checkpoint)
    clock.mark("other processes")
    setup = FinetuningSetup(config, found, sharding.make_mesh(config.mesh), clock)
    clock.mark("data")
    if config.seeds > 1:
        train_seeds(setup, workdir)
    else:
        train_seed(setup, config.seed, workdir)
