"""Fine-tunes a checkpoint on a labelled task: the encoder is transferred, the head is swapped.

    python -m bert_jax.finetune --config=configs/finetune_text.py --checkpoint=runs/base \
        --config.data.train=train.tsv --config.data.dev=dev.tsv --workdir=runs/task

A run that is started again in its directory goes on where it was.
"""

import dataclasses
import functools
import hashlib
import json
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
    groups_in,
    read_facts,
    restore_groups,
    restore_state,
    steps_in,
)
from bert_jax.config import (
    EncoderConfig,
    FinetuneConfig,
    OptimizerConfig,
    check_task_length,
    from_dict,
    to_dict,
)
from bert_jax.data.loader import load_batches
from bert_jax.data.tasks import (
    EncodedTask,
    TaskStream,
    encode_examples,
    label_names,
    make_task_rows,
    read_examples,
)
from bert_jax.errors import UserError
from bert_jax.heads import ClassificationModel
from bert_jax.logs import RunLog, StepReports
from bert_jax.loop import run_steps
from bert_jax.losses import Params, make_classification_loss, without_gradients
from bert_jax.optimizer import learning_rate_schedule, make_optimizer
from bert_jax.tokenizer import Tokenizer, tokenizer_from_dict
from bert_jax.training import (
    abstract_state,
    evaluate,
    init_params,
    init_state,
    make_eval_step,
    make_train_step,
    run_key,
)
from bert_jax.workdir import check_workdir, claim_workdir

TRANSFERRED = ("encoder", "pooler")  # the groups that every model has, where they were trained

_CONFIG = config_flags.DEFINE_config_file("config", None, "a recipe that returns a FinetuneConfig")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "the pretraining run to start from")
_WORKDIR = flags.DEFINE_string("workdir", None, "the directory of this run")


@dataclasses.dataclass(frozen=True)
class Task:
    """A labelled task, read and tokenised."""

    labels: list[str]
    train: EncodedTask
    dev: EncodedTask

    def fingerprint(self) -> str:
        """Returns a digest of every token and label."""
        digest = hashlib.blake2b(json.dumps(self.labels).encode(), digest_size=16)
        for part in (self.train, self.dev):
            for values in (*part.a, *part.b, part.labels):
                digest.update(len(values).to_bytes(8) + values.tobytes())
        return digest.hexdigest()


def read_task(config: FinetuneConfig, tokenizer: Tokenizer) -> Task:
    """Reads both files of the task.

    Raises:
      UserError: for what is wrong with them.
    """
    train, dev = (read_examples(path, config.data) for path in (config.data.train, config.data.dev))
    labels = label_names(train, dev)
    encode = functools.partial(
        encode_examples, names=labels, tokenizer=tokenizer, length=config.data.length
    )
    return Task(labels, encode(train), encode(dev))


def read_encoder(facts: dict[str, Any], config: FinetuneConfig) -> EncoderConfig:
    """Returns the encoder that a checkpoint holds, with this run's dropout."""
    encoder = from_dict(EncoderConfig, facts["encoder"])
    check_task_length(config.data.length, encoder)
    return dataclasses.replace(
        encoder, dropout_rate=config.dropout_rate, attention_dropout_rate=config.dropout_rate
    )


def with_warmup(config: FinetuneConfig, steps: int) -> OptimizerConfig:
    """Resolves `warmup_share` where no number of steps was given."""
    warmup = config.optimizer.warmup_steps or round(config.warmup_share * steps)
    return dataclasses.replace(config.optimizer, warmup_steps=min(warmup, steps - 1))


def parameter_table(params: Params, transferred: Params, frozen: frozenset[str]) -> str:
    """Says of each group where it is from, whether it is trained, and how large it is."""
    lines = [f"{'group':12}{'parameters':>14}  {'values':12}training"]
    for group, tree in params.items():
        count = sum(leaf.size for leaf in jax.tree.leaves(tree))
        values = "transferred" if group in transferred else "fresh"
        lines.append(
            f"{group:12}{count:>14,}  {values:12}{'frozen' if group in frozen else 'trained'}"
        )
    return "\n".join(lines)


