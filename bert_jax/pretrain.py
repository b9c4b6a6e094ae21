"""Pretrains an encoder with the masked language model and next sentence prediction.

    python -m bert_jax.pretrain --config=configs/pretrain_base.py \
        --config.data.corpus=data/wiki --workdir=runs/base

Where the parameters come from, in this order:
1. A checkpoint in --workdir: the run goes on where it was, exactly.
2. --init=CHECKPOINT: its parameters, a fresh optimizer, step 0 (continued pretraining).
3. Random values, from --config.seed.
"""

import functools
import pathlib
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
    read_facts,
    restore_groups,
    restore_state,
    steps_in,
)
from bert_jax.config import (
    EncoderConfig,
    MaskingConfig,
    MaskStrategy,
    PretrainConfig,
    flatten,
    to_dict,
)
from bert_jax.data.corpora import Corpora, open_corpora
from bert_jax.data.feed import Cursor, Feed, PhaseRows
from bert_jax.errors import UserError
from bert_jax.logs import StepReports, open_log
from bert_jax.loop import run_steps
from bert_jax.phases import Phase, resolve_phases
from bert_jax.processes import check_agreed, first_alone, join, stop_request
from bert_jax.programs import (
    Compiled,
    mask_vocabulary,
    masking,
    pretraining_step,
    resolve_vocabulary,
)
from bert_jax.tokenizer import Tokenizer
from bert_jax.training import (
    PrepareFn,
    TrainState,
    evaluate,
    init_params,
    init_state,
    make_eval_step,
    run_key_on,
)
from bert_jax.workdir import check_workdir, claim_workdir

_CONFIG = config_flags.DEFINE_config_file("config", None, "a recipe that returns a PretrainConfig")
_WORKDIR = flags.DEFINE_string("workdir", None, "the directory of the run")
_INIT = flags.DEFINE_string("init", "", "a pretraining checkpoint whose parameters to start from")


def held_out_masking(encoder: EncoderConfig, tokenizer: Tokenizer) -> PrepareFn:
    """Returns the masking that makes held-out losses of all runs comparable: the published one."""
    strategy = MaskStrategy.NEXT_TOKEN if encoder.causal else MaskStrategy.TOKENS
    config = MaskingConfig(strategy=strategy)
    return masking(config, 1, mask_vocabulary(config, tokenizer))


def start(
    config: PretrainConfig,
    workdir: pathlib.Path,
    init: str,
    corpora: Corpora,
    compiled: Compiled,
) -> tuple[TrainState, Cursor, str]:
    """Resumes, transfers or begins, in this order.

    Args:
      config: of the run.
      workdir: of the run.
      init: the checkpoint to transfer from, or ''.
      corpora: of the run.
      compiled: the step of the run and what it was made of.

    Returns:
      The state, the place in the data, and a line that says where they are from.
    """
    abstract = compiled.abstract
    if steps := steps_in(workdir):
        checkpoint = workdir / FOLDER / str(steps[-1])
        facts = read_facts(checkpoint)
        _same_tokenizer(facts, corpora.tokenizer, checkpoint)
        if facts["corpus"] != corpora.fingerprint:
            raise UserError(
                f"{config.data.corpus} is not the corpus that {workdir} began with: prepare that"
                " one again, or name another --workdir"
            )
        state = restore_state(checkpoint, abstract)
        cursor = Cursor.from_json(facts["cursor"])
        return state, cursor, f"resuming at step {steps[-1]:,} from {checkpoint}"
    if init:
        checkpoint = find_checkpoint(init)
        facts = read_facts(checkpoint)
        _same_tokenizer(facts, corpora.tokenizer, checkpoint)
        if facts["kind"] != "pretraining":
            raise UserError(
                f"--init={init} is a {facts['kind']} checkpoint: name a pretraining one"
            )
        params = restore_groups(checkpoint, abstract.params, abstract.params)
        said = f"continuing from the parameters of {checkpoint}, with a fresh optimizer at step 0"
    else:
        params = init_params(compiled.model, config.seed, abstract.params)
        said = f"starting from random parameters (seed {config.seed})"
    return init_state(params, compiled.tx, abstract), Cursor.at_start(0, len(corpora.train)), said


def _same_tokenizer(facts: dict[str, Any], tokenizer: Tokenizer, checkpoint: pathlib.Path) -> None:
    if facts["tokenizer"]["fingerprint"] != tokenizer.fingerprint:
        raise UserError(
            f"{checkpoint} and the corpus have different tokenizers: prepare the corpus with"
            f" --tokenizer={checkpoint.parent.parent}/tokenizer, or start from random parameters"
        )


