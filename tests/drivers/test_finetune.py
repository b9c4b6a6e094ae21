import pathlib
import random
import shutil
import signal

import jax
import numpy as np
import pytest

from bert_jax.checkpoints.checkpoint import find_checkpoint, read_metadata, restore_state, steps_in
from bert_jax.checkpoints.transfer import frozen_groups
from bert_jax.config import EncoderConfig, FinetuneConfig, MeshConfig, from_dict
from bert_jax.distributed.sharding import make_mesh
from bert_jax.runs.finetuning_setup import row_advice
from bert_jax.tasks.kinds import make_model
from bert_jax.training.optimizer import make_optimizer
from bert_jax.training.state import TrainState, abstract_state
from tests.fixtures.drivers import (
    COLD,
    WARM,
    Drivers,
    Run,
    assert_same_bits,
    copied,
    finetune_flags,
    log_of,
    newest,
    write_task,
)
from tests.fixtures.drivers import state_of as pretrained_state


def state_of(checkpoint: pathlib.Path) -> TrainState:
    metadata = read_metadata(checkpoint)
    config = from_dict(FinetuneConfig, metadata["config"])
    model = make_model(config, from_dict(EncoderConfig, metadata["encoder"]), metadata["labels"])
    tx = make_optimizer(config.optimizer, frozen=frozen_groups(config))
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    return restore_state(checkpoint, abstract_state(model, tx, mesh))[0]


def test_learns_a_task_that_words_decide(finetuned: Run) -> None:
    scores = [entry["dev_accuracy"] for entry in log_of(finetuned[0]) if "dev_accuracy" in entry]
    assert scores[-1] == 1.0
    assert find_checkpoint(finetuned[0]).parent.parent == finetuned[0]


def test_rows_divide_among_the_parts_of_a_batch(
    drivers: Drivers, task: pathlib.Path, pretrained: Run, finetuned: Run, tmp_path: pathlib.Path
) -> None:
    """Without dropout, a batch in parts has the losses of the whole one."""
    parts = "--config.micro_batches=5"
    result = drivers.run("finetune", *finetune_flags(task, pretrained, tmp_path), parts)
    assert result.status == 0, result
    ours, expected = (
        [entry["loss"] for entry in log_of(run) if "loss" in entry]
        for run in (tmp_path, finetuned[0])
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-3)


def test_says_what_is_transferred_and_what_is_fresh(finetuned: Run) -> None:
    table = [line.split() for line in finetuned[1].err.splitlines()]
    assert ["classifier", "26", "fresh", "trained", "0.03"] in table
    for group in ("encoder", "pooler"):
        said = [line[2:] for line in table if line[:1] == [group]]
        assert said == [["transferred", "trained", "0.03"]]
    assert "labels: cold, warm" in finetuned[1].err
    assert "train: 42 examples" in finetuned[1].err and "dev: 17 examples" in finetuned[1].err


@pytest.mark.parametrize(
    ("longest", "length", "enough"), [(58, 128, 64), (64, 128, 64), (65, 128, None), (9, 16, None)]
)
def test_rows_that_are_far_too_long_are_told_of(longest, length, enough) -> None:
    said = row_advice(longest, length)
    assert said is None if enough is None else f"--config.data.length={enough} " in str(said)


def test_the_checkpoint_is_self_contained(finetuned: Run, pretrained: Run) -> None:
    metadata = read_metadata(find_checkpoint(finetuned[0]))
    assert metadata["kind"] == "classification" and metadata["labels"] == ["cold", "warm"]
    assert metadata["tokenizer"] == read_metadata(newest(pretrained[0]))["tokenizer"]


def test_killed_and_started_again_ends_with_the_same_bits(
    drivers: Drivers, task: pathlib.Path, pretrained: Run, finetuned: Run, tmp_path: pathlib.Path
) -> None:
    flags = finetune_flags(task, pretrained, tmp_path)
    running = drivers.start("finetune", *flags)
    running.wait_until(lambda: steps_in(tmp_path) != [])
    running.send(signal.SIGKILL)
    assert running.wait().status == -signal.SIGKILL
    again = drivers.run("finetune", *flags)
    assert again.status == 0 and "resuming at step" in again.err
    assert_same_bits(state_of(newest(tmp_path)), state_of(newest(finetuned[0])))
    assert log_of(tmp_path) == log_of(finetuned[0])
    assert find_checkpoint(tmp_path).name == find_checkpoint(finetuned[0]).name


