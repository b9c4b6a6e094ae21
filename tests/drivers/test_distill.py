"""Distilling runs as users start them: students, resumes, and what is refused."""

import pathlib
import shutil
import signal
from typing import Any

import numpy as np
import pytest

from bert_jax.checkpoints.checkpoint import (
    FOLDER,
    find_checkpoint,
    groups_in,
    read_array,
    read_metadata,
    steps_in,
)
from bert_jax.config import EncoderConfig, from_dict, to_dict
from bert_jax.planning.report import size
from tests.fixtures.drivers import (
    Drivers,
    Run,
    Shared,
    assert_same_bits,
    copied,
    finetune_flags,
    log_of,
)

QUICK = "--xla_backend_optimization_level=0"  # to compile
RECIPE = """
from bert_jax.config import DistillConfig, DistilledTokens, ExampleFormat, SentenceObjective

def get_config():
    config = DistillConfig(batch_size=4, steps=12, log_steps=2, eval_batches=2)
    config.eval_steps, config.checkpoint_steps = 6, 4
    config.encoder.width, config.encoder.layers, config.encoder.heads = 12, 1, 2
    config.encoder.mlp_width, config.encoder.max_length, config.encoder.segments = 20, 40, 0
    config.student_layers = "1"
    config.data.format = ExampleFormat.DOC_SENTENCES
    config.data.objective = SentenceObjective.NONE
    config.data.length, config.data.max_examples_per_row, config.data.block_examples = 32, 2, 12
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 1e-3, 2
    config.masking.smoothing = 0.7
    lessons = config.distillation
    lessons.soft_weight, lessons.mlm_weight, lessons.cosine_weight = 5.0, 2.0, 1.0
    return config
"""


def arrays_of(run: pathlib.Path, item: str = "params") -> dict[str, np.ndarray]:
    checkpoint = find_checkpoint(run)
    metadata = read_metadata(checkpoint)
    names = metadata["fingerprints"][item]
    return {name: read_array(checkpoint, item, name, metadata) for name in names}


@pytest.fixture(scope="session")
def distill_flags(
    tmp_path_factory: pytest.TempPathFactory, corpus: pathlib.Path, pretrained: Run
) -> list[str]:
    recipe = tmp_path_factory.mktemp("recipe") / "distil_tiny.py"
    recipe.write_text(RECIPE)
    return [f"--config={recipe}", f"--config.data.corpus={corpus}", f"--teacher={pretrained[0]}"]


@pytest.fixture(scope="session")
def distilled(shared: Shared, drivers: Drivers, distill_flags: list[str]) -> Run:
    return shared.make(
        "distilled", lambda out: drivers.run("distill", *distill_flags, f"--workdir={out}")
    )


def test_a_student_is_a_pretrained_model(
    distilled: Run, pretrained: Run, drivers: Drivers, tmp_path: pathlib.Path
) -> None:
    workdir, said = distilled
    assert "starting from the layers 1 of" in said.err
    assert "finished 12 steps" in said.out
    lines = log_of(workdir)
    trained = next(line for line in lines if "soft_loss" in line)
    assert {"mlm_loss", "cosine_loss", "loss"} < trained.keys() and "agreement" not in trained
    held_out = lines[-1]
    names = "mlm_loss soft_loss cosine_loss teacher_mlm_loss agreement".split()
    assert {f"heldout_{name}" for name in names} < held_out.keys()
    metadata = read_metadata(find_checkpoint(workdir))
    assert metadata["kind"] == "pretraining" and "student_layers" not in metadata["config"]
    told = metadata["distillation"]
    assert told["teacher"].startswith(str(pretrained[0])) and told["student_layers"] == "1"
    assert told["distillation"]["soft_weight"] == 5.0
    assert not any(name.startswith("teacher") for name in arrays_of(workdir))
    filled = drivers.run("predict", f"--checkpoint={workdir}", "--text=red [MASK]")
    assert filled.status == 0, filled