def main() -> None:
    """Checks everything, then trains."""
    config = cli.checked_config(_CONFIG.value, PretrainConfig)
    workdir = pathlib.Path(cli.require("workdir", _WORKDIR.value, "runs/base"))
    join(config.hosts, dict(flatten(config)) | {"workdir": str(workdir), "init": _INIT.value})

    # Data, and what it decides.
    phases = resolve_phases(config)
    corpora = open_corpora(config.data, evaluated=config.eval_steps > 0)
    tokenizer = corpora.tokenizer
    resolve_vocabulary(config, tokenizer)
    vocabulary = mask_vocabulary(config.masking, tokenizer)

    # Devices, model and optimizer.
    mesh = sharding.make_mesh(config.mesh)
    for phase in phases:
        sharding.check_batch_size(phase.batch_size, mesh, config.micro_batches)
    sharding.check_encoder(config.encoder, mesh)
    check_workdir(workdir, config)
    compiled = pretraining_step(config, vocabulary, mesh)

    # Parameters: resumed, transferred or fresh.
    state, cursor, said = start(config, workdir, _INIT.value, corpora, compiled)
    first_step = int(state.step)
    if first_step >= config.steps:
        print(f"{workdir} is finished: {first_step:,} steps")
        return
    check_agreed("a run at step", first_step, "keep --workdir where all hosts see it")

    def claim() -> None:
        claim_workdir(workdir, config)
        tokenizer.save(workdir / "tokenizer")  # for `prepare` of other corpora

    first_alone(claim)
    log = open_log(workdir, first_step=first_step, steps=config.steps)
    log.say(said)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    log.say(f"{parameters:,} parameters on {sharding.describe(mesh)}")
    for line in (*corpora.copied, corpora.describe()):
        log.say(line)

    # Held-out losses of all runs are comparable: the published rates, and a key of their own.
    eval_step = make_eval_step(compiled.loss, held_out_masking(config.encoder, tokenizer))

    def open_rows(phase: Phase, cursor: Cursor) -> PhaseRows:
        rows = PhaseRows(
            corpora.train,
            corpora.weights,
            phase,
            tokenizer.special,
            seed=config.seed,
            pool_last=config.encoder.causal,
            start=cursor,
        )
        for name, stream in zip(corpora.weights, rows.streams, strict=True):
            plan = stream.first_plan().describe(phase.data.length)
            log.say(f"phase {phase.number + 1} of {len(phases)}, first block of {name}: {plan}")
        return rows

    host_rows = functools.partial(sharding.host_rows, mesh=mesh)
    feed = Feed(phases, open_rows, host_rows, first_step=first_step, cursor=cursor)
    batches = (
        sharding.global_batch(batch, host_rows(phase.batch_size), phase.batch_size, mesh)
        for phase, batch in feed
    )
    checkpoints = Checkpoints(workdir, keep=config.keep_checkpoints)
    facts = {
        "kind": "pretraining",
        "config": to_dict(config),
        "encoder": to_dict(config.encoder),
        "tokenizer": tokenizer.to_dict() | {"fingerprint": tokenizer.fingerprint},
        "corpus": corpora.fingerprint,
    }

    @functools.cache
    def held_out(phase: int) -> dict[str, np.ndarray]:
        rows = config.eval_batches * phases[phase].batch_size
        return corpora.held_out(phases[phase].data, rows, pool_last=config.encoder.causal)

    def evaluate_heldout(step: int, state: TrainState) -> None:
        phase = next(phase for phase in phases if step <= phase.end_step)
        parts = sharding.global_batches(held_out(phase.number), phase.batch_size, mesh)
        means = evaluate(eval_step, state.params, parts, eval_key)
        log.write(step, {f"heldout_{name}": value for name, value in means.items()})
        # The loss before the accuracy; compiled steps return their totals by name.
        shown = sorted(means, key=lambda name: (name.partition("_")[0], "loss" not in name))
        said = (f"{name} {means[name]:.4f}" for name in shown if "share" not in name)
        log.say(f"step {step:,} held out: {' '.join(said)}")

    key, eval_key = run_key_on(mesh, config.seed), run_key_on(mesh, 0)
    reports = StepReports(log, config.log_steps, compiled.learning_rate, config.max_skipped_steps)
    step = first_step
    with stop_request() as stop, jax.transfer_guard("disallow"):
        trained = run_steps(
            compiled.train_step, state, batches, key, steps=config.steps, reports=reports, stop=stop
        )
        for step, state, last in trained:
            if config.eval_steps and (step % config.eval_steps == 0 or step == config.steps):
                with reports.paused():
                    evaluate_heldout(step, state)
            if step % config.checkpoint_steps == 0 or last:
                with reports.paused():
                    checkpoints.save(state, facts | {"cursor": feed.cursor(step)})
        checkpoints.close()
    log.close()
    if step < config.steps:
        raise cli.Stopped(
            f"stopped at step {step:,} and saved: the same command goes on from there"
        )
    print(f"finished {config.steps:,} steps: {workdir}/{FOLDER}/{config.steps}")


if __name__ == "__main__":
    cli.run(main, config_type=PretrainConfig)
