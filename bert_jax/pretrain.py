"""Pretrains an encoder with the masked language model and next sentence prediction.

    python -m bert_jax.pretrain --config=configs/pretrain_base.py \
        --config.data.corpus=data/wiki --workdir=runs/base

Where the parameters come from, in this order:
1. A checkpoint in --workdir: the run goes on where it was, exactly.
2. --init=CHECKPOINT: its parameters, a fresh optimizer, step 0 (continued pretraining).
3. Random values, from --config.seed.
"""

import functools
import itertools
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from bert_jax.checkpoints.checkpoint import (
    FOLDER,
    Checkpoints,
    find_checkpoint,
    newest_metadata,
    read_metadata,
    restore_groups,
    restore_newest,
    restore_state,
    steps_in,
)
from bert_jax.checkpoints.workdir import check_workdir, claim_workdir
from bert_jax.cli import app
from bert_jax.cli.flags import LaunchFlags, checked_config, config_flag, workdir_flag
from bert_jax.config import (
    EncoderConfig,
    MaskingConfig,
    MaskStrategy,
    PretrainConfig,
    flatten,
    to_dict,
)
from bert_jax.data.packing.layout import RowFormat
from bert_jax.data.pretraining.corpora import Corpora, open_corpora
from bert_jax.data.pretraining.feed import Cursor, Feed, PhaseRows
from bert_jax.data.pretraining.phases import Phase, phase_of, resolve_phases
from bert_jax.data.pretraining.rows import row_format
from bert_jax.distributed import sharding
from bert_jax.distributed.processes import (
    check_agreed,
    first_alone,
    join,
    keep_compiled,
    stop_request,
)
from bert_jax.errors import UserError
from bert_jax.model.encoder import Batch
from bert_jax.model.flops import pretraining_flops
from bert_jax.objectives.losses import Params
from bert_jax.objectives.masking import masked_slots
from bert_jax.runs.steps import (
    CompiledStep,
    make_mask_fn,
    mask_vocabulary,
    pretraining_step,
    resolve_vocabulary,
)
from bert_jax.stopping import Stopped
from bert_jax.text.tokenizer import Tokenizer
from bert_jax.training.debugging import check_ids, explain_step, profiled, watched
from bert_jax.training.logs import StartClock, StepReports, open_log
from bert_jax.training.loop import run_steps
from bert_jax.training.loss_watch import LossWatch
from bert_jax.training.state import TrainState, init_params, init_state, run_key_on
from bert_jax.training.step import PrepareFn, evaluate, make_eval_step

_CONFIG = config_flag(PretrainConfig)
_WORKDIR = workdir_flag()
_LAUNCH = LaunchFlags()
_REPLAY = flags.DEFINE_integer("replay", 0, "a step to run to and examine; nothing is written")
_INIT = flags.DEFINE_string("init", "", "a pretraining checkpoint whose parameters to start from")


def held_out_masking(encoder: EncoderConfig, tokenizer: Tokenizer) -> PrepareFn:
    """Returns the masking that makes held-out losses of all runs comparable: the published one."""
    strategy = MaskStrategy.NEXT_TOKEN if encoder.causal else MaskStrategy.TOKENS
    config = MaskingConfig(strategy=strategy)
    return make_mask_fn(config, 1, mask_vocabulary(config, tokenizer))


def resume(
    config: PretrainConfig, workdir: pathlib.Path, corpora: Corpora, compiled: CompiledStep
) -> tuple[TrainState, Cursor, list[str]]:
    """Goes on where the run in the directory was.

    Returns:
      The state, the place in the data, and lines that say where they are from.
    """
    state, metadata, said = restore_newest(workdir, compiled.abstract)
    checkpoint = workdir / FOLDER / str(metadata["step"])
    _same_tokenizer(metadata, corpora.tokenizer, checkpoint)
    if metadata["corpus"] != corpora.fingerprint:
        raise UserError(
            f"{config.data.corpus} is not the corpus that {workdir} began with: prepare that"
            " one again, or name another --workdir"
        )
    said.append(f"resuming at step {metadata['step']:,} from {checkpoint}")
    return state, Cursor.from_json(metadata["cursor"]), said


def begin(
    config: PretrainConfig, init: str, corpora: Corpora, compiled: CompiledStep
) -> tuple[TrainState, Cursor, list[str]]:
    """Transfers parameters or draws them.

    Args:
      config: of the run.
      init: the checkpoint to transfer from, or ''.
      corpora: of the run.
      compiled: the step of the run and what it was made of.

    Returns:
      As `resume`.
    """
    abstract = compiled.abstract
    if init:
        checkpoint = find_checkpoint(init)
        metadata = read_metadata(checkpoint)
        _same_tokenizer(metadata, corpora.tokenizer, checkpoint)
        if metadata["kind"] != "pretraining":
            raise UserError(
                f"--init={init} is a {metadata['kind']} checkpoint: name a pretraining one"
            )
        params = restore_groups(checkpoint, abstract.params, abstract.params)
        said = f"continuing from the parameters of {checkpoint}, with a fresh optimizer at step 0"
    else:
        params = init_params(compiled.model, config.seed, abstract.params)
        said = f"starting from random parameters (seed {config.seed})"
    state = init_state(params, compiled.tx, abstract)
    return state, Cursor.at_start(0, len(corpora.train)), [said]