def test_a_student_begins_as_layers_of_its_teacher(
    pretrained: Run, drivers: Drivers, distill_flags: list[str], tmp_path: pathlib.Path
) -> None:
    """A step with a rate near 0 keeps what it began as."""
    flags = "--config.steps=1", "--config.optimizer.warmup_steps=0"
    flags += ("--config.optimizer.learning_rate=1e-30", f"--workdir={tmp_path / 'run'}")
    said = drivers.run("distill", *distill_flags, *flags)
    assert said.status == 0, said
    ours, theirs = arrays_of(tmp_path / "run"), arrays_of(pretrained[0])
    assert "encoder/embeddings/segments" not in ours and "pooler/dense/kernel" not in ours
    for name, array in ours.items():
        expected = theirs[name][1:2] if name.startswith("encoder/layers/") else theirs[name]
        np.testing.assert_array_equal(array, expected, err_msg=name)


def test_a_stopped_run_goes_on_to_the_bit(
    distilled: Run, drivers: Drivers, distill_flags: list[str], tmp_path: pathlib.Path
) -> None:
    flags = [*distill_flags, f"--workdir={tmp_path / 'run'}"]
    running = drivers.start("distill", *flags)
    running.wait_until(lambda: any((tmp_path / "run").glob("checkpoints/4")))
    running.send(signal.SIGKILL)
    assert running.wait().status == -signal.SIGKILL
    assert 12 not in steps_in(tmp_path / "run")
    said = drivers.run("distill", *flags)
    assert said.status == 0, said
    for item in ("params", "opt_state"):
        assert_same_bits(arrays_of(tmp_path / "run", item), arrays_of(distilled[0], item))


def test_relations_alone_make_an_encoder(
    drivers: Drivers, distill_flags: list[str], task: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """MiniLM's second edition: another width, no head; and hidden vectors through maps."""
    weights = {"mlm": 0, "soft": 0, "cosine": 0, "query": 1, "key": 1, "value": 1, "hidden": 1}
    flags = [f"--config.distillation.{name}_weight={value}" for name, value in weights.items()]
    flags += ["--config.distillation.relation_heads=4", "--config.distillation.hidden_pairs=0:1"]
    flags += ["--config.encoder.width=8", "--config.student_layers=", "--config.steps=4"]
    said = drivers.run("distill", *distill_flags, *flags, f"--workdir={tmp_path / 'run'}")
    assert said.status == 0, said
    checkpoint = find_checkpoint(tmp_path / "run")
    assert groups_in(checkpoint) == ("encoder", "hidden_maps")
    assert read_metadata(checkpoint)["kind"] == "encoder"
    assert "heldout_query_loss" in log_of(tmp_path / "run")[-1]
    run = tmp_path / "run", said
    tuned = drivers.run("finetune", *finetune_flags(task, run, tmp_path / "task"))
    assert tuned.status == 0, tuned


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["distillation.temperature=0"], "distillation.temperature=0.0 must be above 0"),
        (
            ["distillation.soft_weight=0", "distillation.cosine_weight=0"],
            "distillation has no lesson of the teacher",
        ),
        (["distillation.soft_weight=-1"], "must be at least 0"),
        (["student_layers=0,1"], "names 2 layers, and encoder.layers=1"),
        (["student_layers=5"], "the teacher has 2 layers, and no layer 5"),
        (["student_layers=a"], "must be numbers of layers"),
        (["encoder.norm=pre"], "--config.encoder.norm=pre, and the teacher has post"),
        (["encoder.mlp_width=24"], "--config.encoder.mlp_width=24, and the teacher has 20"),
        (
            ["encoder.width=8", "student_layers="],
            "compares vectors, and the student has width=8, the teacher 12",
        ),
        (
            ["distillation.value_weight=1", "encoder.heads=3", "student_layers="],
            "the student has 3, the teacher 2: set relation_heads",
        ),
        (
            ["distillation.value_weight=1", "distillation.teacher_layer=2"],
            "the teacher has 2 layers, and no layer 2",
        ),
        (["distillation.hidden_pairs=0:1"], "give both, or neither"),
        (
            ["distillation.hidden_pairs=-2:0", "distillation.hidden_weight=1"],
            "the student has 1 layers, and no layer -2: choose from -1 to 0",
        ),
        (
            ["distillation.hidden_pairs=0:-3", "distillation.hidden_weight=1"],
            "the teacher has 2 layers, and no layer -3: choose from -1 to 1",
        ),
        (
            ["distillation.hidden_pairs=0-1", "distillation.hidden_weight=1"],
            "must be pairs of layers",
        ),
        (["data.length=48", "encoder.max_length=48", "student_layers="], "is longer than what the"),
        (
            ["data.format=segment_pair", "data.objective=nsp", "encoder.segments=2"],
            "a student has no sentence head",
        ),
    ],
)
def test_what_does_not_suit_is_refused(
    flags: list[str],
    message: str,
    drivers: Drivers,
    distill_flags: list[str],
    tmp_path: pathlib.Path,
) -> None:
    given = [*distill_flags, *(f"--config.{flag}" for flag in flags)]
    result = drivers.run("distill", *given, f"--workdir={tmp_path / 'run'}")
    assert message in result.error()
    assert not (tmp_path / "run").exists()


