"""What a study is, and the runs that it comes to.

A study is a file in this folder. Its docstring asks a question, `STUDY` says how it is answered:

    STUDY = Study(
        base="nsp",
        variants=(Variant("nsp"), Variant("no_nsp", pretrain=("data.objective=none",))),
        tasks=(tasks.SST2,),
        sizes=SIZES,
    )

`python -m launch.sweep` makes its runs, `python -m experiments.report` tells what they say.
"""

import dataclasses
import itertools
import math
import pathlib
import random
import re
import runpy
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from bert_jax.cli.recipes import resolve_config
from bert_jax.config import FinetuneConfig, PretrainConfig, RootConfig, validate
from bert_jax.errors import UserError

Config = TypeVar("Config", bound=RootConfig)

Overrides = tuple[str, ...]  # of a config: "data.objective=none"

_NAME = re.compile(r"[\w.+=-]+")  # a folder, a job and a column can be called so


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of the things that are compared: what it changes of the base config."""

    name: str
    pretrain: Overrides = ()
    finetune: Overrides = ()  # of every task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A fine-tuning that every variant is measured by."""

    name: str
    recipe: str
    overrides: Overrides  # {data} stands for the folder of the data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How large a study is done: on a laptop, a node or a pod.

    Attributes:
      prepare: flags that make the corpus; {data} stands for the folder of the data.
      recipe: of the pretraining.
      pretrain: what it changes.
      finetune: changes of every task.
      seeds: of each variant, from 0.
      variants: in place of the study's, where they depend on the size.
      minutes: that no run takes longer than; clusters want to know.
      cores: that a run has on this machine; 0: all of them, so one run at a time.
      hosts: that a run has elsewhere.
      accelerator: of those hosts, as `plan --topology` names it; '': none.
    """

    prepare: Overrides
    recipe: str
    pretrain: Overrides = ()
    finetune: Overrides = ()
    seeds: int = 3
    variants: tuple[Variant, ...] = ()
    minutes: int
    cores: int = 0
    hosts: int = 1
    accelerator: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """Rows of a paper, told beside a study's own."""

    source: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[float | None, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A question and how it is answered.

    Attributes:
      base: name of the variant that the others are compared with.
      variants: what is compared.
      sizes: by name.
      tasks: that each pretraining is fine-tuned on.
      probe_steps: each multiple of it is fine-tuned as well; 0: the end alone.
      published: what papers found.
      one_pretraining: all runs are fine-tuned from the pretraining of seed 0; the seeds are those
        of fine-tuning.
    """

    base: str
    variants: tuple[Variant, ...]
    sizes: Mapping[str, Size]
    tasks: tuple[Task, ...] = ()
    probe_steps: int = 0
    published: tuple[Published, ...] = ()
    one_pretraining: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Places:
    """Where a study's runs find what they read, and leave what they make.

    Attributes:
      workdir: of the whole study.
      data: what {data} stands for.
      corpus: that is there already; '': it is made.
      checkpoint: a pretraining that is there already, of a study with one; '': it is made.
    """

    workdir: str
    data: str = "data"
    corpus: str = ""
    checkpoint: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One call of a driver, and whom it serves.

    Attributes:
      name: such as "pretrain/no_nsp/seed-0"; its folder in the study's.
      driver: of bert_jax.
      flags: all of them.
      needs: names of the runs that it reads from.
      variants: whom it serves; none: all of them.
      stage: 'corpus', 'pretrain', or a task; with @STEP where the task probes a step.
      seed: of the run.
    """

    name: str
    driver: str
    flags: tuple[str, ...]
    needs: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    stage: str
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A study at a size, as its folder keeps it: all that a report needs beside the logs."""

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

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dictionaries, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Plan":
        """Returns what `to_dict` was made of, once through JSON."""
        facts = {name: values[name] for name in ("study", "size", "question", "base")}
        return cls(
            variants=tuple(Variant(**_with_tuples(each)) for each in values["variants"]),
            published=tuple(Published(**_with_tuples(each)) for each in values["published"]),
            runs=tuple(Run(**_with_tuples(each)) for each in values["runs"]),
            **facts,
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
      UserError: for a file that is none, defines no study or a wrong one.
    """
    if not pathlib.Path(path).is_file():
        raise UserError(f"{path} is no file: name a study, such as experiments/drop_nsp.py")
    try:
        names = runpy.run_path(path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # the file is the user's: anything may be in it
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
    """Returns what is compared at a size."""
    return size.variants or study.variants


def check_study(study: Study) -> None:
    """Builds every config of a study.

    Raises:
      UserError: for a name that is there twice or cannot be a folder's, a base that is none of the
        variants, or an override that does not apply.
    """
    for what, size in study.sizes.items():
        variants = variants_of(study, size)
        _check_names("variant", [variant.name for variant in variants])
        if study.base not in [variant.name for variant in variants]:
            names = ", ".join(variant.name for variant in variants)
            raise UserError(f"base={study.base} is no variant of size {what}: choose among {names}")
        if study.one_pretraining and any(variant.pretrain for variant in variants):
            raise UserError("one_pretraining, and variants that change it: choose one of both")
        if not any(variant.pretrain for variant in variants) and not study.tasks:
            raise UserError("its variants change nothing that is run: add tasks, or overrides")
        for variant in variants:
            pretraining_config(size, variant)
            for task in study.tasks:
                finetuning_config(size, variant, task)
    _check_names("task", [task.name for task in study.tasks])


def _check_names(what: str, names: Sequence[str]) -> None:
    for name in names:
        if not _NAME.fullmatch(name) or name.startswith(("-", ".")):
            raise UserError(
                f"{what} {name!r} cannot be a folder: use letters, digits and . _ + = -"
            )
        if names.count(name) > 1:
            raise UserError(f"{what} {name!r} is there twice: give each a name of its own")


def pretraining_config(size: Size, variant: Variant) -> PretrainConfig:
    """Returns the config of a variant's pretraining, whose corpus is to be named still.

    Raises:
      UserError: if an override does not apply.
    """
    overrides = ("data.corpus=CORPUS", *size.pretrain, *variant.pretrain)
    return _checked(size.recipe, overrides, PretrainConfig, variant.name)


def finetuning_config(size: Size, variant: Variant, task: Task) -> FinetuneConfig:
    """Returns the config of a variant's fine-tuning on a task.

    Raises:
      UserError: if an override does not apply.
    """
    overrides = (*task.overrides, *size.finetune, *variant.finetune)
    return _checked(task.recipe, overrides, FinetuneConfig, variant.name)


def _checked(recipe: str, overrides: Overrides, config_type: type[Config], variant: str) -> Config:
    try:
        config = resolve_config(recipe, overrides, config_type)
        validate(config)
    except UserError as error:
        raise UserError(f"variant {variant}: {error}") from None
    return config


def reads_data(study: Study, size: Size, places: Places) -> bool:
    """Whether any run reads from the folder of the data."""
    found = places.corpus or (study.one_pretraining and places.checkpoint)
    texts = [text for task in study.tasks for text in task.overrides]
    return any("{data}" in text for text in (*texts, *(() if found else size.prepare)))


def expand(study: Study, size: Size, places: Places) -> list[Run]:
    """Lists the runs of a study, each after those that it needs.

    Variants that do not change pretraining share it: the runs are of who comes first.

    Args:
      study: checked.
      size: one of its sizes.
      places: where things are.
    """
    folder = pathlib.Path(places.workdir)
    variants = variants_of(study, size)
    found = places.checkpoint if study.one_pretraining else ""
    corpus = places.corpus or str(folder / "corpus")
    runs: list[Run] = []
    if not places.corpus and not found:
        flags = (*_filled(size.prepare, places), f"--output={corpus}")
        runs.append(Run(name="corpus", driver="prepare", flags=flags, stage="corpus"))
    made = tuple(run.name for run in runs)
    names = set()
    for seed, variant in itertools.product(range(size.seeds), variants):
        start = _Start(found, ())
        if not found:
            alike = tuple(each.name for each in variants if each.pretrain == variant.pretrain)
            name = f"pretrain/{alike[0]}/seed-{0 if study.one_pretraining else seed}"
            start = _Start(str(folder / name), (name,))
            if name not in names:
                names.add(name)
                runs.append(_pretraining(study, size, variant, name, alike, corpus, made))
        for task in study.tasks:
            runs.append(_finetuning(size, variant, task, seed, start, places))
            for step in _probes(study, size, variant):
                probed = _Start(f"{start.checkpoint}/checkpoints/{step}", start.needs, f"@{step}")
                runs.append(_finetuning(size, variant, task, seed, probed, places))
    return runs


class _Start(NamedTuple):
    """Where a fine-tuning starts from."""

    checkpoint: str
    needs: tuple[str, ...]
    suffix: str = ""  # of the stage


def _probes(study: Study, size: Size, variant: Variant) -> range:
    """Returns the steps, but for the last one, whose checkpoints are fine-tuned."""
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
        flags=_config_flags(size.recipe, overrides),
        needs=needs,
        variants=serves,
        stage="pretrain",
        seed=seed,
    )


def _finetuning(
    size: Size, variant: Variant, task: Task, seed: int, start: _Start, places: Places
) -> Run:
    overrides = (*_filled(task.overrides, places), *size.finetune, *variant.finetune)
    flags = _config_flags(task.recipe, (*overrides, f"seed={seed}"))
    stage = task.name + start.suffix
    return Run(
        name=f"{stage}/{variant.name}/seed-{seed}",
        driver="finetune",
        flags=(*flags, f"--checkpoint={start.checkpoint}"),
        needs=start.needs,
        variants=(variant.name,),
        stage=stage,
        seed=seed,
    )


def _config_flags(recipe: str, overrides: Overrides) -> tuple[str, ...]:
    return (f"--config={recipe}", *(f"--config.{override}" for override in overrides))


def _filled(texts: Overrides, places: Places) -> Overrides:
    return tuple(text.replace("{data}", places.data) for text in texts)


def grid(fields: Mapping[str, Sequence[Any]], *, of: str) -> tuple[Variant, ...]:
    """Returns every combination of values as a variant.

    Args:
      fields: names of config fields, and their values.
      of: 'pretrain' or 'finetune'.
    """
    return tuple(
        _variant(dict(zip(fields, values, strict=True)), of)
        for values in itertools.product(*fields.values())
    )


@dataclasses.dataclass(frozen=True)
class LogUniform:
    """A number between two, its logarithm uniform; to three digits."""

    low: float
    high: float

    def draw(self, rng: random.Random) -> float:
        """Draws one."""
        low, high = math.log(self.low), math.log(self.high)
        return float(f"{math.exp(low + (high - low) * rng.random()):.2e}")


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values, all alike."""

    values: tuple[Any, ...]

    def draw(self, rng: random.Random) -> Any:
        """Draws one."""
        return self.values[int(rng.random() * len(self.values))]


def random_search(
    fields: Mapping[str, LogUniform | Choice], *, of: str, draws: int, seed: int
) -> tuple[Variant, ...]:
    """Returns variants with values drawn at random; more draws of a seed include the fewer.

    Args:
      fields: names of config fields, and what their values are drawn from.
      of: 'pretrain' or 'finetune'.
      draws: how many variants.
      seed: of the draws.
    """
    rng = random.Random(seed)
    drawn = [{name: space.draw(rng) for name, space in fields.items()} for _ in range(draws)]
    return tuple(_variant(values, of) for values in drawn)


def _variant(values: Mapping[str, Any], of: str) -> Variant:
    name = "+".join(f"{field.rpartition('.')[2]}={value}" for field, value in values.items())
    overrides = tuple(f"{field}={value}" for field, value in values.items())
    return Variant(name, **{of: overrides})