def main() -> None:
    """Checks everything, then trains, keeping the best epoch."""
    config = cli.checked_config(_CONFIG.value, FinetuneConfig)
    checkpoint = find_checkpoint(cli.require("checkpoint", _CHECKPOINT.value, "runs/base"))
    workdir = pathlib.Path(cli.require("workdir", _WORKDIR.value, "runs/task"))

    # What the checkpoint brings, and the task.
    source = read_facts(checkpoint)
    tokenizer = tokenizer_from_dict(source["tokenizer"])
    encoder = read_encoder(source, config)
    task = read_task(config, tokenizer)

    # Devices, model and optimizer.
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch_size(config.batch_size, mesh)
    sharding.check_encoder(encoder, mesh)
    check_workdir(workdir, config)
    stream = TaskStream(
        task.train,
        config.data.length,
        tokenizer.special,
        pool_last=encoder.causal,
        seed=config.seed,
        batch_size=config.batch_size,
    )
    steps = config.epochs * stream.batches_per_epoch
    model = ClassificationModel(encoder, len(task.labels))
    frozen = frozenset({"encoder"} if config.freeze_encoder else ())
    optimizer = with_warmup(config, steps)
    tx = make_optimizer(optimizer, steps, frozen=frozen)
    abstract = abstract_state(model, tx, mesh)

    # Parameters: resumed, or the transferred groups over fresh ones.
    if done := steps_in(workdir):
        resumed = workdir / FOLDER / str(done[-1])
        if read_facts(resumed)["task"] != task.fingerprint():
            raise UserError(
                f"{workdir} began with other examples or another tokenizer: give the same"
                " --checkpoint, data.train and data.dev, or name another --workdir"
            )
        state = restore_state(resumed, abstract)
        said = f"resuming at step {done[-1]:,} from {resumed}"
    else:
        stored = groups_in(checkpoint) if config.transfer else ()
        groups = [group for group in TRANSFERRED if group in stored]
        transferred = restore_groups(checkpoint, abstract.params, groups)
        params = init_params(model, config.seed, abstract.params) | transferred
        state = init_state(params, tx, abstract)
        said = f"from {checkpoint}:\n{parameter_table(params, transferred, frozen)}"
    first_step = int(state.step)
    if first_step >= steps:
        print(f"{workdir} is finished: {first_step:,} steps")
        return
    claim_workdir(workdir, config)
    log = RunLog(workdir, first_step=first_step, steps=steps)
    log.say(said)
    log.say(f"{sharding.describe(mesh)}; labels: {', '.join(task.labels)}")
    for name, part in (("train", task.train), ("dev", task.dev)):
        log.say(f"{name}: {len(part):,} examples, {part.truncated:,} cut to {config.data.length}")

    loss_fn = make_classification_loss(model)
    train_step = make_train_step(without_gradients(loss_fn, frozen), _as_it_is, tx, abstract)
    eval_step = make_eval_step(loss_fn, _as_it_is)
    rows = sharding.host_rows(config.batch_size, mesh)
    local_batches = load_batches(
        lambda numbers: stream.rows(numbers + first_step * config.batch_size),
        batches=steps - first_step,
        batch_size=config.batch_size,
        host_rows=rows,
    )
    batches = (
        sharding.global_batch(batch, rows, config.batch_size, mesh) for batch in local_batches
    )
    checkpoints = Checkpoints(workdir, keep=1, keep_best=True)
    facts = {
        "kind": "classification",
        "config": to_dict(config),
        "encoder": to_dict(encoder),
        "tokenizer": source["tokenizer"],
        "labels": task.labels,
        "task": task.fingerprint(),
        "pairs": bool(config.data.text_pair_column),
        "checkpoint": str(checkpoint),
    }

    # Every example is in exactly one row; the rows that fill the last batch weigh nothing.
    every = np.arange(len(task.dev))
    dev_rows = make_task_rows(
        task.dev, every, config.data.length, tokenizer.special, pool_last=encoder.causal
    )

    def evaluate_dev(step: int, params: Params) -> float:
        parts = sharding.global_batches(dev_rows, config.batch_size, mesh)
        means = evaluate(eval_step, params, parts, key)
        log.write(step, {f"dev_{name}": value for name, value in means.items()})
        epoch = step / stream.batches_per_epoch
        log.say(f"epoch {epoch:.2f}: dev loss {means['loss']:.4f} accuracy {means['accuracy']:.4f}")
        return means["accuracy"]

    key = run_key(config.seed)
    rate = learning_rate_schedule(optimizer, steps)
    reports = StepReports(log, config.log_steps, rate)
    step = first_step
    with cli.StopRequest() as stop, jax.transfer_guard("disallow"):
        trained = run_steps(
            train_step, state, batches, key, steps=steps, reports=reports, stop=stop
        )
        for step, state, last in trained:
            if step % stream.batches_per_epoch == 0 or last:
                with reports.paused():
                    checkpoints.save(state, facts, score=evaluate_dev(step, state.params))
        checkpoints.close()
    log.close()
    if step < steps:
        raise cli.Stopped(
            f"stopped at step {step:,} and saved: the same command goes on from there", stop.signal
        )
    print(f"finished {steps:,} steps; the best epoch is {find_checkpoint(workdir)}")


def _as_it_is(batch: Any, key: jax.Array) -> Any:
    del key
    return batch


if __name__ == "__main__":
    cli.run(main, config_type=FinetuneConfig)
