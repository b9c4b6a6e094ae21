"""A pretraining run, from its config to its last checkpoint; `pretrain` reads top to bottom."""

import dataclasses
import functools
import itertools
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

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
from bert_jax.checkpoints.fingerprint import json_digest
from bert_jax.checkpoints.workdir import check_workdir, claim_workdir
from bert_jax.config import (
    DistillConfig,
    EncoderConfig,
    ExampleFormat,
    Launch,
    MaskingConfig,
    MaskStrategy,
    PretrainConfig,
    SentenceObjective,
    flatten,
    layer_numbers,
    to_dict,
)
from bert_jax.data.packing.layout import RowFormat
from bert_jax.data.pretraining.corpora import Corpora, open_corpora
from bert_jax.data.pretraining.feed import Cursor, Feed, PhaseRows
from bert_jax.data.pretraining.phases import Phase, phase_of, resolve_phases
from bert_jax.data.pretraining.rows import row_format
from bert_jax.distributed import sharding
from bert_jax.distributed.compiled import keep_compiled
from bert_jax.distributed.processes import (
    check_agreed,
    first_alone,
    join,
    stop_request,
)
from bert_jax.errors import UserError
from bert_jax.model.by_platform import describe_choices
from bert_jax.model.encoder import Batch
from bert_jax.objectives.losses import Params
from bert_jax.objectives.masking import MaskVocabulary
from bert_jax.runs.steps import (
    CompiledStep,
    describe_words,
    make_mask_fn,
    mask_vocabulary,
    model_flops,
    pretraining_steps,
    resolve_vocabulary,
)
from bert_jax.runs.teacher import Teacher, corpus_remedy, load_teacher, taken_over, trains_head
from bert_jax.stopping import Stopped
from bert_jax.text.tokenizer import Tokenizer
from bert_jax.training.debugging import check_ids, explain_step, profiled, watched
from bert_jax.training.logs import (
    LOG_FILE,
    STARTS_FILE,
    StartClock,
    StepReports,
    divide,
    open_log,
    read_log,
)
from bert_jax.training.loop import run_steps
from bert_jax.training.loss_watch import LossWatch
from bert_jax.training.parameter_rules import describe_rules
from bert_jax.training.state import (
    RunInputs,
    TrainState,
    init_params,
    init_state,
    run_key_on,
)
from bert_jax.training.step import UpdateFn, evaluate, make_eval_step


class Start(NamedTuple):
    """The state that a run begins or goes on with."""

    state: TrainState
    cursor: Cursor  # the position in the data
    messages: list[str]  # that say where both come from


def held_out_masking(encoder: EncoderConfig) -> MaskingConfig:
    """Returns the masking that makes held-out losses of all runs comparable: the published one."""
    return MaskingConfig(
        strategy=MaskStrategy.NEXT_TOKEN if encoder.causal else MaskStrategy.TOKENS
    )


def resume(
    config: PretrainConfig,
    workdir: pathlib.Path,
    corpora: Corpora,
    compiled: CompiledStep,
    teacher: Teacher | None = None,
) -> Start:
    """Restores the newest sound checkpoint of the run in a directory.

    Args:
      config: of the run.
      workdir: of the run.
      corpora: of the run.
      compiled: the step of the run and what it was made of.
      teacher: of the run, if it has one.

    Raises:
      UserError: if none is sound, or it began with another corpus, tokenizer or teacher.
    """
    state, metadata, messages = restore_newest(workdir, compiled.abstract)
    checkpoint = workdir / FOLDER / str(metadata["step"])
    _check_same_run(config, workdir, metadata, checkpoint, corpora, teacher)
    messages.append(f"resuming at step {metadata['step']:,} from {checkpoint}")
    return Start(state, Cursor.from_json(metadata["cursor"]), messages)


def _check_same_run(
    config: PretrainConfig,
    workdir: pathlib.Path,
    metadata: dict[str, Any],
    checkpoint: pathlib.Path,
    corpora: Corpora,
    teacher: Teacher | None,
) -> None:
    """Raises UserError unless a checkpoint is of this corpus, tokenizer and teacher."""
    _same_tokenizer(metadata, corpora.tokenizer, checkpoint)
    if metadata["corpus"] != corpora.fingerprint:
        raise UserError(
            f"{config.data.corpus} is not the corpus that {workdir} began with: prepare that"
            " one again, or name another --workdir"
        )
    if teacher and metadata["distillation"]["fingerprint"] != teacher.fingerprint:
        raise UserError(
            f"--teacher={teacher.checkpoint} is not the teacher that {workdir} began with,"
            f" {metadata['distillation']['teacher']}: name that one, or another --workdir"
        )