def _same_tokenizer(
    metadata: dict[str, Any], tokenizer: Tokenizer, checkpoint: pathlib.Path
) -> None:
    if metadata["tokenizer"]["fingerprint"] != tokenizer.fingerprint:
        raise UserError(
            f"{checkpoint} and the corpus have different tokenizers: prepare the corpus with"
            f" --tokenizer={checkpoint.parent.parent}/tokenizer, or start from random parameters"
        )


class HeldOut:
    """The losses on the held-out split: of all runs comparable, by the published masking."""

    def __init__(self, setup: "Setup", config: PretrainConfig) -> None:
        """Compiles nothing yet, and reads no row."""
        self._corpora, self._phases, self._mesh = setup.corpora, setup.phases, setup.mesh
        self._batches, self._row_format = config.eval_batches, setup.row_format
        mask_fn = held_out_masking(config.encoder, setup.corpora.tokenizer)
        self._step = make_eval_step(setup.compiled.loss, mask_fn)
        self._key = run_key_on(setup.mesh, 0)  # the same for all runs
        self._rows = functools.cache(self._make_rows)

    def _make_rows(self, phase: int) -> dict[str, np.ndarray]:
        wanted = self._phases[phase]
        rows = self._batches * wanted.batch_size
        return self._corpora.held_out(wanted.data, self._row_format(wanted), rows)

    def __call__(self, step: int, params: Params) -> dict[str, float]:
        """Returns `mlm_loss`, `mlm_accuracy` and so on, with rows as the step's phase has them."""
        phase = phase_of(self._phases, step)
        parts = sharding.global_batches(self._rows(phase.number), phase.batch_size, self._mesh)
        return evaluate(self._step, params, parts, self._key)


class Setup:
    """What a run is made of: data, devices and the compiled step."""

    def __init__(self, config: PretrainConfig, clock: StartClock) -> None:
        """Opens the corpora and checks that everything goes together.

        Raises:
          UserError: for what does not, before anything is written.
        """
        self.config, self.phases = config, resolve_phases(config)
        self.corpora = open_corpora(config.data, evaluated=config.eval_steps > 0)
        tokenizer = self.corpora.tokenizer
        resolve_vocabulary(config, tokenizer)
        vocabulary = mask_vocabulary(config.masking, tokenizer)
        clock.mark("data")
        self.mesh = sharding.make_mesh(config.mesh)
        for phase in self.phases:
            sharding.check_batch_size(phase.batch_size, self.mesh, config.micro_batches)
        sharding.check_encoder(config.encoder, self.mesh)
        self.compiled = pretraining_step(config, vocabulary, self.mesh)
        self.host_rows = functools.partial(sharding.host_rows, mesh=self.mesh)

    def row_format(self, phase: Phase) -> RowFormat:
        """Returns the format of the rows of a phase."""
        special, pool_last = self.corpora.tokenizer.special, self.config.encoder.causal
        return row_format(phase.data, special, pool_last=pool_last)

    def feed(self, first_step: int, cursor: Cursor, say: Callable[[str], None]) -> Feed:
        """Returns this host's batches from a step on; `say` takes a line about each phase."""
        config, corpora = self.config, self.corpora

        def open_rows(phase: Phase, cursor: Cursor) -> PhaseRows:
            rows = PhaseRows(
                corpora.train,
                corpora.weights,
                phase,
                self.row_format(phase),
                seed=config.seed,
                start=cursor,
            )
            number = f"phase {phase.number + 1} of {len(self.phases)}"
            for name, stream in zip(corpora.weights, rows.streams, strict=True):
                plan = stream.first_plan().describe(phase.data.length)
                say(f"{number}, first block of {name}: {plan}")
            return rows

        return Feed(self.phases, open_rows, self.host_rows, first_step=first_step, cursor=cursor)

    def global_batches(self, feed: Feed) -> Iterator[Batch]:
        """Yields the feed's batches on the devices."""
        for phase, batch in feed:
            if self.config.debug:
                check_ids(batch, self.config.encoder)
            rows = self.host_rows(phase.batch_size)
            yield sharding.global_batch(batch, rows, phase.batch_size, self.mesh)

    def flops_of(self, step: int) -> float:
        """Returns the operations of the model for a real token of a step."""
        data = phase_of(self.phases, step).data
        slots = masked_slots(data.length, data.max_examples_per_row, self.config.masking)
        return pretraining_flops(self.config.encoder, data.length, slots)

    def metadata(self) -> dict[str, Any]:
        """Returns what every checkpoint of the run says about it."""
        config, tokenizer = self.config, self.corpora.tokenizer
        return {
            "kind": "pretraining",
            "config": to_dict(config),
            "encoder": to_dict(config.encoder),
            "tokenizer": tokenizer.to_dict() | {"fingerprint": tokenizer.fingerprint},
            "corpus": self.corpora.fingerprint,
        }


