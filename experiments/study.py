"""Definition of a study, and the list of its runs.

A study is a file in this folder. Its docstring asks a question, and `STUDY` defines the experiment:

    STUDY = Study(
        base="nsp",
        variants=(Variant("nsp"), Variant("no_nsp", pretrain=("data.objective=none",))),
        tasks=(tasks.SST2,),
        sizes=SIZES,
    )

`python -m launch.sweep` starts its runs, and `python -m experiments.report` evaluates them.
"""

import dataclasses
import itertools
import pathlib
import re
import runpy
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from bert_jax.cli.recipes import resolve_config
from bert_jax.config import (
    DistillConfig,
    FinetuneConfig,
    PretrainConfig,
    RootConfig,
    TaskKind,
    validate,
)
from bert_jax.errors import UserError

Config = TypeVar("Config", bound=RootConfig)

Overrides = tuple[str, ...]  # of a config: "data.objective=none"

# Those that a model on words can do.
LINEAR_TASKS = (TaskKind.CLASSIFICATION, TaskKind.TAGS, TaskKind.VECTORS)
_NAME = re.compile(r"[\w.+=-]+")  # a valid name of a folder, a job and a column


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of the settings to compare.

    Attributes:
      name: of its runs' folders, and in tables.
      prepare: changes of the corpus, such as another tokenizer; losses of its tokens are then not
        compared with those of others.
      pretrain: changes of the pretraining recipe.
      finetune: changes of every task's recipe.
      against: name of the variant with which this one is compared; '': the study's base.
      init: VARIANT@STEP, the checkpoint of another variant's pretraining with the same seed from
        which its own goes on; '': from random weights.
      teacher: name of the variant whose pretraining with seed 0 it is distilled from, by the size's
        `distil_recipe`; '': it is pretrained.
      task_teacher: name of the variant whose model of seed 0, fine-tuned for the same task, its
        tasks learn the answers of; '': of none.
      linear: True to do its tasks by words, without an encoder (`experiments.linear`).
      series: name of the line on which it is a point, over the number of labels; '': of none.
      seeds: number of its own; 0: the size's.
    """

    name: str
    pretrain: Overrides = ()
    prepare: Overrides = ()
    finetune: Overrides = ()
    against: str = ""
    init: str = ""
    teacher: str = ""
    task_teacher: str = ""
    linear: bool = False
    series: str = ""
    seeds: int = 0

    @property
    def pretraining(self) -> tuple[Overrides, Overrides, str, str]:
        """The settings that its pretraining depends on."""
        return self.prepare, self.pretrain, self.init, self.teacher

    @property
    def changes_pretraining(self) -> bool:
        """True unless its pretraining is that of the recipe and the size."""
        return any(self.pretraining)

    @property
    def takes_parameters(self) -> bool:
        """True unless its tasks take nothing but the tokenizer from its pretraining."""
        return not self.linear and "transfer=False" not in self.finetune

    @property
    def others(self) -> dict[str, str]:
        """The variants that its runs or its report need: name -> what for."""
        return {
            self.against: "is compared with",
            self.init.partition("@")[0]: "goes on from",
            self.teacher: "is distilled from",
            self.task_teacher: "learns tasks from",
        }

    @property
    def changes(self) -> Overrides:
        """Its changes of the base's recipes, for reports."""
        named = {"init": self.init, "teacher": self.teacher, "task_teacher": self.task_teacher}
        told = tuple(f"{name}={value}" for name, value in named.items() if value)
        linear = ("linear=True",) if self.linear else ()
        return (*self.prepare, *self.pretrain, *self.finetune, *told, *linear)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A fine-tuning task on which every variant is evaluated."""

    name: str
    recipe: str
    overrides: Overrides  # {data} is replaced by the data folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """Scale of a study: for a laptop, a node or a pod.

    Attributes:
      prepare: flags of `prepare` for the corpus; {data} is replaced by the data folder.
      recipe: of the pretraining.
      pretrain: overrides of the pretraining.
      distil_recipe: of variants with a teacher.
      finetune: overrides of every task.
      seeds: number per variant; they count from 0.
      variants: replace those of the study, if they depend on the size.
      minutes: time limit of a run, for clusters.
      cores: of a run on this machine; 0: all, so one run at a time.
      hosts: of a run on a cluster.
      accelerator: of those hosts, by its name in `plan --topology`; '': none.
    """

    prepare: Overrides
    recipe: str
    pretrain: Overrides = ()
    distil_recipe: str = ""
    finetune: Overrides = ()
    seeds: int = 3
    variants: tuple[Variant, ...] = ()
    minutes: int
    cores: int = 0
    hosts: int = 1
    accelerator: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """Rows of a paper, shown next to a study's own."""

    source: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[float | None, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """An experiment that answers a question.

    Attributes:
      base: name of the variant with which the others are compared, unless they say.
      variants: the settings to compare.
      sizes: by name.
      tasks: each pretraining is fine-tuned on these.
      probe_steps: the checkpoints at its multiples are fine-tuned too; 0: only the last one.
      published: results of papers.
      one_pretraining: True to fine-tune all runs from the pretraining of seed 0; the seeds are then
        those of fine-tuning.
    """

    base: str
    variants: tuple[Variant, ...]
    sizes: Mapping[str, Size]
    tasks: tuple[Task, ...] = ()
    probe_steps: int = 0
    published: tuple[Published, ...] = ()
    one_pretraining: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyPaths:
    """Inputs and outputs of a study's runs.

    Attributes:
      workdir: of the whole study.
      data: the data folder, which replaces {data}.
      corpus: an existing corpus; '': the study prepares one.
      checkpoint: an existing pretraining, for a study with one; '': the study pretrains.
    """

    workdir: str
    data: str = "data"
    corpus: str = ""
    checkpoint: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One call of a driver.

    Attributes:
      name: such as "pretrain/no_nsp/seed-0": its folder in the study's.
      driver: of bert_jax; or 'linear', of this package.
      flags: all flags of the driver.
      needs: names of the runs whose results it reads.
      variants: those that use the run; (): all.
      stage: 'corpus', 'pretrain', or a task, with @STEP for a task on an earlier checkpoint.
      seed: of the run.
    """

    name: str
    driver: str
    flags: tuple[str, ...]
    needs: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    stage: str
    seed: int = 0

    @property
    def is_one_process(self) -> bool:
        """True for drivers that run on the CPUs of one host, without JAX's processes."""
        return self.driver in ("prepare", "linear")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A study at one size, as stored in its folder: all that a report needs besides the logs."""

    study: str
    size: str
    question: str
    base: str
    variants: tuple[Variant, ...]
    published: tuple[Published, ...]
    runs: tuple[Run, ...]

    def variant(self, name: str) -> Variant:
        """Returns a variant by its name."""
        return next(variant for variant in self.variants if variant.name == name)

    def against(self, variant: Variant) -> Variant:
        """Returns the variant with which one is compared; the base with itself."""
        return self.variant(variant.against or self.base)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dictionaries for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Plan":
        """Returns the plan of a dictionary from `to_dict`, read from JSON."""
        texts = {name: values[name] for name in ("study", "size", "question", "base")}
        return cls(
            variants=tuple(Variant(**_with_tuples(each)) for each in values["variants"]),
            published=tuple(Published(**_with_tuples(each)) for each in values["published"]),
            runs=tuple(Run(**_with_tuples(each)) for each in values["runs"]),
            **texts,
        )


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}


def load_study(path: str) -> tuple[Study, str]:
    """Runs a study's file.

    Args:
      path: of the file.

    Returns:
      The study, checked, and its docstring.

    Raises:
      UserError: if the file is missing or fails, or defines no study or an invalid one.
    """
    if not pathlib.Path(path).is_file():
        raise UserError(f"{path} is not a file: name a study, such as experiments/drop_nsp.py")
    try:
        names = runpy.run_path(path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # user code: it may raise anything
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        at = f", line {lines[-1]}" if lines else ""
        raise UserError(f"{path}{at}: {type(error).__name__}: {error}") from error
    study = names.get("STUDY")
    if not isinstance(study, Study):
        raise UserError(f"{path} defines no STUDY: add STUDY = Study(...)")
    try:
        check_study(study)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return study, (names.get("__doc__") or "").strip()


def variants_of(study: Study, size: Size) -> tuple[Variant, ...]:
    """Returns the variants of a study at one size."""
    return size.variants or study.variants


def check_study(study: Study) -> None:
    """Builds every config of a study.

    Raises:
      UserError: if a name is not unique or not a valid folder, the base or another variant to
        compare with is not among the variants, or an override does not apply.
    """
    for name, size in study.sizes.items():
        variants = variants_of(study, size)
        _check_names("variant", [variant.name for variant in variants])
        wanted = {study.base: "base"} | {v.against: "against" for v in variants if v.against}
        wanted |= {v.init.partition("@")[0]: "init" for v in variants if v.init}
        wanted |= {v.teacher: "teacher" for v in variants if v.teacher}
        wanted |= {v.task_teacher: "task_teacher" for v in variants if v.task_teacher}
        for other, field in wanted.items():
            if other not in [variant.name for variant in variants]:
                names = ", ".join(variant.name for variant in variants)
                raise UserError(
                    f"{field}={other} is not a variant of size {name}: choose one of {names}"
                )
        changed = any(variant.changes_pretraining for variant in variants)
        if study.one_pretraining and changed:
            raise UserError(
                "one_pretraining=True, and variants change the pretraining: set it to False or"
                " remove their `pretrain`, `prepare`, `init` and `teacher`"
            )
        if not changed and not study.tasks:
            raise UserError("tasks=() and no variant changes the pretraining: add tasks")
        for variant in variants:
            _check_order(variant, variants)
            if variant.seeds > size.seeds:
                raise UserError(
                    f"variant {variant.name}: seeds={variant.seeds}, and size {name} has"
                    f" {size.seeds}: raise those of the size, and lower the other variants'"
                )
            if not pretraining_config(size, variant).eval_steps:
                raise UserError(
                    f"variant {variant.name}: eval_steps=0, and a study compares held-out losses:"
                    " leave it out"
                )
            if variant.init:
                _check_kept(study, size, variant, variants)
            for task in study.tasks:
                config = finetuning_config(size, variant, task)
                if variant.linear and config.task not in LINEAR_TASKS:
                    raise UserError(
                        f"variant {variant.name}: linear=True, and task {task.name} is of kind"
                        f" {config.task.value}: remove one of them"
                    )
    _check_names("task", [task.name for task in study.tasks])


def _check_order(variant: Variant, variants: Sequence[Variant]) -> None:
    names = [each.name for each in variants]
    for field in ("init", "teacher", "task_teacher"):
        other = getattr(variant, field)
        if other and names.index(other.partition("@")[0]) >= names.index(variant.name):
            raise UserError(
                f"variant {variant.name}: {field}={other} comes after it: put it before"
            )
    if variant.init and not variant.init.partition("@")[2].isdecimal():
        raise UserError(
            f"variant {variant.name}: init={variant.init} is not VARIANT@STEP: name a step whose"
            " checkpoint is kept"
        )


def _check_kept(study: Study, size: Size, variant: Variant, variants: Sequence[Variant]) -> None:
    """Raises UserError unless the checkpoint from which a variant goes on is kept."""
    name, _, step = variant.init.partition("@")
    source = next(each for each in variants if each.name == name)
    config = pretraining_config(size, source)
    saving = study.probe_steps or config.checkpoint_steps
    every = study.probe_steps or config.keep_every_steps
    saved = [*range(saving, config.steps, saving), config.steps]
    kept = {each for each in saved if every and each % every == 0}
    kept |= set(saved[-config.keep_checkpoints :])
    if int(step) not in kept:
        steps = ", ".join(map(str, sorted(kept)))
        raise UserError(
            f"variant {variant.name}: init={variant.init} is no checkpoint that {name} keeps:"
            f" choose a step of {steps}, or set keep_every_steps of {name}"
        )


def _check_names(what: str, names: Sequence[str]) -> None:
    for name in names:
        if not _NAME.fullmatch(name) or name.startswith(("-", ".")):
            raise UserError(
                f"{what} {name!r} is not a valid folder: use letters, digits and . _ + = -"
            )
        if names.count(name) > 1:
            raise UserError(f"{what} {name!r} occurs twice: rename one")


def pretraining_config(size: Size, variant: Variant) -> PretrainConfig:
    """Returns the config of a variant's pretraining, with a placeholder for the corpus.

    Raises:
      UserError: if an override does not apply.
    """
    overrides = ("data.corpus=CORPUS", *size.pretrain, *variant.pretrain)
    if variant.teacher:
        return _checked(size.distil_recipe, overrides, DistillConfig, variant.name)
    return _checked(size.recipe, overrides, PretrainConfig, variant.name)


def finetuning_config(size: Size, variant: Variant, task: Task) -> FinetuneConfig:
    """Returns the config of a variant's fine-tuning on a task, with a placeholder for a teacher.

    Raises:
      UserError: if an override does not apply.
    """
    overrides = (*size.finetune, *task.overrides, *variant.finetune)
    if variant.task_teacher:
        overrides += ("teacher=TEACHER",)
    return _checked(task.recipe, overrides, FinetuneConfig, variant.name)


def _checked(recipe: str, overrides: Overrides, config_type: type[Config], variant: str) -> Config:
    try:
        config = resolve_config(recipe, _last_of_each(overrides), config_type)
        validate(config)
    except UserError as error:
        raise UserError(f"variant {variant}: {error}") from None
    return config


def reads_data(study: Study, size: Size, paths: StudyPaths) -> bool:
    """Returns True if any run reads from the data folder."""
    found = study.one_pretraining and paths.checkpoint
    found = found or (paths.corpus and not any(v.prepare for v in variants_of(study, size)))
    texts = [text for task in study.tasks for text in task.overrides]
    return any("{data}" in text for text in (*texts, *(() if found else size.prepare)))


def expand(study: Study, size: Size, paths: StudyPaths) -> list[Run]:
    """Lists the runs of a study, each after those that it needs.

    Variants with the same pretraining share it; its run has the name of the first of them.

    Args:
      study: from `load_study`.
      size: one of its sizes.
      paths: of inputs and outputs.
    """
    folder = pathlib.Path(paths.workdir)
    variants = variants_of(study, size)
    found = paths.checkpoint if study.one_pretraining else ""
    corpus = paths.corpus or str(folder / "corpus")
    runs: list[Run] = []
    if not paths.corpus and not found:
        flags = (*_filled(size.prepare, paths), f"--output={corpus}")
        runs.append(Run(name="corpus", driver="prepare", flags=flags, stage="corpus"))
    made = tuple(run.name for run in runs)
    own = _corpora(size, variants, paths)
    runs += own.values()
    names = set()
    for seed, variant in itertools.product(range(size.seeds), variants):
        if seed >= (variant.seeds or size.seeds):
            continue
        start = _Start(found, ())
        if not found:
            alike = tuple(each.name for each in variants if each.pretraining == variant.pretraining)
            name = f"pretrain/{alike[0]}/seed-{0 if study.one_pretraining else seed}"
            start = _Start(str(folder / name), (name,))
            if name not in names:
                names.add(name)
                text, needs = corpus, made
                if variant.prepare:
                    needs = (own[variant.prepare].name,)
                    text = str(folder / needs[0])
                run = _pretraining(study, size, variant, name, alike, text, needs)
                if variant.init:
                    run = _going_on(run, variant, variants, folder)
                if variant.teacher:
                    run = _distilling(run, variant, variants, folder)
                runs.append(run)
        for task in study.tasks:
            runs.append(_finetuning(size, variant, task, seed, start, paths))
            for step in _probes(study, size, variant):
                probed = _Start(f"{start.checkpoint}/checkpoints/{step}", start.needs, f"@{step}")
                runs.append(_finetuning(size, variant, task, seed, probed, paths))
    made_here = {run.name for run in runs}
    for run in runs:
        if missing := set(run.needs) - made_here:
            raise UserError(
                f"{run.name} needs {missing.pop()}, which no variant makes: give that one as many"
                " seeds, or leave the variant out"
            )
    return runs


def _corpora(size: Size, variants: Sequence[Variant], paths: StudyPaths) -> dict[Overrides, Run]:
    """Returns the runs that make the corpora of variants with one of their own."""
    runs: dict[Overrides, Run] = {}
    for variant in variants:
        if variant.prepare and variant.prepare not in runs:
            name = f"corpus_{variant.name}"
            flags = _last_of_each(_filled((*size.prepare, *variant.prepare), paths))
            flags += (f"--output={pathlib.Path(paths.workdir) / name}",)
            runs[variant.prepare] = Run(name=name, driver="prepare", flags=flags, stage="corpus")
    return runs


class _Start(NamedTuple):
    """The checkpoint from which fine-tuning starts, and the runs that make it."""

    checkpoint: str
    needs: tuple[str, ...]
    suffix: str = ""  # of the stage


def _probes(study: Study, size: Size, variant: Variant) -> range:
    """Returns the steps before the last one whose checkpoints are fine-tuned too."""
    if not study.probe_steps:
        return range(0)
    return range(study.probe_steps, pretraining_config(size, variant).steps, study.probe_steps)


def _pretraining(
    study: Study,
    size: Size,
    variant: Variant,
    name: str,
    serves: tuple[str, ...],
    corpus: str,
    needs: tuple[str, ...],
) -> Run:
    seed = int(name.rpartition("-")[2])
    overrides = (f"data.corpus={corpus}", *size.pretrain, *variant.pretrain, f"seed={seed}")
    if study.probe_steps:
        overrides += tuple(
            f"{field}={study.probe_steps}" for field in ("checkpoint_steps", "keep_every_steps")
        )
    return Run(
        name=name,
        driver="pretrain",
        flags=_config_flags(size.distil_recipe if variant.teacher else size.recipe, overrides),
        needs=needs,
        variants=serves,
        stage="pretrain",
        seed=seed,
    )


def _going_on(run: Run, variant: Variant, variants: Sequence[Variant], folder: pathlib.Path) -> Run:
    """Returns the pretraining of a variant that starts from a checkpoint of another one."""
    name, _, step = variant.init.partition("@")
    source = f"pretrain/{_first_alike(name, variants)}/seed-{run.seed}"
    return dataclasses.replace(
        run,
        flags=(*run.flags, f"--init={folder / source / 'checkpoints' / step}"),
        needs=(*run.needs, source),
    )


def _first_alike(name: str, variants: Sequence[Variant]) -> str:
    """Returns the first variant with the pretraining of another one: its name is the run's."""
    other = next(each for each in variants if each.name == name)
    return next(each.name for each in variants if each.pretraining == other.pretraining)


def _distilling(
    run: Run, variant: Variant, variants: Sequence[Variant], folder: pathlib.Path
) -> Run:
    """Returns the pretraining of a variant with a teacher."""
    teacher = f"pretrain/{_first_alike(variant.teacher, variants)}/seed-0"
    return dataclasses.replace(
        run,
        driver="distill",
        flags=(*run.flags, f"--teacher={folder / teacher}"),
        needs=(*run.needs, teacher),
    )


def _finetuning(
    size: Size, variant: Variant, task: Task, seed: int, start: _Start, paths: StudyPaths
) -> Run:
    overrides = (*size.finetune, *_filled(task.overrides, paths), *variant.finetune)
    flags = _config_flags(task.recipe, (*overrides, f"seed={seed}"))
    flags += (f"--checkpoint={start.checkpoint}",)
    stage, needs = task.name + start.suffix, start.needs
    if variant.task_teacher:
        teacher = f"{task.name}/{variant.task_teacher}/seed-0"
        flags += (f"--config.teacher={pathlib.Path(paths.workdir) / teacher}",)
        needs += (teacher,)
    return Run(
        name=f"{stage}/{variant.name}/seed-{seed}",
        driver="linear" if variant.linear else "finetune",
        flags=flags,
        needs=needs,
        variants=(variant.name,),
        stage=stage,
        seed=seed,
    )


def _config_flags(recipe: str, overrides: Overrides) -> tuple[str, ...]:
    last = _last_of_each(overrides)
    return (f"--config={recipe}", *(f"--config.{override}" for override in last))


def _last_of_each(overrides: Overrides) -> Overrides:
    """Returns the last override of each field: a driver would take all of a list of paths."""
    return tuple({override.partition("=")[0]: override for override in overrides}.values())


def _filled(texts: Overrides, paths: StudyPaths) -> Overrides:
    return tuple(text.replace("{data}", paths.data) for text in texts)


def grid(fields: Mapping[str, Sequence[Any]], *, of: str) -> tuple[Variant, ...]:
    """Returns a variant for every combination of values.

    Args:
      fields: names of config fields, and their values.
      of: 'pretrain' or 'finetune', the config that they belong to.
    """
    return tuple(
        _variant(dict(zip(fields, values, strict=True)), of)
        for values in itertools.product(*fields.values())
    )


def _variant(values: Mapping[str, Any], of: str) -> Variant:
    name = "+".join(f"{field.rpartition('.')[2]}={value}" for field, value in values.items())
    overrides = tuple(f"{field}={value}" for field, value in values.items())
    return Variant(name, **{of: overrides})  # pyright: ignore[reportArgumentType]