def test_students_open_as_distilbert_and_bert(
    distilled: Run,
    drivers: Drivers,
    distill_flags: list[str],
    task: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    transformers = pytest.importorskip("transformers")

    def opened(run: pathlib.Path, name: str) -> Any:
        there = tmp_path / name
        said = drivers.run("convert", f"--from={run}", f"--to=hf:{there}")
        assert said.status == 0 and "verified against transformers" in said.out, said
        return getattr(transformers, name).from_pretrained(there)

    student = opened(distilled[0], "DistilBertForMaskedLM")
    assert student.config.n_layers == 1 and student.config.dim == 12
    flags = finetune_flags(task, distilled, tmp_path / "task")
    said = drivers.run("finetune", *flags, "--config.pooler=relu", "--config.pooling=cls")
    assert said.status == 0, said
    opened(tmp_path / "task", "DistilBertForSequenceClassification")

    weights = "mlm", "soft", "cosine"
    flags = [f"--config.distillation.{name}_weight=0" for name in weights]
    flags += ["--config.distillation.attention_weight=1", "--config.distillation.value_weight=1"]
    flags += ["--config.encoder.segments=2", "--config.student_layers=", "--config.steps=4"]
    minilm = tmp_path / "minilm"
    said = drivers.run("distill", *distill_flags, *flags, f"--workdir={minilm}")
    assert said.status == 0, said
    opened(minilm, "BertModel")


def test_a_teacher_is_sharded_as_its_student_is(
    drivers: Drivers, distill_flags: list[str], tmp_path: pathlib.Path
) -> None:
    """Whole parameters on each device, and parts of them, give the same losses."""
    logs = []
    for name, mesh in {"whole": "data=8", "parts": "data=2 fsdp=2 tensor=2"}.items():
        flags = [f"--config.mesh.{axis}" for axis in mesh.split()]
        flags += ["--config.batch_size=8", f"--workdir={tmp_path / name}"]
        environment = {"XLA_FLAGS": f"{QUICK} --xla_force_host_platform_device_count=8"}
        said = drivers.run("distill", *distill_flags, *flags, environment=environment)
        assert said.status == 0, said
        logs.append([line for line in log_of(tmp_path / name) if "soft_loss" in line])
    for one, other in zip(*logs, strict=True):
        for loss in ("loss", "soft_loss", "cosine_loss", "mlm_loss"):
            assert one[loss] == pytest.approx(other[loss], rel=2e-4), loss


def test_another_teacher_is_refused(
    distilled: Run,
    pretrained: Run,
    drivers: Drivers,
    distill_flags: list[str],
    finetuned: Run,
    other_corpus: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    workdir = f"--workdir={tmp_path / 'run'}"
    *others, _ = distill_flags
    result = drivers.run("distill", *others, f"--teacher={finetuned[0]}", workdir)
    assert "the teacher has no masked-LM head: set it to 0" in result.error()
    result = drivers.run("distill", *others, workdir)
    assert "--teacher is not set" in result.error()
    recipe, *_ = distill_flags
    for teacher, remedy in (
        (pretrained[0], f"--tokenizer={pretrained[0]}/tokenizer"),
        (finetuned[0], ""),
    ):
        flags = [recipe, f"--config.data.corpus={other_corpus}", f"--teacher={teacher}", workdir]
        message = drivers.run("distill", *flags).error()
        assert f"--teacher={teacher} and the corpus have different tokenizers" in message
        assert ("prepare the corpus with" in message) == bool(remedy) and remedy in message
    run = copied(distilled, tmp_path / "copy")
    for step in steps_in(run)[1:]:
        shutil.rmtree(run / FOLDER / str(step))
    earlier = f"--teacher={pretrained[0]}/checkpoints/4"
    result = drivers.run("distill", *others, earlier, f"--workdir={run}")
    assert f"is not the teacher that {run} began with" in result.error()


def test_recipes_of_distilling_and_pretraining_do_not_mix(
    drivers: Drivers, distill_flags: list[str], pretrain_flags: list[str], tmp_path: pathlib.Path
) -> None:
    recipe, corpus, teacher = distill_flags
    workdir = f"--workdir={tmp_path / 'run'}"
    result = drivers.run("pretrain", recipe, corpus, workdir)
    assert "returns a DistillConfig, and this driver needs a PretrainConfig" in result.error()
    result = drivers.run("distill", *pretrain_flags, teacher, workdir)
    assert "returns a PretrainConfig, and this driver needs a DistillConfig" in result.error()


def test_a_plan_knows_the_teacher(
    pretrained: Run, drivers: Drivers, distill_flags: list[str], tmp_path: pathlib.Path
) -> None:
    *flags, _ = distill_flags
    flags.append("--topology=cpu:2")
    said = drivers.run("plan", *flags, f"--teacher={pretrained[0]}")
    assert said.status == 0, said
    checkpoint = find_checkpoint(pretrained[0])
    arrays = arrays_of(pretrained[0])
    read = sum(arrays[name].nbytes for name in arrays if name.startswith(("encoder", "mlm_head")))
    line = next(line for line in said.out.splitlines() if line.startswith("  teacher "))
    assert line.split(maxsplit=1)[1] == size(read)

    # A recipe without a size of its vocabulary has that of the student.
    shape = from_dict(EncoderConfig, read_metadata(checkpoint)["encoder"])
    recipe = tmp_path / "teacher.py"
    values = {name: value for name, value in to_dict(shape).items() if isinstance(value, int)}
    recipe.write_text(
        "from bert_jax.config import EncoderConfig, PretrainConfig\n"
        f"def get_config():\n    return PretrainConfig(encoder=EncoderConfig(**{values}))\n"
    )
    other = drivers.run("plan", *flags, f"--teacher={recipe}")
    assert other.out == said.out

    assert "--teacher is not set" in drivers.run("plan", *flags).error()
    lower = drivers.run("plan", *flags, f"--teacher={recipe}", "--config.student_layers=2")
    assert "the teacher has 2 layers, and no layer 2" in lower.error()
    plain = drivers.run("plan", "--config=pretrain_tiny", "--topology=cpu:2", "--teacher=x")
    assert "--teacher=x: this recipe is no distilling run" in plain.error()


@pytest.fixture(scope="session")
def taught_flags(distilled: Run, finetuned: Run, task: pathlib.Path) -> list[str]:
    *flags, _ = finetune_flags(task, distilled, pathlib.Path())
    return [*flags, f"--config.teacher={finetuned[0]}", "--config.teacher_weight=1"]


def test_a_student_learns_a_task_from_its_teacher_alone(
    taught_flags: list[str], drivers: Drivers, tmp_path: pathlib.Path
) -> None:
    """With all of the weight on the teacher, labels that are wrong do not matter."""
    workdir = tmp_path / "run"
    said = drivers.run("finetune", *taught_flags, f"--workdir={workdir}")
    assert said.status == 0, said
    lines = [line for line in log_of(workdir) if "taught_loss" in line]
    assert lines[-1]["taught_loss"] < lines[0]["taught_loss"]
    train = next(flag for flag in taught_flags if "data.train" in flag).partition("=")[2]
    head, *rows = pathlib.Path(train).read_text().splitlines()
    swapped = {"warm": "cold", "cold": "warm"}
    cells = [row.split("\t") for row in rows]
    wrong = [f"{number}\t{swapped[label]}\t{words}" for number, label, words in cells]
    (tmp_path / "wrong.tsv").write_text("\n".join([head, *wrong]) + "\n")
    flags = [*taught_flags, f"--config.data.train={tmp_path / 'wrong.tsv'}"]
    other = tmp_path / "other"
    assert drivers.run("finetune", *flags, f"--workdir={other}").status == 0
    assert_same_bits(arrays_of(other), arrays_of(workdir))
    assert "taught_loss" not in log_of(other)[-1]  # held-out scores know the labels alone


def test_inputs_without_labels_are_taught_alike(
    taught_flags: list[str], drivers: Drivers, tmp_path: pathlib.Path
) -> None:
    """With all of the weight on the teacher, it does not matter which inputs have labels."""
    train = next(flag for flag in taught_flags if "data.train" in flag).partition("=")[2]
    head, *rows = pathlib.Path(train).read_text().splitlines()
    half = len(rows) // 2
    (tmp_path / "some.tsv").write_text("\n".join([head, *rows[:half]]) + "\n")
    words = [row.rpartition("\t")[2] for row in [head, *rows[half:]]]
    (tmp_path / "more.tsv").write_text("\n".join(words) + "\n")
    more = f"--config.data.unlabelled={tmp_path / 'more.tsv'}"
    some = [*taught_flags, f"--config.data.train={tmp_path / 'some.tsv'}", more]
    result = drivers.run("finetune", *taught_flags, f"--workdir={tmp_path / 'all'}")
    assert result.status == 0, result
    result = drivers.run("finetune", *some, f"--workdir={tmp_path / 'run'}")
    assert f"train: {len(rows):,} examples, {len(rows) - half:,} of them without" in result.err
    assert log_of(tmp_path / "run")[0]["examples"] == half  # those with labels
    ours, whole = (arrays_of(tmp_path / name) for name in ("run", "all"))
    for name, array in ours.items():  # the teacher read them in other rows
        np.testing.assert_allclose(array, whole[name], rtol=1e-4, atol=1e-6, err_msg=name)

    # They count in every sweep and beside labels, and change what a run is.
    both = [*some, "--config.teacher_weight=0.5", "--config.class_weights=balanced"]
    both.append("--learning_rates=1e-3,3e-2")
    result = drivers.run("finetune_sweep", *both, f"--workdir={tmp_path / 'sweep'}")
    assert result.status == 0, result
    (tmp_path / "more.tsv").write_text("\n".join(words[:-1]) + "\n")
    result = drivers.run("finetune", *some, f"--workdir={tmp_path / 'run'}")
    assert "another" in result.error()
    untaught = [flag for flag in some if "config.teacher" not in flag]
    result = drivers.run("finetune", *untaught, f"--workdir={tmp_path / 'none'}")
    assert f"{more} needs answers to learn: name a teacher" in result.error()


def test_a_sweep_has_a_teacher_too(
    taught_flags: list[str], drivers: Drivers, tmp_path: pathlib.Path
) -> None:
    flags = [*taught_flags, "--learning_rates=1e-3,3e-2", f"--workdir={tmp_path / 'sweep'}"]
    said = drivers.run("finetune_sweep", *flags)
    assert said.status == 0, said
    assert any("taught_loss" in line for line in log_of(tmp_path / "sweep"))


def test_a_teacher_of_another_task_is_refused(
    taught_flags: list[str],
    pretrained: Run,
    finetuned: Run,
    drivers: Drivers,
    tmp_path: pathlib.Path,
) -> None:
    workdir = f"--workdir={tmp_path / 'run'}"
    given = [flag for flag in taught_flags if "config.teacher=" not in flag]
    result = drivers.run("finetune", *given, f"--config.teacher={pretrained[0]}", workdir)
    assert "is of kind pretraining, and this is task=classification" in result.error()
    (tmp_path / "other.tsv").write_text("id\tfeel\twords\n0\thot\tred\n1\tcold\tblue\n")
    files = [f"--config.data.{split}={tmp_path / 'other.tsv'}" for split in ("train", "dev")]
    others = [
        flag
        for flag in taught_flags
        if not flag.startswith(("--config.data.train", "--config.data.dev"))
    ]
    result = drivers.run("finetune", *others, *files, workdir)
    assert "has the labels 'cold', 'warm', and the task has 'cold', 'hot'" in result.error()
    assert not (tmp_path / "run").exists()