def begin(
    config: PretrainConfig,
    init: str,
    corpora: Corpora,
    compiled: CompiledStep,
    teacher: Teacher | None = None,
) -> Start:
    """Makes the state of step 0, with transferred or random parameters.

    Args:
      config: of the run.
      init: the checkpoint to transfer from, or ''.
      corpora: of the run.
      compiled: the step of the run and what it was made of.
      teacher: of a distilling run, whose layers the student may begin as.

    Raises:
      UserError: if that checkpoint has another tokenizer, or is no pretraining checkpoint.
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
        message = (
            f"continuing from the parameters of {checkpoint}, with a fresh optimizer at step 0"
        )
    else:
        params = init_params(compiled.model, config.seed, abstract.params)
        message = f"starting from random parameters (seed {config.seed})"
        if teacher and isinstance(config, DistillConfig) and config.student_layers:
            layers = layer_numbers("student_layers", config.student_layers)
            params = taken_over(params, teacher, layers)
            message = f"starting from the layers {config.student_layers} of {teacher.checkpoint}"
    state = init_state(params, compiled.tx, abstract)
    return Start(state, Cursor.at_start(0, len(corpora.train)), [message])


def origin(init: str) -> dict[str, str]:
    """Returns what tells the parameters of `--init` from others: '' each for random ones."""
    if not init:
        return {"init": "", "init_fingerprint": ""}
    checkpoint = find_checkpoint(init)
    fingerprint = json_digest(read_metadata(checkpoint)["fingerprints"]["params"])
    return {"init": str(checkpoint), "init_fingerprint": fingerprint}


def _check_origin(workdir: pathlib.Path, init: str) -> None:
    """Raises UserError if a run began with other parameters; one of an earlier version is silent.

    Args:
      workdir: of the run.
      init: as in `begin`.
    """
    path = workdir / STARTS_FILE
    starts = read_log(path) if path.is_file() else []
    told = [start for start in starts if not start["step"] and "init" in start]
    if not told or told[-1]["init_fingerprint"] == origin(init)["init_fingerprint"]:
        return
    began = told[-1]["init"]
    remedy = f"the parameters of {began}: give --init={began}"
    raise UserError(
        f"--init={init} is not what {workdir} began with,"
        f" {remedy if began else 'random parameters: leave it out'}"
    )


def _same_tokenizer(
    metadata: dict[str, Any], tokenizer: Tokenizer, checkpoint: pathlib.Path
) -> None:
    if metadata["tokenizer"]["fingerprint"] != tokenizer.fingerprint:
        raise UserError(
            f"{checkpoint} and the corpus have different tokenizers:"
            f" {corpus_remedy(checkpoint)}start from random parameters"
        )


def short_names(directories: Iterable[str]) -> dict[str, str]:
    """Returns directory -> its last part, or all of it where two have the same last part."""
    parts = {name: pathlib.PurePath(name).name for name in directories}
    return {
        name: part if list(parts.values()).count(part) == 1 else name
        for name, part in parts.items()
    }


class HeldOut:
    """Losses on the held-out split, by the published masking: comparable between runs.

    Runs that read their text in different formats are comparable with `eval_full_sentences`: rows
    and masks are then the same for all, and there is no sentence loss.
    """

    def __init__(self, setup: "PretrainingSetup", config: PretrainConfig) -> None:
        """Compiles nothing yet, and reads no row."""
        self._corpora, self._phases, self._mesh = setup.corpora, setup.phases, setup.mesh
        self._batches, self._row_format = config.eval_batches, setup.row_format
        self._full_sentences = config.eval_full_sentences
        masking = held_out_masking(config.encoder)
        mask_fn = make_mask_fn(masking, setup.mask_vocabulary(masking))
        # Phases that share their train step share this one.
        step_of = functools.cache(
            lambda loss: make_eval_step(loss, mask_fn, masking.rate, setup.mesh)
        )
        self._steps = [step_of(compiled.loss) for compiled in setup.compiled]
        self._key = run_key_on(setup.mesh, 0)  # the same for all runs
        self._teacher = setup.teacher.params if setup.teacher else None
        self._rows = functools.cache(self._make_rows)

    def _make_rows(self, phase: int) -> dict[str, dict[str, np.ndarray]]:
        wanted = self._phases[phase]
        rows = self._batches * wanted.batch_size
        row_format = dataclasses.replace(self._row_format(wanted), separate=True)
        data = wanted.data
        if self._full_sentences:
            form, objective = ExampleFormat.FULL_SENTENCES, SentenceObjective.NONE
            data = dataclasses.replace(data, format=form, objective=objective)
        return self._corpora.held_out(data, row_format, rows)

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        """Returns `mlm_loss`, `mlm_accuracy` and so on, with rows as the step's phase has them.

        They are of the mixture; where several corpora are evaluated, each has `mlm_loss/NAME`, too.
        Those of the moving average, where there is one, are `average_mlm_loss` and so on.
        """
        means = self._of_params(step, state.params)
        if state.average is not None:
            of_average = self._of_params(step, state.average)
            means |= {f"average_{name}": value for name, value in of_average.items()}
        return means

    def _of_params(self, step: int, params: Params) -> dict[str, float]:
        phase = phase_of(self._phases, step)
        totals = {
            name: evaluate(
                self._steps[phase.number],
                params,
                sharding.global_batches(rows, phase.batch_size, self._mesh),
                self._key,
                self._teacher,
            )
            for name, rows in self._rows(phase.number).items()
        }
        mixture = [each for name in self._corpora.weights for each in totals[name]]
        means = divide(mixture)
        if len(totals) > 1:
            for name, short in short_names(totals).items():
                means |= {f"{each}/{short}": v for each, v in divide(totals[name]).items()}
        if self._full_sentences:  # which have no labels of sentences
            sentence = f"{phase.data.objective.value}_"
            means = {name: v for name, v in means.items() if not name.startswith(sentence)}
        return means


class PretrainingSetup:
    """The data, the devices and the compiled step of a run."""

    def __init__(self, config: PretrainConfig, teacher: str, clock: StartClock) -> None:
        """Opens the corpora and checks that data, model and devices suit each other.

        Args:
          config: of the run, validated.
          teacher: the checkpoint of a distilling run's teacher; '': there is none.
          clock: of the start.

        Raises:
          UserError: for what does not suit, before anything is written.
        """
        self.config = config
        self.corpora = open_corpora(config.data, evaluated=config.eval_steps > 0)
        tokenizer = self.corpora.tokenizer
        resolve_vocabulary(config, tokenizer)
        self.phases = resolve_phases(config)
        vocabulary = self.mask_vocabulary(config.masking)
        self.words = describe_words(config.masking, self.corpora)
        clock.mark("data")
        self.mesh = sharding.make_mesh(config.mesh)
        for phase in self.phases:
            sharding.check_batch_size(
                phase.batch_size, self.mesh, config.micro_batches, phase.batch_field
            )
        sharding.check_encoder(config.encoder, self.mesh)
        self.teacher = None
        if isinstance(config, DistillConfig):
            self.teacher = load_teacher(teacher, config, tokenizer, self.mesh)
        model = self.teacher.model if self.teacher else None
        self.compiled = pretraining_steps(config, vocabulary, self.mesh, model)
        self.host_rows = functools.partial(sharding.host_rows, mesh=self.mesh)

    def mask_vocabulary(self, masking: MaskingConfig) -> MaskVocabulary:
        """Returns what a masking has to know of the corpora."""
        return mask_vocabulary(masking, self.corpora.tokenizer, self.corpora.token_counts)

    def computed(self) -> str:
        """Tells the devices, and how the encoder is computed on them."""
        return describe_choices(self.compiled[0].model.config, self.mesh)

    def run_inputs(self) -> RunInputs:
        """Returns what every step of the run takes beside its batch."""
        inputs = self.compiled[0].inputs(self.config.seed)
        return inputs._replace(teacher=self.teacher.params if self.teacher else None)

    def row_format(self, phase: Phase) -> RowFormat:
        """Returns the format of the rows of a phase."""
        special, pool_last = self.corpora.tokenizer.special, self.config.encoder.causal
        return row_format(phase.data, special, pool_last=pool_last)

    def feed(self, first_step: int, cursor: Cursor, log: Callable[[str], None]) -> Feed:
        """Returns this host's batches from a step on; `log` takes a line about each phase."""
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
                log(f"{number}, first block of {name}: {plan}")
            return rows

        return Feed(self.phases, open_rows, self.host_rows, first_step=first_step, cursor=cursor)

    def global_batches(self, feed: Feed) -> Iterator[Batch]:
        """Yields the feed's batches on the devices."""
        for phase, batch in feed:
            if self.config.debug:
                check_ids(batch, self.config.encoder)
            rows = self.host_rows(phase.batch_size)
            yield sharding.global_batch(batch, rows, phase.batch_size, self.mesh)

    def train_step_of(self, step: int) -> UpdateFn:
        """Returns the compiled update of a step."""
        return self.compiled[phase_of(self.phases, step).number].train_step

    def flops_of(self, step: int) -> float:
        """Returns the floating-point operations of the model for a real token of a step."""
        teacher = self.teacher.model if self.teacher else None
        return model_flops(self.config, phase_of(self.phases, step), teacher)

    def metadata(self, step: int) -> dict[str, Any]:
        """Returns the metadata of the checkpoint of a step but for its cursor, ready for JSON."""
        config, tokenizer = self.config, self.corpora.tokenizer
        own = {field.name for field in dataclasses.fields(PretrainConfig)}
        values = to_dict(config)
        is_encoder = isinstance(config, DistillConfig) and not trains_head(config)
        metadata = {
            "kind": "encoder" if is_encoder else "pretraining",
            "config": {name: value for name, value in values.items() if name in own},
            "encoder": to_dict(phase_of(self.phases, step).encoder),
            "tokenizer": tokenizer.to_dict() | {"fingerprint": tokenizer.fingerprint},
            "corpus": self.corpora.fingerprint,
            "computed": self.computed(),
        }
        if self.teacher:
            metadata["distillation"] = {
                "teacher": str(self.teacher.checkpoint),
                "fingerprint": self.teacher.fingerprint,
                **{name: value for name, value in values.items() if name not in own},
            }
        return metadata


