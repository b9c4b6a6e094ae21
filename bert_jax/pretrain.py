"""Pretrains an encoder with the masked language model and next sentence prediction.

    python -m bert_jax.pretrain --config=configs/pretrain_base.py \
        --config.data.corpus=data/wiki --workdir=runs/base

Where the parameters come from, in this order:
1. A checkpoint in --workdir: the run goes on where it was, exactly.
2. --init=CHECKPOINT: its parameters, a fresh optimizer, step 0 (continued pretraining).
3. Random values, from --config.seed.
"""

import dataclasses
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
    to_dict,
)
from bert_jax.data.corpus import corpus_fingerprint, open_corpus, read_manifest
from bert_jax.data.loader import load_batches
from bert_jax.data.pretraining import check_corpus
from bert_jax.data.rows import Cursor, RowStream, held_out_rows
from bert_jax.errors import UserError
from bert_jax.heads import PretrainingModel
from bert_jax.logs import RunLog, StepReports
from bert_jax.loop import run_steps
from bert_jax.losses import make_pretraining_loss
from bert_jax.masking import MaskVocabulary, mask_rate, mask_tokens
from bert_jax.model import Batch
from bert_jax.optimizer import learning_rate_schedule, make_optimizer
from bert_jax.tokenizer import Tokenizer, load_tokenizer
from bert_jax.training import (
    PrepareFn,
    TrainState,
    abstract_state,
    evaluate,
    init_params,
    init_state,
    make_eval_step,
    make_train_step,
    run_key,
)
from bert_jax.workdir import check_workdir, claim_workdir

_CONFIG = config_flags.DEFINE_config_file("config", None, "a recipe that returns a PretrainConfig")
_WORKDIR = flags.DEFINE_string("workdir", None, "the directory of the run")
_INIT = flags.DEFINE_string("init", "", "a pretraining checkpoint whose parameters to start from")


def corpus_tokenizer(directory: str) -> Tokenizer:
    """Loads the tokenizer of a corpus.

    Raises:
      UserError: if it is not the one that the corpus was tokenised with.
    """
    manifest = read_manifest(directory)
    tokenizer = load_tokenizer(pathlib.Path(directory) / "tokenizer")
    if tokenizer.fingerprint != manifest["tokenizer"]["fingerprint"]:
        raise UserError(
            f"{directory}/tokenizer is not the tokenizer that {directory} was prepared with"
            f" ({tokenizer.fingerprint[:12]}, not {manifest['tokenizer']['fingerprint'][:12]}):"
            " prepare the corpus again"
        )
    return tokenizer


def resolve_vocabulary(config: PretrainConfig, tokenizer: Tokenizer) -> None:
    """Fills in the vocabulary size, or checks the one that was given."""
    if config.encoder.vocab_size == 0:
        config.encoder.vocab_size = tokenizer.vocab_size
    elif config.encoder.vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"--config.encoder.vocab_size={config.encoder.vocab_size} is less than the tokenizer's"
            f" {tokenizer.vocab_size}: leave it 0 to take the tokenizer's"
        )


def masking(config: MaskingConfig, steps: int, tokenizer: Tokenizer) -> PrepareFn:
    """Binds the corruption to a tokenizer, and its rate to a run of so many steps.

    Raises:
      UserError: if words are to be chosen and the tokenizer does not tell them.
    """
    by_word = config.strategy in (MaskStrategy.WHOLE_WORDS, MaskStrategy.SPANS)
    size = tokenizer.vocab_size
    vocabulary = MaskVocabulary(
        special_ids=dataclasses.astuple(tokenizer.special),
        mask_id=tokenizer.special.mask,
        vocab_size=size,
        word_starts=tokenizer.word_starts() if by_word else np.ones(size, bool),
    )

    def prepare(batch: Batch, key: jax.Array, step: jax.Array | int) -> Batch:
        rate = mask_rate(config, step, steps)
        return mask_tokens(batch, key, rate, config, vocabulary=vocabulary)

    return prepare


def held_out_masking(encoder: EncoderConfig, tokenizer: Tokenizer) -> PrepareFn:
    """Returns the masking that makes held-out losses of all runs comparable: the published one."""
    strategy = MaskStrategy.NEXT_TOKEN if encoder.causal else MaskStrategy.TOKENS
    return masking(MaskingConfig(strategy=strategy), 1, tokenizer)


