"""The studies of this project, and what a study may be."""

import dataclasses
import pathlib
from typing import Any

import pytest

from bert_jax.config import RootConfig, flatten, validate
from bert_jax.data.tasks.splits import dev_sources
from bert_jax.errors import UserError
from bert_jax.tasks.kinds import check_source
from experiments import study
from experiments.folder import StudyFolder
from experiments.study import (
    Plan,
    Study,
    StudyPaths,
    Variant,
    check_study,
    expand,
    finetuning_config,
    grid,
    load_study,
    pretraining_config,
    reads_data,
    variants_of,
)
from tests.fixtures.drivers import ROOT

STUDIES = sorted(
    path.stem for path in (ROOT / "experiments").glob("*.py") if "\nSTUDY = " in path.read_text()
)
PATHS = StudyPaths(workdir="runs/x")


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def load(name: str) -> Study:
    return load_study(f"experiments/{name}.py")[0]


def changed(before: RootConfig, after: RootConfig) -> set[str]:
    first, second = dict(flatten(before)), dict(flatten(after))
    return {name for name in first | second if first.get(name) != second.get(name)}


def named(overrides: tuple[str, ...]) -> set[str]:
    return {override.partition("=")[0] for override in overrides}


@pytest.mark.parametrize("name", STUDIES)
def test_a_variant_changes_exactly_the_fields_that_it_names(name: str) -> None:
    found = load(name)
    for chosen, variant in (
        (size, variant) for size in found.sizes.values() for variant in variants_of(found, size)
    ):
        nothing = Variant("nothing", teacher=variant.teacher, task_teacher=variant.task_teacher)
        base, ours = (pretraining_config(chosen, each) for each in (nothing, variant))
        fields = changed(base, ours)
        assert fields <= named(variant.pretrain)
        for override in named(variant.pretrain) - fields:  # it has the base's own value
            assert dict(flatten(base))[override] == dict(flatten(ours))[override]
        for task in found.tasks:
            base, ours = (finetuning_config(chosen, each, task) for each in (nothing, variant))
            assert changed(base, ours) <= named(variant.finetune)


@pytest.mark.parametrize("name", STUDIES)
def test_each_variant_but_the_base_differs_from_it(name: str) -> None:
    found = load(name)
    for chosen in found.sizes.values():
        configs, variants = {}, variants_of(found, chosen)
        for variant in variants:
            tasks = [finetuning_config(chosen, variant, task) for task in found.tasks]
            configs[variant.name] = [pretraining_config(chosen, variant), *tasks]
        for variant_name, ours in configs.items():
            same = all(map(lambda a, b: not changed(a, b), configs[found.base], ours))
            same = same and not next(v.linear for v in variants if v.name == variant_name)
            assert same == (variant_name == found.base), variant_name


@pytest.mark.parametrize("name", STUDIES)
def test_each_task_can_read_its_files(name: str) -> None:
    found = load(name)
    for chosen in found.sizes.values():
        for task in found.tasks:
            config = finetuning_config(chosen, Variant("nothing"), task)
            validate(config)
            for source in (config.data.train, *dev_sources(config.data).values()):
                check_source(config.task, source)


@pytest.mark.parametrize("name", STUDIES)
def test_all_variants_are_evaluated_on_as_many_rows(name: str) -> None:
    found = load(name)
    for chosen in found.sizes.values():
        configs = [pretraining_config(chosen, each) for each in variants_of(found, chosen)]
        assert len({c.eval_batches * c.batch_size * c.data.length for c in configs}) == 1


@pytest.mark.parametrize("name", STUDIES)
def test_runs_come_after_those_that_they_need(name: str) -> None:
    found = load(name)
    chosen = found.sizes["cpu"]
    runs = expand(found, chosen, PATHS)
    before: set[str] = set()
    for run in runs:
        assert set(run.needs) <= before and run.name not in before
        before.add(run.name)
    tasks = [run for run in runs if run.driver in ("finetune", "linear")]
    seeds = sum(variant.seeds or chosen.seeds for variant in variants_of(found, chosen))
    assert len(tasks) == seeds * len(found.tasks)
    pretrained = [run for run in runs if run.driver == "pretrain"]
    if found.one_pretraining:
        assert [run.name for run in pretrained] == [f"pretrain/{found.base}/seed-0"]
    assert Plan.from_dict(plan_of(found, runs).to_dict()) == plan_of(found, runs)