def set_up(
    config: PretrainConfig, workdir: pathlib.Path, init: str, teacher: str, launch: Launch
) -> tuple[PretrainingSetup, StartClock]:
    """Meets the other processes, then opens and checks everything; writes nothing.

    Raises:
      UserError: for what does not suit.
    """
    clock = StartClock()
    clock.mark("imports")
    given = {"workdir": str(workdir), "init": init, "teacher": teacher}
    join(launch, config.hosts, dict(flatten(config)) | given)
    clock.mark("other processes")
    setup = PretrainingSetup(config, teacher, clock)
    check_workdir(workdir, config)
    return setup, clock


def replay(
    config: PretrainConfig,
    workdir: pathlib.Path,
    last: int,
    *,
    init: str = "",
    teacher: str = "",
    launch: Launch = Launch(),
) -> None:
    """Runs to a step again, writing nothing, and looks for the first NaN inside that step.

    Args:
      config: of the run, validated.
      workdir: of the run.
      last: the step to examine.
      init: as in `pretrain`.
      teacher: as in `pretrain`.
      launch: as in `pretrain`.

    Raises:
      UserError: if there is no such step or run, or it began with another corpus, teacher or init.
    """
    if not 1 <= last <= config.steps:
        raise UserError(f"--replay={last} is no step of the run: choose 1 to {config.steps}")
    if not (workdir / LOG_FILE).is_file():
        raise UserError(f"--replay={last}: {workdir} has no run: name its --workdir")
    setup, _ = set_up(dataclasses.replace(config, debug=True), workdir, init, teacher, launch)
    checkpoint = max((step for step in steps_in(workdir) if step < last), default=0)
    compiled, corpora = setup.compiled[0], setup.corpora
    if checkpoint:
        path = workdir / FOLDER / str(checkpoint)
        state, metadata = restore_state(path, compiled.abstract)
        _check_same_run(config, workdir, metadata, path, corpora, setup.teacher)
        cursor = Cursor.from_json(metadata["cursor"])
    else:
        _check_origin(workdir, init)
        state, cursor, _ = begin(setup.config, init, corpora, compiled, setup.teacher)
    print(f"from step {checkpoint:,} to {last:,}", file=sys.stderr)
    feed = setup.feed(checkpoint, cursor, lambda line: None)
    run = setup.run_inputs()
    batches = itertools.islice(setup.global_batches(feed), last - checkpoint)
    for step, batch in enumerate(batches, start=checkpoint + 1):
        if step == last:
            found = explain_step(setup.train_step_of(step), state, batch, run)
            print(f"step {step:,} ({feed.rows_of(step)}): {found}")
        else:
            state, _ = setup.train_step_of(step)(state, batch, run)


