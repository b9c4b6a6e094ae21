"""Pretraining runs with other choices than BERT's: phases, mixtures, formats, objectives."""

import json
import pathlib
import shutil
import signal

import pytest

from bert_jax.checkpoints.checkpoint import groups_in, read_metadata, steps_in
from tests.fixtures.drivers import (
    PRETRAIN_RECIPE,
    Drivers,
    Run,
    assert_same_bits,
    finetune_flags,
    log_of,
    newest,
    prepare_flags,
    state_of,
    write_text,
)

PHASES = """
    from bert_jax.config import PhaseConfig

    config.phases = [PhaseConfig(share=0.5, length=16, batch_size=6), PhaseConfig(share=0.5)]
    return config
"""


@pytest.fixture(scope="module")
def two_corpora(drivers: Drivers, corpus: pathlib.Path, tmp_path_factory) -> str:
    """A mixture of the shared corpus and another one with its tokenizer."""
    directory = tmp_path_factory.mktemp("second")
    write_text(directory / "text.txt", 40, seed=5)
    flags = prepare_flags(directory / "text.txt", directory / "corpus")
    flags[1] = f"--tokenizer={corpus / 'tokenizer'}"
    result = drivers.run("prepare", *flags)
    assert result.status == 0, result
    return f"{corpus}=2,{directory / 'corpus'}=1"


@pytest.fixture(scope="module")
def phased_flags(two_corpora: str, tmp_path_factory) -> list[str]:
    recipe = tmp_path_factory.mktemp("recipe") / "phases.py"
    recipe.write_text(PRETRAIN_RECIPE.removesuffix("    return config\n") + PHASES)
    return [
        f"--config={recipe}",
        f"--config.data.corpus={two_corpora}",
        "--config.data.objective=sop",
        "--config.data.random_b_rate=0",
        "--config.masking.strategy=whole_words",
        "--config.masking.final_rate=0.3",
        "--config.checkpoint_steps=1",
    ]