def start(
    config: PretrainConfig,
    workdir: pathlib.Path,
    init: str,
    tokenizer: Tokenizer,
    seed_state: tuple[Any, Any, TrainState],
) -> tuple[TrainState, Cursor, str]:
    """Resumes, transfers or begins, in this order.

    Args:
      config: of the run.
      workdir: of the run.
      init: the checkpoint to transfer from, or ''.
      tokenizer: of the corpus.
      seed_state: model, optimizer and abstract state.

    Returns:
      The state, the place in the data, and a line that says where they are from.
    """
    model, tx, abstract = seed_state
    if steps := steps_in(workdir):
        checkpoint = workdir / FOLDER / str(steps[-1])
        facts = read_facts(checkpoint)
        _same_tokenizer(facts, tokenizer, checkpoint)
        if facts["corpus"] != corpus_fingerprint(config.data.corpus):
            raise UserError(
                f"{config.data.corpus} is not the corpus that {workdir} began with: prepare that"
                " one again, or name another --workdir"
            )
        state = restore_state(checkpoint, abstract)
        return state, Cursor(*facts["cursor"]), f"resuming at step {steps[-1]:,} from {checkpoint}"
    if init:
        checkpoint = find_checkpoint(init)
        facts = read_facts(checkpoint)
        _same_tokenizer(facts, tokenizer, checkpoint)
        if facts["kind"] != "pretraining":
            raise UserError(
                f"--init={init} is a {facts['kind']} checkpoint: name a pretraining one"
            )
        params = restore_groups(checkpoint, abstract.params, abstract.params)
        said = f"continuing from the parameters of {checkpoint}, with a fresh optimizer at step 0"
    else:
        params = init_params(model, config.seed, abstract.params)
        said = f"starting from random parameters (seed {config.seed})"
    return init_state(params, tx, abstract), Cursor(0, 0, 0), said


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

    # Data, and what it decides.
    tokenizer = corpus_tokenizer(config.data.corpus)
    resolve_vocabulary(config, tokenizer)
    mask_fn = masking(config.masking, config.steps, tokenizer)
    corpus = open_corpus(config.data.corpus, "train")
    check_corpus(corpus, f"{config.data.corpus} (train)")
    heldout = open_corpus(config.data.corpus, "heldout")
    if config.eval_steps:
        check_corpus(heldout, f"{config.data.corpus} (heldout)")

    # Devices, model and optimizer.
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch_size(config.batch_size, mesh)
    sharding.check_encoder(config.encoder, mesh)
    check_workdir(workdir, config)
    model = PretrainingModel(config.encoder)
    tx = make_optimizer(config.optimizer, config.steps)
    abstract = abstract_state(model, tx, mesh)

    # Parameters: resumed, transferred or fresh.
    state, cursor, said = start(config, workdir, _INIT.value, tokenizer, (model, tx, abstract))
    first_step = int(state.step)
    if first_step >= config.steps:
        print(f"{workdir} is finished: {first_step:,} steps")
        return
    claim_workdir(workdir, config)
    tokenizer.save(workdir / "tokenizer")  # for `prepare` of other corpora; checkpoints have theirs
    log = RunLog(workdir, first_step=first_step, steps=config.steps)
    log.say(said)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    log.say(f"{parameters:,} parameters on {sharding.describe(mesh)}")
    log.say(f"{corpus.tokens:,} tokens in {corpus.documents:,} documents")

    loss_fn = make_pretraining_loss(model)
    train_step = make_train_step(loss_fn, mask_fn, tx, abstract)
    # Held-out losses of all runs are comparable: the published rates, and a key of their own.
    eval_step = make_eval_step(loss_fn, held_out_masking(config.encoder, tokenizer))
    stream = RowStream(corpus, config.data, tokenizer.special, seed=config.seed, start=cursor)
    log.say(f"first block: {stream.first_plan().describe(config.data.length)}")
    rows = sharding.host_rows(config.batch_size, mesh)
    local_batches = load_batches(
        stream.rows,
        batches=config.steps - first_step,
        batch_size=config.batch_size,
        host_rows=rows,
    )
    batches = (
        sharding.global_batch(batch, rows, config.batch_size, mesh) for batch in local_batches
    )
    checkpoints = Checkpoints(workdir, keep=config.keep_checkpoints)
    facts = {
        "kind": "pretraining",
        "config": to_dict(config),
        "encoder": to_dict(config.encoder),
        "tokenizer": tokenizer.to_dict() | {"fingerprint": tokenizer.fingerprint},
        "corpus": corpus_fingerprint(config.data.corpus),
    }

    def save(step: int, state: TrainState) -> None:
        place = stream.cursor((step - first_step) * config.batch_size)
        checkpoints.save(state, facts | {"cursor": list(place)})

    held = {}
    if config.eval_steps:
        wanted = config.eval_batches * config.batch_size
        held = held_out_rows(heldout, config.data, tokenizer.special, wanted)

    def evaluate_heldout(step: int, state: TrainState) -> None:
        parts = sharding.global_batches(held, config.batch_size, mesh)
        means = evaluate(eval_step, state.params, parts, eval_key)
        log.write(step, {f"heldout_{name}": value for name, value in means.items()})
        log.say(
            f"step {step:,} held out: mlm_loss {means['mlm_loss']:.4f}"
            f" mlm_accuracy {means['mlm_accuracy']:.4f} nsp_loss {means['nsp_loss']:.4f}"
            f" nsp_accuracy {means['nsp_accuracy']:.4f}"
        )

    rate = learning_rate_schedule(config.optimizer, config.steps)
    key, eval_key = run_key(config.seed), run_key(0)
    reports = StepReports(log, config.log_steps, rate)
    step = first_step
    with cli.StopRequest() as stop, jax.transfer_guard("disallow"):
        trained = run_steps(
            train_step, state, batches, key, steps=config.steps, reports=reports, stop=stop
        )
        for step, state, last in trained:
            if config.eval_steps and (step % config.eval_steps == 0 or step == config.steps):
                with reports.paused():
                    evaluate_heldout(step, state)
            if step % config.checkpoint_steps == 0 or last:
                with reports.paused():
                    save(step, state)
        checkpoints.close()
    log.close()
    if step < config.steps:
        raise cli.Stopped(
            f"stopped at step {step:,} and saved: the same command goes on from there", stop.signal
        )
    print(f"finished {config.steps:,} steps: {workdir}/{FOLDER}/{config.steps}")


if __name__ == "__main__":
    cli.run(main, config_type=PretrainConfig)