def pretrain(
    config: PretrainConfig,
    workdir: pathlib.Path,
    *,
    init: str = "",
    teacher: str = "",
    launch: Launch = Launch(),
) -> None:
    """Pretrains, or goes on with the run in the directory; checkpoints and logs go there.

    Args:
      config: of the run, validated; its vocabulary size is filled in.
      workdir: of the run; may not exist yet.
      init: a pretraining checkpoint whose parameters to start from; '': random ones.
      teacher: the checkpoint of the teacher, of a `DistillConfig`.
      launch: the position of this process among those of the run; by default it is alone.

    Raises:
      UserError: for what does not suit, before the first step; or if steps cannot be saved.
      Stopped: if the user asked for it; everything is saved.
    """
    setup, clock = set_up(config, workdir, init, teacher, launch)

    # Parameters: resumed, transferred or fresh.
    compiled, corpora = setup.compiled[0], setup.corpora
    newest = newest_metadata(workdir).get("step", 0)
    check_agreed("a run at step", newest, "keep --workdir where all hosts see it")
    if newest >= config.steps:
        print(f"{workdir} is finished: {newest:,} steps")
        return
    claim, began = functools.partial(claim_workdir, workdir, config), {}
    if steps_in(workdir):
        first_alone(claim)
        state, cursor, messages = resume(config, workdir, corpora, compiled, setup.teacher)
    else:
        began = origin(init)
        state, cursor, messages = begin(config, init, corpora, compiled, setup.teacher)
        first_alone(claim)
        # For `prepare` of other corpora; checkpoints have theirs.
        first_alone(functools.partial(corpora.tokenizer.save, workdir / "tokenizer"))
    keep_compiled(workdir)
    first_step = int(state.step)
    clock.mark("parameters")

    log = open_log(workdir, first_step=first_step, steps=config.steps)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    messages.append(f"{parameters:,} parameters on {setup.computed()}")
    rules = describe_rules(config.optimizer, compiled.abstract.params)
    for line in (*messages, *rules, *corpora.copied, corpora.describe(), *setup.words):
        log.message(line)
    feed = setup.feed(first_step, cursor, log.message)
    train_step_of = setup.train_step_of
    if config.debug:
        train_step_of = watched(train_step_of, feed.rows_of)
    watch = LossWatch(feed.rows_of, resumed=first_step > 0)
    run = setup.run_inputs()
    rates = np.asarray(run.settings.learning_rate)
    reports = StepReports(log, config.log_steps, rates, setup.flops_of, watch)
    held_out = HeldOut(setup, config)
    checkpoints = Checkpoints(
        workdir, keep=config.keep_checkpoints, keep_every_steps=config.keep_every_steps
    )
    step = first_step
    profile = profiled(train_step_of, config.profile, workdir / "profile")
    with stop_request() as stop, jax.transfer_guard("disallow"), profile as train_step_of:
        trained = run_steps(
            train_step_of,
            state,
            setup.global_batches(feed),
            run,
            steps=config.steps,
            reports=reports,
            stop=stop,
        )
        for step, state, last in trained:
            if step == first_step + 1:
                log.started(clock, state, began)
            if config.eval_steps and (step % config.eval_steps == 0 or step == config.steps):
                with reports.paused("evaluation"):
                    log.held_out(step, held_out(step, state))
            if step % config.checkpoint_steps == 0 or last:
                with reports.paused("checkpoint"):
                    checkpoints.save(state, setup.metadata(step) | {"cursor": feed.cursor(step)})
        checkpoints.close()
    reports.close()
    log.close()
    if step < config.steps:
        raise Stopped(f"stopped at step {step:,} and saved: the same command goes on from there")
    print(f"finished {config.steps:,} steps: {workdir}/{FOLDER}/{config.steps}")