def test_a_run_in_phases_over_a_mixture_is_resumed_across_the_border(
    drivers: Drivers, phased_flags: list[str], tmp_path: pathlib.Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    result = drivers.run("pretrain", *phased_flags, f"--workdir={whole}")
    assert result.status == 0, result
    assert "phase 1 of 2, first block of" in result.err
    assert "phase 2 of 2, first block of" in result.err
    process = drivers.start("pretrain", *phased_flags, f"--workdir={killed}")
    process.wait_until(lambda: len(steps_in(killed)) > 1)
    process.send(signal.SIGKILL)
    assert process.wait().status == -signal.SIGKILL
    assert steps_in(killed)[-1] < 12  # it was killed on the way
    result = drivers.run("pretrain", *phased_flags, f"--workdir={killed}")
    assert result.status == 0 and "resuming at step" in result.err, result
    assert_same_bits(state_of(newest(killed)), state_of(newest(whole)))
    metadata = [read_metadata(newest(run)) for run in (whole, killed)]
    assert metadata[0]["cursor"] == metadata[1]["cursor"]
    assert metadata[0]["cursor"][:2] == [1, 6 * 4]  # phase, rows of it
    assert log_of(whole) == log_of(killed)
    last = log_of(whole)[-1]
    assert {"heldout_sop_loss", "heldout_sop_accuracy", "heldout_sop_swapped_share"} <= last.keys()
    assert {"encoder", "pooler", "mlm_head", "sop_head"} == set(groups_in(newest(whole)))


MODERN = """
    from bert_jax import config as configs

    config.optimizer.rule = configs.Optimizer.RULE
    config.optimizer.schedule = configs.Schedule.CONSTANT
    config.optimizer.weight_decay, config.optimizer.decoupled_decay = 1e-2, True
    encoder = config.encoder
    encoder.position_encoding = configs.PositionEncoding.ROTARY
    encoder.window, encoder.global_every, encoder.segments = 4, 2, 0
    config.data.format = configs.ExampleFormat.DOC_SENTENCES
    config.data.objective = configs.SentenceObjective.NONE
    config.data.length = 16
    config.phases = [
        configs.PhaseConfig(share=0.25, batch_size=2),
        configs.PhaseConfig(share=0.25, mask_rate=0.3),
        configs.PhaseConfig(share=0.25, length=32, learning_rate=1e-3, rope_theta=500.0, window=3),
        configs.PhaseConfig(
            share=0.25,
            length=32,
            learning_rate=5e-4,
            schedule=configs.Schedule.SQRT,
            rope_theta=500.0,
            window=0,
            weight_decay=0.0,
        ),
    ]
    return config
"""


@pytest.mark.parametrize(
    ("rule", "ends"),
    [
        ("MUON", (1, 5, 8, 11)),
        pytest.param("STABLE_ADAMW", (1, 3, 5, 6, 8, 9, 11), marks=pytest.mark.slow),
    ],
)
def test_a_run_of_todays_phases_goes_on_from_any_of_them(
    drivers: Drivers,
    corpus: pathlib.Path,
    tmp_path: pathlib.Path,
    rule: str,
    ends: tuple[int, ...],
) -> None:
    recipe, whole = tmp_path / "modern.py", tmp_path / "whole"
    text = PRETRAIN_RECIPE.removesuffix("    return config\n") + MODERN.replace("RULE", rule)
    recipe.write_text(text)
    flags = [f"--config={recipe}", f"--config.data.corpus={corpus}"]
    flags += ["--config.checkpoint_steps=1", "--config.keep_checkpoints=99"]
    result = drivers.run("pretrain", *flags, f"--workdir={whole}")
    assert result.status == 0, result
    assert f"{rule.lower()}, decay 0.01" in result.err
    steps = steps_in(whole)
    assert steps == list(range(1, 13))
    windows = [read_metadata(whole / "checkpoints" / str(n))["encoder"]["window"] for n in steps]
    assert windows == [4] * 6 + [3] * 3 + [0] * 3
    # As after a kill: in the warm-up and inside the other phases, or at the end of one.
    for last in ends:
        killed = tmp_path / f"killed{last}"
        shutil.copytree(whole, killed)
        for step in steps[last:]:
            shutil.rmtree(killed / "checkpoints" / str(step))
        result = drivers.run("pretrain", *flags, f"--workdir={killed}")
        assert result.status == 0 and f"resuming at step {last} " in result.err, result
        assert_same_bits(state_of(newest(killed)), state_of(newest(whole)))
        assert log_of(killed) == log_of(whole)
        assert read_metadata(newest(killed))["cursor"] == read_metadata(newest(whole))["cursor"]


@pytest.mark.parametrize(
    ("flags", "groups"),
    [
        (
            ["--config.data.format=full_sentences", "--config.masking.strategy=spans"],
            {"encoder", "mlm_head"},
        ),
        (
            ["--config.encoder.causal", "--config.masking.strategy=next_token"],
            {"encoder", "mlm_head"},
        ),
    ],
    ids=["full_sentences", "left_to_right"],
)
def test_without_a_sentence_objective_fine_tuning_makes_a_fresh_pooler(
    drivers: Drivers,
    pretrain_flags: list[str],
    task: pathlib.Path,
    tmp_path: pathlib.Path,
    flags: list[str],
    groups: set[str],
) -> None:
    workdir, tuned = tmp_path / "run", tmp_path / "tuned"
    result = drivers.run(
        "pretrain", *pretrain_flags, *flags, "--config.data.objective=none", f"--workdir={workdir}"
    )
    assert result.status == 0, result
    assert set(groups_in(newest(workdir))) == groups
    assert not any("nsp" in name for entry in log_of(workdir) for name in entry)
    run: Run = (workdir, result)
    result = drivers.run("finetune", *finetune_flags(task, run, tuned))
    assert result.status == 0, result
    rows = {line.split()[0]: line for line in result.err.splitlines() if "trained" in line}
    assert "fresh" in rows["pooler"] and "transferred" in rows["encoder"]


def test_held_out_examples_are_apart_whatever_the_run_does(
    drivers: Drivers, pretrain_flags: list[str], tmp_path: pathlib.Path
) -> None:
    flags = [*pretrain_flags, "--config.data.objective=none", "--config.eval_steps=1"]
    flags += ["--config.steps=1", "--config.optimizer.warmup_steps=0"]
    flags += ["--config.optimizer.learning_rate=1e-30"]  # the model stays as it was drawn
    logs = {}
    for apart in (True, False):
        workdir = tmp_path / str(apart)
        choice = f"--config.data.separate_examples={apart}"
        result = drivers.run("pretrain", *flags, choice, f"--workdir={workdir}")
        assert result.status == 0, result
        logs[apart] = log_of(workdir)
    held_out, trained = (
        [[each[name] for each in logs[apart] if name in each] for apart in (True, False)]
        for name in ("heldout_mlm_loss", "mlm_loss")
    )
    assert held_out[0] == held_out[1] and trained[0] != trained[1]


def test_runs_of_other_formats_are_compared_on_the_same_rows(
    drivers: Drivers, pretrain_flags: list[str], tmp_path: pathlib.Path
) -> None:
    flags = [*pretrain_flags, "--config.eval_steps=1", "--config.steps=1"]
    flags += ["--config.optimizer.warmup_steps=0"]
    flags += ["--config.optimizer.learning_rate=1e-30"]  # the model stays as it was drawn
    formats = {
        "pairs": [],
        "single": ["--config.data.format=sentence_pair", "--config.data.static_copies=2"],
        "full": ["--config.data.format=full_sentences", "--config.data.objective=none"],
    }
    held_out = {}
    for own in (True, False):
        for name, choice in formats.items():
            workdir = tmp_path / f"{name}-{own}"
            choice = [*choice, f"--config.eval_full_sentences={not own}", f"--workdir={workdir}"]
            assert drivers.run("pretrain", *flags, *choice).status == 0
            (entry,) = (each for each in log_of(workdir) if "heldout_mlm_loss" in each)
            held_out[name, own] = {k: v for k, v in entry.items() if k.startswith("heldout_")}
    assert held_out["pairs", False] == held_out["single", False] == held_out["full", False]
    assert held_out["full", False] == held_out["full", True]
    assert held_out["full", True].keys() < held_out["pairs", True].keys()  # with NSP's
    losses = {held_out[name, True]["heldout_mlm_loss"] for name in formats}
    assert len(losses) == 3


def test_a_corpus_is_copied_to_the_host_once(
    drivers: Drivers, pretrain_flags: list[str], corpus: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    flags = [*pretrain_flags, f"--config.data.local_dir={tmp_path / 'local'}", "--config.steps=3"]
    first = drivers.run("pretrain", *flags, f"--workdir={tmp_path / 'a'}")
    second = drivers.run("pretrain", *flags, f"--workdir={tmp_path / 'b'}")
    assert f"copied {corpus} to {tmp_path}/local/corpus-" in first.err
    assert f"reading {corpus} from its copy {tmp_path}/local/corpus-" in second.err
    one, other = (read_metadata(newest(tmp_path / name)) for name in "ab")
    assert one["fingerprints"] == other["fingerprints"]
    assert json.dumps(one["cursor"]) == json.dumps(other["cursor"])


def test_corpora_of_other_tokenizers_do_not_mix(
    drivers: Drivers, pretrain_flags: list[str], tmp_path: pathlib.Path
) -> None:
    write_text(tmp_path / "text.txt", 30, seed=9)
    flags = prepare_flags(tmp_path / "text.txt", tmp_path / "other")
    assert drivers.run("prepare", *flags).status == 0
    mixture = f"--config.data.corpus={tmp_path / 'other'}"  # beside the one in the flags
    result = drivers.run("pretrain", *pretrain_flags, mixture, f"--workdir={tmp_path / 'run'}")
    assert "have different tokenizers: prepare one of them with the --tokenizer" in result.error()
    assert not (tmp_path / "run").exists()