def test_asked_to_stop_it_goes_on_as_if_it_had_not_been(
    drivers: Drivers, task: pathlib.Path, pretrained: Run, finetuned: Run, tmp_path: pathlib.Path
) -> None:
    flags = finetune_flags(task, pretrained, tmp_path)
    running = drivers.start("finetune", *flags)
    running.wait_until(lambda: "step 2/" in running.err)
    running.send(signal.SIGTERM)
    stopped = running.wait()
    assert stopped.status == 75 and "goes on from there" in stopped.err
    assert drivers.run("finetune", *flags).status == 0
    assert_same_bits(state_of(newest(tmp_path)), state_of(newest(finetuned[0])))
    assert find_checkpoint(tmp_path).name == find_checkpoint(finetuned[0]).name
    evaluated = [
        [each for each in log_of(run) if "dev_loss" in each] for run in (tmp_path, finetuned[0])
    ]
    assert evaluated[0] == evaluated[1]


def test_a_run_goes_on_from_its_own_checkpoint_only(
    drivers: Drivers, task: pathlib.Path, pretrained: Run, finetuned: Run, tmp_path: pathlib.Path
) -> None:
    flags = [
        *finetune_flags(task, pretrained, copied(finetuned, tmp_path / "run")),
        f"--checkpoint={pretrained[0]}/checkpoints/8",
    ]
    message = drivers.run("finetune", *flags).error()
    assert "began with the parameters of" in message and "checkpoints/8" in message


def test_a_frozen_encoder_keeps_its_bits(
    drivers: Drivers, task: pathlib.Path, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    frozen = "--config.encoder_mode=frozen"
    result = drivers.run("finetune", *finetune_flags(task, pretrained, tmp_path), frozen)
    assert result.status == 0
    before = pretrained_state(newest(pretrained[0])).params
    after = state_of(newest(tmp_path)).params
    assert_same_bits(after["encoder"], before["encoder"])
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), after["pooler"], before["pooler"])
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize("transfer", [True, False])
def test_the_first_step_shows_what_was_transferred(
    transfer: bool, drivers: Drivers, task: pathlib.Path, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    # Warm-up begins at a rate of 0: the one step leaves the parameters as they are.
    flags = [f"--config.transfer={transfer}", "--config.epochs=2", "--config.batch_size=42"]
    flags += ["--config.optimizer.warmup_steps=1"]
    running = drivers.start("finetune", *finetune_flags(task, pretrained, tmp_path), *flags)
    running.wait_until(lambda: steps_in(tmp_path) == [1])
    saved = tmp_path / "first"
    shutil.copytree(tmp_path / "checkpoints/1", saved)
    assert running.wait().status == 0
    before, after = pretrained_state(newest(pretrained[0])).params, state_of(saved).params
    if transfer:
        groups = ("encoder", "pooler")
        assert_same_bits({g: after[g] for g in groups}, {g: before[g] for g in groups})
    else:
        kernels = [tree["encoder"]["layers"]["mlp"]["up"]["kernel"] for tree in (before, after)]
        assert not np.isin(*kernels).any()
    biases = [leaf for leaf in jax.tree.leaves(after["classifier"]) if leaf.ndim == 1]
    assert biases and not any(np.asarray(bias).any() for bias in biases)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "train.tsv",
            "id\tlabel\twords\n1\twarm\tred\n",
            "train.tsv:2 has no column 'feel'",
        ),
        (
            "dev.tsv",
            "feel\twords\nhot\tred\n",
            "dev.tsv:2 has the label 'hot', which",
        ),
        ("dev.tsv", "feel\twords\nwarm\t \n", "dev.tsv:2 has an empty 'words'"),
        ("dev.tsv", "feel\twords\nwarm\tred\tblue\n", "dev.tsv:2 has 3 columns, but the first"),
        ("train.tsv", "feel\twords\nwarm\tred\nwarm\tsun\n", "have the label 'warm'"),
        ("dev.tsv", "feel\twords\n", "dev.tsv has no examples"),
        ("dev.tsv", "", "dev.tsv has no examples"),
        ("dev.tsv", b"feel\twords\nwarm\tr\xe9d\n", "dev.tsv is not UTF-8 at byte 17"),
        ("dev.tsv", None, "dev.tsv: No such file or directory"),
    ],
)
def test_a_wrong_task_file_is_one_line(
    name: str,
    content: str | bytes | None,
    message: str,
    drivers: Drivers,
    task: pathlib.Path,
    pretrained: Run,
    tmp_path: pathlib.Path,
) -> None:
    copy = pathlib.Path(shutil.copytree(task, tmp_path / "task"))
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_bytes(content.encode() if isinstance(content, str) else content)
    flags = finetune_flags(copy, pretrained, tmp_path / "run")
    assert message in drivers.run("finetune", *flags).error()
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_must_have_the_same_examples(
    drivers: Drivers, task: pathlib.Path, pretrained: Run, finetuned: Run, tmp_path: pathlib.Path
) -> None:
    run, moved = copied(finetuned, tmp_path / "run"), tmp_path / "task"
    shutil.copytree(task, moved)
    config = (run / "config.json").read_text()
    assert str(task) in config
    (run / "config.json").write_text(config.replace(str(task), str(moved)))
    write_task(moved / "dev.tsv", 17, seed=2)
    message = drivers.run("finetune", *finetune_flags(moved, pretrained, run)).error()
    assert "began with other examples or another tokenizer" in message


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--checkpoint=nowhere", "nowhere has no checkpoint: name the directory of a run"),
        ("--checkpoint=", "--checkpoint is not set: for example --checkpoint=runs/base"),
        ("--workdir=", "--workdir is not set"),
        ("--config.data.length=41", "length=41 is longer than the position table"),
        ("--config.data.dev=dev.xml", "dev.xml: the name must end in .tsv, .txt, .csv, .jsonl"),
        ("--config.data.dev=dev.conll", "dev.conll: a .conll file is for task=tags"),
        ("--config.data.dev=dev.json", "dev.json: a .json file is for task=spans"),
        ("--config.task=spans", "train.tsv: a .tsv file is for task=classification or regression"),
        ("--config.metric=bleu", "--config.metric=bleu is not a metric of this task: choose"),
        (
            "--config.feature_layers=3",
            "feature_layers=3, but the checkpoint's encoder has 2",
        ),
        ("--config.class_weights=hot=2", "is not LABEL=WEIGHT with a label of 'cold', 'warm' and"),
        ("--config.data.examples=43", "data.examples=43: "),
        ("--config.data.examples_per_class=-1", "data.examples_per_class"),
        ("--config.data.train=", "--config.data.train is not set"),
        ("--config.optimizer.warmup_steps=33", "warmup_steps=33 leaves no step to train: the run"),
        ("--config.encoder.width=3", "--config.encoder.width: there is no such field"),
    ],
)
def test_wrong_flags_are_one_line(
    flag: str, message: str, drivers: Drivers, task: pathlib.Path, pretrained: Run
) -> None:
    workdir = task / "never"
    assert (
        message in drivers.run("finetune", *finetune_flags(task, pretrained, workdir), flag).error()
    )
    assert not workdir.exists()