def replay(setup: Setup, workdir: pathlib.Path, init: str, last: int) -> None:
    """Runs to a step again, writing nothing, and looks for the first NaN inside that step."""
    checkpoint = max((step for step in steps_in(workdir) if step < last), default=0)
    compiled, corpora = setup.compiled, setup.corpora
    if checkpoint:
        place = workdir / FOLDER / str(checkpoint)
        state, metadata = restore_state(place, compiled.abstract), read_metadata(place)
        cursor = Cursor.from_json(metadata["cursor"])
    else:
        state, cursor, _ = begin(setup.config, init, corpora, compiled)
    print(f"from step {checkpoint:,} to {last:,}", file=sys.stderr)
    feed = setup.feed(checkpoint, cursor, lambda line: None)
    run = compiled.inputs(setup.config.seed)
    batches = itertools.islice(setup.global_batches(feed), last - checkpoint)
    for step, batch in enumerate(batches, start=checkpoint + 1):
        if step == last:
            said = explain_step(compiled.train_step, state, batch, run)
            print(f"step {step:,} ({feed.rows_of(step)}): {said}")
        else:
            state, _ = compiled.train_step(state, batch, run)


def main(_: Sequence[str]) -> None:
    """Checks everything, then trains."""
    clock = StartClock()
    clock.mark("imports")
    config = checked_config(_CONFIG.value, PretrainConfig)
    workdir = pathlib.Path(app.require("workdir", _WORKDIR.value, "runs/base"))
    if _REPLAY.value:
        config.debug = True
    facts = dict(flatten(config)) | {"workdir": str(workdir), "init": _INIT.value}
    join(_LAUNCH.value, config.hosts, facts)
    clock.mark("other processes")
    setup = Setup(config, clock)
    check_workdir(workdir, config)
    if _REPLAY.value:
        replay(setup, workdir, _INIT.value, _REPLAY.value)
        return

    # Parameters: resumed, transferred or fresh.
    compiled, corpora = setup.compiled, setup.corpora
    newest = newest_metadata(workdir).get("step", 0)
    check_agreed("a run at step", newest, "keep --workdir where all hosts see it")
    if newest >= config.steps:
        print(f"{workdir} is finished: {newest:,} steps")
        return
    claim = functools.partial(claim_workdir, workdir, config)
    if steps_in(workdir):
        first_alone(claim)
        state, cursor, said = resume(config, workdir, corpora, compiled)
    else:
        state, cursor, said = begin(config, _INIT.value, corpora, compiled)
        first_alone(claim)
        # For `prepare` of other corpora; checkpoints have theirs.
        first_alone(functools.partial(corpora.tokenizer.save, workdir / "tokenizer"))
    keep_compiled(workdir)
    first_step = int(state.step)
    clock.mark("parameters")

    log = open_log(workdir, first_step=first_step, steps=config.steps)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    said.append(f"{parameters:,} parameters on {sharding.describe(setup.mesh)}")
    for line in (*said, *corpora.copied, corpora.describe()):
        log.message(line)
    feed = setup.feed(first_step, cursor, log.message)
    train_step = compiled.train_step
    if config.debug:
        train_step = watched(train_step, feed.rows_of)
    watch = LossWatch(feed.rows_of)
    reports = StepReports(log, config.log_steps, compiled.learning_rate, setup.flops_of, watch)
    held_out = HeldOut(setup, config)
    checkpoints = Checkpoints(
        workdir, keep=config.keep_checkpoints, keep_every_steps=config.keep_every_steps
    )
    metadata, run = setup.metadata(), compiled.inputs(config.seed)
    step = first_step
    profile = profiled(train_step, first_step, config.profile, workdir / "profile")
    with stop_request() as stop, jax.transfer_guard("disallow"), profile as train_step:
        trained = run_steps(
            train_step,
            state,
            setup.global_batches(feed),
            run,
            steps=config.steps,
            reports=reports,
            stop=stop,
        )
        for step, state, last in trained:
            if step == first_step + 1:
                log.started(clock, state)
            if config.eval_steps and (step % config.eval_steps == 0 or step == config.steps):
                with reports.paused("evaluation"):
                    log.held_out(step, held_out(step, state.params))
            if step % config.checkpoint_steps == 0 or last:
                with reports.paused("checkpoint"):
                    checkpoints.save(state, metadata | {"cursor": feed.cursor(step)})
        checkpoints.close()
    log.close()
    if step < config.steps:
        raise Stopped(f"stopped at step {step:,} and saved: the same command goes on from there")
    print(f"finished {config.steps:,} steps: {workdir}/{FOLDER}/{config.steps}")


if __name__ == "__main__":
    app.run(main)
