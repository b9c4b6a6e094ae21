"""A sweep: fine-tuning runs with many seeds and learning rates, as one compiled program."""

import dataclasses
import io
import json
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.checkpoints.checkpoint import find_checkpoint
from bert_jax.checkpoints.transfer import read_transferred, transfer_table
from bert_jax.checkpoints.workdir import check_workdir, claim_workdir
from bert_jax.config import EncoderMode, FinetuneConfig, Launch, SweepConfig, TaskKind
from bert_jax.data.packing.loader import load_batches
from bert_jax.data.tasks.batches import TaskBatches
from bert_jax.data.tasks.rows import TaskInputs, TaskStream
from bert_jax.data.tasks.splits import Outputs
from bert_jax.distributed import sharding
from bert_jax.distributed.compiled import keep_compiled
from bert_jax.distributed.processes import refuse_several, stop_request
from bert_jax.errors import UserError
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
from bert_jax.runs.steps import check_warmup, task_optimizer
from bert_jax.runs.vectorised import Runs, SideBySide, place_runs, vectorise
from bert_jax.stopping import Stopped
from bert_jax.tasks.kinds import class_weights
from bert_jax.training.debugging import profiled
from bert_jax.training.logs import StartClock, StepReports, open_log
from bert_jax.training.loop import run_steps
from bert_jax.training.loss_watch import LossWatch
from bert_jax.training.schedules import tabulate
from bert_jax.training.state import TrainState, abstract_params

PREDICTIONS_FILE = "predictions.npz"


@dataclasses.dataclass
class RunScores:
    """The scores and outputs of one run.

    Attributes:
      seed: of the run.
      learning_rate: its highest.
      epochs: `epoch`, from 1, and the scores of each evaluated one until it ended.
      best: the best of these.
      skipped_steps: that changed nothing, for the loss or a gradient was no number.
      outputs: of the best epoch, for `dev`.
      progress: decides when it ends.
    """

    seed: int
    learning_rate: float
    epochs: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best: dict[str, float] = dataclasses.field(default_factory=dict)
    skipped_steps: int = 0
    outputs: Outputs = ()
    progress: Progress = dataclasses.field(default_factory=Progress)

    def add(self, epoch: int, scores: dict[str, float], outputs: Outputs, metric: str) -> None:
        """Takes an epoch; of equally good ones the latest is the best, as `Checkpoints` keeps."""
        self.epochs.append({"epoch": epoch} | scores)
        self.progress.add(scores[metric])
        if not self.best or scores[metric] >= self.best[metric]:
            self.best, self.outputs = self.epochs[-1], outputs


def sweep_config(config: FinetuneConfig, learning_rates: str) -> SweepConfig:
    """Returns the config of a sweep.

    Args:
      config: of its runs.
      learning_rates: numbers above 0, with commas between.

    Raises:
      UserError: for other rates, one that is there twice, or what runs cannot do side by side.
    """
    rates = []
    for text in learning_rates.split(","):
        try:
            rate = float(text)
        except ValueError:
            rate = 0.0
        if not 0 < rate < math.inf:
            raise UserError(f"--learning_rates: {text!r} must be a number above 0")
        if rate in rates:
            raise UserError(f"--learning_rates: {text} is there twice: leave one out")
        rates.append(rate)
    if config.encoder_mode is EncoderMode.CACHED:
        raise UserError(
            "--config.encoder_mode=cached keeps the vectors of one run: a sweep takes"
            " encoder_mode=frozen, which gives the same scores"
        )
    if config.encoder_mode is EncoderMode.FROZEN and config.head_learning_rate:
        raise UserError(
            f"--config.head_learning_rate={config.head_learning_rate} is the rate of all that a"
            " frozen encoder leaves to train, in the place of --learning_rates: leave it out"
        )
    if config.micro_batches > 1:
        raise UserError(
            f"--config.micro_batches={config.micro_batches}: the runs of a sweep have whole"
            " batches: set it to 1; --config.remat=inputs, or fewer runs, save memory"
        )
    if config.debug:
        raise UserError("--config.debug looks at one run: give it to `bert_jax.finetune`")
    drawn = config.data.examples and config.task is TaskKind.TAGS  # of classes, shares are fixed
    if config.class_weights == "balanced" and drawn:
        raise UserError(
            f"--config.class_weights=balanced with data.examples={config.data.examples} differ by"
            " seed, and the runs of a sweep have the same: name them, LABEL=WEIGHT,..."
        )
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    fields["optimizer"] = dataclasses.replace(config.optimizer, learning_rate=max(rates))
    return SweepConfig(**fields, learning_rates=",".join(map(repr, rates)))