def plan_of(found: Study, runs: list[study.Run]) -> Plan:
    return Plan(
        study="x",
        size="cpu",
        question="?",
        base=found.base,
        variants=variants_of(found, found.sizes["cpu"]),
        published=found.published,
        runs=tuple(runs),
    )


def test_variants_of_one_pretraining_share_it(study_file: pathlib.Path) -> None:
    found, question = load_study(str(study_file))
    assert question == "Do pairs matter to two layers?"
    runs = {run.name: run for run in expand(found, found.sizes["cpu"], PATHS)}
    assert len(runs) == 1 + 2 * 2 + 2 * 3
    assert runs["pretrain/pairs/seed-1"].variants == ("pairs", "slow")
    assert runs["feel/slow/seed-1"].needs == ("pretrain/pairs/seed-1",)
    assert "--checkpoint=runs/x/pretrain/pairs/seed-1" in runs["feel/slow/seed-1"].flags
    assert "--config.data.train=data/train.tsv" in runs["feel/slow/seed-1"].flags
    assert runs["pretrain/pairs/seed-1"].needs == ("corpus",)


def test_a_pretraining_goes_on_from_another_one(study_file: pathlib.Path) -> None:
    found, _ = load_study(str(study_file))
    first, *others = found.variants
    going_on = Variant("going_on", pretrain=("steps=7",), init=f"{first.name}@4")
    changed = change(found, variants=(first, *others, going_on))
    check_study(changed)
    runs = {run.name: run for run in expand(changed, changed.sizes["cpu"], PATHS)}
    run = runs["pretrain/going_on/seed-1"]
    assert f"--init=runs/x/pretrain/{first.name}/seed-1/checkpoints/4" in run.flags
    assert f"pretrain/{first.name}/seed-1" in run.needs
    assert not any("--init" in flag for flag in runs[f"pretrain/{first.name}/seed-1"].flags)
    for init, message in (
        (first.name, "is not VARIANT@STEP"),
        ("nobody@4", "init=nobody is not a variant"),
        ("going_on@4", "init=going_on@4 comes after it"),
        (f"{first.name}@99", f"no checkpoint that {first.name} keeps: choose a step of"),
    ):
        wrong = dataclasses.replace(going_on, init=init)
        with pytest.raises(UserError, match=message):
            check_study(change(found, variants=(first, *others, wrong)))


def test_a_linear_model_takes_the_place_of_an_encoder(study_file: pathlib.Path) -> None:
    found, _ = load_study(str(study_file))
    linear = Variant("words", linear=True)
    changed = change(found, variants=(*found.variants, linear))
    check_study(changed)
    runs = {run.name: run for run in expand(changed, changed.sizes["cpu"], PATHS)}
    run = runs["feel/words/seed-1"]
    assert run.driver == "linear" and "--config.seed=1" in run.flags
    command = StudyFolder(pathlib.Path("runs/x")).command(run)
    assert command[1:3] == ["-m", "experiments.linear"]
    spans = dataclasses.replace(found.tasks[0], name="squad", recipe="configs/finetune_squad.py")
    with pytest.raises(
        UserError, match="variant words: linear=True, and task squad is of kind spans"
    ):
        check_study(dataclasses.replace(changed, tasks=(spans,)))


def test_a_student_comes_after_its_teacher(study_file: pathlib.Path) -> None:
    found, _ = load_study(str(study_file))
    size = dataclasses.replace(
        found.sizes["cpu"], distil_recipe="configs/distil_mini_cpu.py", pretrain=("steps=200",)
    )
    variants = (
        Variant("pairs", seeds=1),
        Variant("student", teacher="pairs"),
        Variant("slow_student", teacher="pairs", finetune=("epochs=1",), task_teacher="pairs"),
        Variant("twin", pretrain=("encoder.layers=1",)),
    )
    changed = change(found, variants=variants, sizes={"cpu": size})
    check_study(changed)
    runs = {run.name: run for run in expand(changed, size, PATHS)}
    assert "pretrain/pairs/seed-0" in runs and "pretrain/pairs/seed-1" not in runs
    student = runs["pretrain/student/seed-1"]
    assert student.driver == "distill" and student.variants == ("student", "slow_student")
    assert student.needs == ("corpus", "pretrain/pairs/seed-0")
    assert "--teacher=runs/x/pretrain/pairs/seed-0" in student.flags
    assert "--config=configs/distil_mini_cpu.py" in student.flags
    assert runs["pretrain/twin/seed-1"].driver == "pretrain"
    taught = runs["feel/slow_student/seed-1"]
    assert taught.needs == ("pretrain/student/seed-1", "feel/pairs/seed-0")
    assert "--config.teacher=runs/x/feel/pairs/seed-0" in taught.flags
    assert not any("teacher" in flag for flag in runs["feel/student/seed-1"].flags)
    probing = dataclasses.replace(changed, probe_steps=100)
    earlier = {run.name: run for run in expand(probing, size, PATHS)}[
        "feel@100/slow_student/seed-1"
    ]
    assert earlier.needs == taught.needs
    assert "--config.teacher=runs/x/feel/pairs/seed-0" in earlier.flags