def test_a_pretraining_runs_directory_is_refused(
    drivers: Drivers, task: pathlib.Path, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    run = copied(pretrained, tmp_path / "run")
    message = drivers.run("finetune", *finetune_flags(task, pretrained, run)).error()
    assert "has another kind of run" in message


def test_pairs(
    drivers: Drivers, task: pathlib.Path, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    rng = random.Random(0)
    for name, count in (("train", 41), ("dev", 7)):
        lines = ["a\tb\tsame"]
        for _ in range(count):
            first, second = rng.choice(WARM + COLD), rng.choice(WARM + COLD)
            lines.append(f"{first}\t{second}\t{'yes' if first == second else 'no'}")
        lines.append("red\tred\tyes")
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    columns = ["text_column=a", "text_pair_column=b", "label_column=same"]
    flags = [
        f"--config={task / 'recipe.py'}",
        f"--config.data.train={tmp_path / 'train.tsv'}",
        f"--config.data.dev={tmp_path / 'dev.tsv'}",
        *(f"--config.data.{column}" for column in columns),
        f"--checkpoint={pretrained[0]}",
        f"--workdir={tmp_path / 'run'}",
    ]
    assert drivers.run("finetune", *flags).status == 0
    checkpoint = f"--checkpoint={tmp_path / 'run'}"
    result = drivers.run("predict", checkpoint, "--json", stdin="red\tblue\nsun\tsun\n")
    assert result.status == 0 and '"text_pair": "blue"' in result.out
    assert "whose inputs are pairs" in drivers.run("predict", checkpoint, "--text=red").error()