def deal_seeds(
    setup: FinetuningSetup, seeds: Sequence[int]
) -> tuple[list[TaskInputs], list[TaskBatches]]:
    """Returns what each seed trains on, and its batches.

    Raises:
      UserError: if they are not as many, if warm-up takes all, or as `training_inputs`.
    """
    config = setup.config
    inputs, batches = [], []
    for seed in seeds:
        own = training_inputs(dataclasses.replace(config, seed=seed), setup.task)
        inputs.append(own)
        batches.append(
            setup.batch_format.deal(own, epochs=config.epochs, seed=seed, rows_multiple=1)
        )
        check_negatives(config, own, batches[-1])
        check_warmup(config, config.epochs * batches[-1].per_epoch)
        if batches[-1].per_epoch != batches[0].per_epoch:
            raise UserError(
                f"--config.data.examples={config.data.examples}: those of seed {seed} are"
                f" {batches[-1].per_epoch:,} batches of windows, those of seed {seeds[0]}"
                f" {batches[0].per_epoch:,}, and the runs of a sweep have as many: leave"
                " data.examples out, or raise data.length"
            )
    return inputs, batches


def train_runs(
    setup: FinetuningSetup, config: SweepConfig, workdir: pathlib.Path
) -> dict[str, Any]:
    """Trains all runs, and writes what came of them.

    Returns:
      The summary.

    Raises:
      UserError: for what does not fit, before anything is written.
      Stopped: if the user asked for it; nothing is kept.
    """
    seeds = range(config.seed, config.seed + config.seeds)
    rates = [float(rate) for rate in config.learning_rates.split(",")]
    found = [RunScores(seed, rate) for seed in seeds for rate in rates]
    inputs, batches = deal_seeds(setup, seeds)
    per_epoch = batches[0].per_epoch
    steps = config.epochs * per_epoch
    weights = class_weights(config.class_weights, setup.task.labels, inputs[0])
    compiled = vectorise(config, setup.model, setup.mesh, steps, weights, setup.columns)

    # The state: what is transferred, once for all, over fresh values of each run.
    abstract = abstract_params(setup.model, setup.mesh)
    transferred = read_transferred(setup.checkpoint, abstract, config)
    claim_workdir(workdir, config)
    keep_compiled(workdir)
    runs, filling = place_runs(
        [(run.seed, run.learning_rate) for run in found], config, steps, setup.mesh
    )
    state = compiled.begin(transferred, runs)
    setup.clock.mark("parameters")
    log = open_log(workdir, first_step=0, steps=steps)
    table = transfer_table(abstract, frozenset(transferred), config)
    log.message(f"from {setup.checkpoint}, with the highest rate:\n{table}")
    splits = {name: split.inputs for name, split in setup.task.dev.items()}
    for line in introduction(setup, {"train": inputs[0]} | splits, batches[0]):
        log.message(line)
    log.message(_lineup(seeds, rates, filling, setup.mesh))

    scorer = Scorer(setup, splits)
    streams = [
        TaskStream(own, dealt, setup.batch_format)
        for own, dealt in zip(inputs, batches, strict=True)
    ]
    side_by_side = SideBySide(streams)
    # Runs are seed by seed; those that fill up are copies of the first.
    batch_of = np.append(np.repeat(np.arange(len(seeds)), len(rates)), np.zeros(filling, np.int64))
    local_batches = load_batches(
        lambda numbers: side_by_side.batch(int(numbers[0])),
        batches=steps,
        batch_size=1,
        host_rows=np.arange(1),
    )
    global_batches = (sharding.runs_batch(batch, batch_of, setup.mesh) for batch in local_batches)

    def rows_of(step: int) -> str:
        epoch, batch = divmod(step - 1, per_epoch)
        return f"batch {batch} of epoch {epoch}, counted from 0"

    flops = finetuning_flops(setup.encoder, config.data.length, config.encoder_mode)
    watch = LossWatch(rows_of, resumed=False)
    highest = np.asarray(tabulate(task_optimizer(config, steps)[1], steps).learning_rate)
    reports = StepReports(log, config.log_steps, highest, lambda step: flops, watch)
    skipped: list[jax.Array] = []  # of the steps since an evaluation, [runs] each

    def train_step(state: TrainState, batch: Batch, runs: Runs) -> tuple[TrainState, Any]:
        state, totals = compiled.train_step(state, batch, runs)
        skipped.append(totals["skipped"].sum)
        return state, totals

    metric, step = f"dev_{setup.metric}", 0
    profile = profiled(lambda _: train_step, config.profile, workdir / "profile")
    with stop_request() as stop, jax.transfer_guard("disallow"), profile as profiled_step_of:
        trained = run_steps(
            profiled_step_of, state, global_batches, runs, steps=steps, reports=reports, stop=stop
        )
        for step, state, _ in trained:
            if step == 1:
                log.started(setup.clock, state)
            if not ends_evaluated_epoch(config, step, per_epoch):
                continue
            with reports.paused("evaluation"):
                scored = scorer.of_runs(compiled.outputs_step, state.params, len(found))
                counts = np.sum(jax.device_get(skipped), axis=0)[: len(found)]
                skipped.clear()
                for run, (scores, outputs), count in zip(found, scored, counts, strict=True):
                    if not run.progress.is_over(config.patience):
                        run.add(step // per_epoch, scores, outputs, metric)
                        run.skipped_steps += int(count)
                values = [scores[metric] for scores, _ in scored]
                log.write(step, {metric: values})  # in the order of the summary's runs
                means = np.reshape(values, (len(seeds), len(rates))).mean(axis=0)
                told = ", ".join(f"{m:.4g} with {r:g}" for m, r in zip(means, rates, strict=True))
                log.message(f"epoch {step // per_epoch}: mean {metric} {told}")
            if all(run.progress.is_over(config.patience) for run in found):
                log.message(f"stopping: no better {setup.metric} in {config.patience} evaluations")
                break
    reports.close()
    log.close()
    if step < steps and not all(run.progress.is_over(config.patience) for run in found):
        raise Stopped(f"stopped at step {step:,}, and kept nothing: it begins anew next time")
    summary = summarise(found, setup)
    write_atomically(workdir / PREDICTIONS_FILE, _predictions(found))
    write_atomically(workdir / SUMMARY_FILE, json.dumps(summary, indent=1).encode())
    return summary


def _lineup(seeds: range, rates: list[float], filling: int, mesh: Mesh) -> str:
    """Says how many runs there are, and where."""
    count, devices = len(seeds) * len(rates), mesh.size
    filled = f"; {filling} more fill the last devices" if filling else ""
    return f"{count} runs at once, {(count + filling) // devices} on each device{filled}"


def summarise(found: Sequence[RunScores], setup: FinetuningSetup) -> dict[str, Any]:
    """Returns the summary of finished runs, ready for JSON."""
    metric = f"dev_{setup.metric}"
    best = {(run.seed, run.learning_rate): run.best[metric] for run in found}
    rates = list(dict.fromkeys(run.learning_rate for run in found))
    return {
        "metric": metric,
        "floor": setup.floor,
        "rates": [
            {"learning_rate": rate}
            | spread([score for (_, other), score in best.items() if other == rate], setup.floor)
            for rate in rates
        ],
        "runs": [
            {
                "seed": run.seed,
                "learning_rate": run.learning_rate,
                "score": best[run.seed, run.learning_rate],
                "best_epoch": run.best["epoch"],
                "skipped_steps": run.skipped_steps,
                "epochs": run.epochs,
            }
            for run in found
        ],
        "labels": setup.task.labels,
        **setup.identity(),
    }


def _predictions(found: Sequence[RunScores]) -> bytes:
    """Returns the content of predictions.npz."""
    whole = found[0].outputs[0].ndim == 1
    join = np.stack if whole else np.concatenate
    file = io.BytesIO()
    np.savez_compressed(
        file,
        outputs=np.stack([join(run.outputs) for run in found]),
        seeds=np.array([run.seed for run in found]),
        learning_rates=np.array([run.learning_rate for run in found]),
    )
    return file.getvalue()


def summary_lines(summary: dict[str, Any]) -> Iterator[str]:
    """Yields a row for each seed and a column for each rate; then the spreads."""
    rates = summary["rates"]
    yield _line(summary["metric"], [f"{each['learning_rate']:g}" for each in rates])
    seeds = dict.fromkeys(run["seed"] for run in summary["runs"])
    for seed in seeds:
        scores = [f"{run['score']:.4f}" for run in summary["runs"] if run["seed"] == seed]
        yield _line(f"seed {seed}", scores)
    yield _line("mean", [f"{each['mean']:.4f}" for each in rates])
    if len(seeds) > 1:
        yield _line("deviation", [f"{each['standard_deviation']:.4f}" for each in rates])
    yield _line("failed", [f"{each['failed']}" for each in rates])
    for run in summary["runs"]:
        if run["skipped_steps"]:
            yield (
                f"seed {run['seed']} with {run['learning_rate']:g} skipped"
                f" {run['skipped_steps']:,} steps, whose loss or gradient was no number"
            )
    best = max(summary["runs"], key=lambda run: run["score"])
    yield (
        f"`bert_jax.finetune` makes a checkpoint of the best by --config.seed={best['seed']}"
        f" --config.optimizer.learning_rate={best['learning_rate']}"
    )


def _line(name: str, values: Sequence[str]) -> str:
    return f"{name:20}" + "".join(f"{value:>10}" for value in values)


def sweep(
    config: FinetuneConfig,
    learning_rates: str,
    checkpoint: str | os.PathLike[str],
    workdir: pathlib.Path,
    *,
    launch: Launch = Launch(),
) -> dict[str, Any]:
    """Trains all runs of a sweep, or reads a finished one, and prints its scores.

    Args:
      config: of the runs, validated.
      learning_rates: as in `sweep_config`.
      checkpoint: to start from: a run of either kind, or one of its steps.
      workdir: of the sweep; may not exist yet.
      launch: of this process, which must be alone.

    Returns:
      The summary, as in WORKDIR/summary.json.

    Raises:
      UserError: for what does not suit, before the first step.
      Stopped: if the user asked for it; nothing is kept.
    """
    clock = StartClock()
    clock.mark("imports")
    resolved = sweep_config(config, learning_rates)
    refuse_several(launch, "a sweep")
    mesh = sharding.make_runs_mesh(resolved.mesh)
    setup = FinetuningSetup(resolved, find_checkpoint(checkpoint), mesh, clock)
    clock.mark("data")
    check_workdir(workdir, resolved)
    if (finished := workdir / SUMMARY_FILE).exists():
        summary = json.loads(finished.read_text())
        check_same_task(setup, workdir, summary)
        print(f"{workdir} is finished")
    else:
        summary = train_runs(setup, resolved, workdir)
    for line in summary_lines(summary):
        print(line)
    return summary