def test_a_teacher_that_shares_its_pretraining(study_file: pathlib.Path) -> None:
    found, _ = load_study(str(study_file))
    size = dataclasses.replace(found.sizes["cpu"], distil_recipe="configs/distil_mini_cpu.py")
    variants = (
        Variant("pairs"),
        Variant("teacher", finetune=("epochs=1",)),
        Variant("student", teacher="teacher"),
    )
    changed = change(found, variants=variants, sizes={"cpu": size})
    check_study(changed)
    runs = {run.name: run for run in expand(changed, size, PATHS)}
    student = runs["pretrain/student/seed-0"]
    assert student.needs == ("corpus", "pretrain/pairs/seed-0")
    assert "--teacher=runs/x/pretrain/pairs/seed-0" in student.flags
    assert variants[2].changes == ("teacher=teacher",)
    needs = Variant("x", against="a", init="b@5", teacher="c", task_teacher="d").others
    assert list(needs) == ["a", "b", "c", "d"]


def test_what_no_variant_makes_is_told(study_file: pathlib.Path) -> None:
    found, _ = load_study(str(study_file))
    once = Variant("once", pretrain=("steps=10",), seeds=1)
    changed = change(found, variants=(Variant("pairs"), once, Variant("longer", init="once@5")))
    with pytest.raises(
        UserError, match="pretrain/longer/seed-1 needs pretrain/once/seed-1, which no variant makes"
    ):
        expand(changed, changed.sizes["cpu"], PATHS)


def test_what_is_there_already_is_not_made(study_file: pathlib.Path) -> None:
    found, _ = load_study(str(study_file))
    assert reads_data(dataclasses.replace(found, tasks=()), found.sizes["cpu"], PATHS)
    paths = dataclasses.replace(PATHS, corpus="data/wiki")
    assert not reads_data(dataclasses.replace(found, tasks=()), found.sizes["cpu"], paths)
    assert reads_data(found, found.sizes["cpu"], paths)
    assert "corpus" not in [run.name for run in expand(found, found.sizes["cpu"], paths)]
    paths = dataclasses.replace(PATHS, checkpoint="runs/mini")
    one = dataclasses.replace(found, one_pretraining=True)
    runs = expand(one, found.sizes["cpu"], paths)
    assert {run.driver for run in runs} == {"finetune"}
    assert all("--checkpoint=runs/mini" in run.flags and not run.needs for run in runs)


def test_probes_fine_tune_kept_checkpoints(study_file: pathlib.Path) -> None:
    found, _ = load_study(str(study_file))
    found = dataclasses.replace(found, probe_steps=5)  # of 12
    runs = {run.name: run for run in expand(found, found.sizes["cpu"], PATHS)}
    assert "--config.keep_every_steps=5" in runs["pretrain/pairs/seed-0"].flags
    checkpoint = "--checkpoint=runs/x/pretrain/pairs/seed-0/checkpoints/10"
    assert checkpoint in runs["feel@10/pairs/seed-0"].flags
    assert {run.stage for run in runs.values()} == {
        "corpus", "pretrain", "feel", "feel@5", "feel@10"
    }  # fmt: skip


def test_a_variant_replaces_a_list_of_paths(study_file: pathlib.Path) -> None:
    found, _ = load_study(str(study_file))
    own = Variant("own", pretrain=("data.corpus=data/a,data/b",), finetune=("data.dev=data/x.tsv",))
    found = change(found, variants=(*found.variants, own))
    runs = {run.name: run for run in expand(found, found.sizes["cpu"], PATHS)}
    for name, field, value in (
        ("pretrain/own/seed-0", "corpus", "data/a,data/b"),
        ("feel/own/seed-0", "dev", "data/x.tsv"),
    ):
        given = [flag for flag in runs[name].flags if flag.startswith(f"--config.data.{field}=")]
        assert given == [f"--config.data.{field}={value}"]
    assert pretraining_config(found.sizes["cpu"], own).data.corpus == "data/a,data/b"


def test_a_grid() -> None:
    variants = grid({"optimizer.learning_rate": (1e-4, 3e-4), "batch_size": (16,)}, of="finetune")
    assert [variant.name for variant in variants] == [
        "learning_rate=0.0001+batch_size=16",
        "learning_rate=0.0003+batch_size=16",
    ]
    assert variants[1].finetune == ("optimizer.learning_rate=0.0003", "batch_size=16")


def change(found: Study, **changes: Any) -> Study:
    return dataclasses.replace(found, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "none"}, "base=none is not a variant of size cpu: choose one of pairs, no_loss"),
        (
            {"variants": (Variant("pairs"), Variant("x", pretrain=("steps=3",), against="y"))},
            "against=y is not a variant of size cpu: choose one of pairs, x",
        ),
        (
            {"variants": (Variant("pairs"), Variant("pairs", pretrain=("steps=3",)))},
            "variant 'pairs' occurs twice",
        ),
        (
            {"variants": (Variant("pairs"), Variant("a/b", pretrain=("steps=3",)))},
            "'a/b' is not a valid folder",
        ),
        (
            {"variants": (Variant("pairs", pretrain=("data.objectiv=none",)),)},
            "variant pairs: --config.data.objectiv: there is no such field; did you mean"
            " --config.data.objective?",
        ),
        (
            {"variants": (Variant("pairs", finetune=("epochs=0",)),)},
            "variant pairs: --config.epochs=0 must be at least 1",
        ),
        ({"one_pretraining": True}, "one_pretraining=True, and variants change the pretraining"),
        (
            {
                "variants": (Variant("pairs"), Variant("x", teacher="pairs")),
                "one_pretraining": True,
            },
            "one_pretraining=True, and variants change the pretraining",
        ),
        (
            {"variants": (Variant("pairs"), Variant("x", pretrain=("steps=3",), seeds=9))},
            "variant x: seeds=9, and size cpu has 2: raise those of the size",
        ),
        (
            {"variants": (Variant("pairs", pretrain=("eval_steps=0",)),)},
            "variant pairs: eval_steps=0, and a study compares held-out losses",
        ),
        (
            {"variants": (Variant("pairs"),), "tasks": ()},
            "no variant changes the pretraining",
        ),
        (
            {"variants": (Variant("pairs"), Variant("x", teacher="y"))},
            "teacher=y is not a variant of size cpu: choose one of pairs, x",
        ),
        (
            {"variants": (Variant("x", teacher="pairs"), Variant("pairs"))},
            "variant x: teacher=pairs comes after it: put it before",
        ),
    ],
)
def test_a_wrong_study_is_one_line(
    changes: dict[str, Any], message: str, study_file: pathlib.Path
) -> None:
    found, _ = load_study(str(study_file))
    with pytest.raises(UserError) as error:
        check_study(change(found, **changes))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("X = 1", "defines no STUDY: add STUDY = Study(...)"),
        ("\n\nX = 1 / 0", "line 3: ZeroDivisionError: division by zero"),
        ("from experiments.study import Study\nSTUDY = Study(bas=1)", "line 2: TypeError"),
    ],
)
def test_a_file_that_is_no_study(content: str, message: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        load_study(str(path))
    assert str(error.value).startswith(str(path)) and message in str(error.value)
    with pytest.raises(UserError, match="is not a file: name a study"):
        load_study(str(tmp_path / "none.py"))


def test_the_studies_that_must_be_there() -> None:
    assert set(STUDIES) >= {
        "drop_nsp",
        "masking_mix",
        "mask_rate",
        "static_vs_dynamic",
        "frozen_vs_full",
        "label_efficiency",
        "batch_and_rate",
    }
