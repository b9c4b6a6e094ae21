"""Vectors of texts from training to prediction, as a user runs them."""

import json
import pathlib
import random

import numpy as np
import pytest

import bert_jax
from bert_jax.checkpoints.checkpoint import find_checkpoint, read_metadata
from tests.drivers.test_task_drivers import (
    assert_scores_are_those_of_the_run,
    evaluate,
    predict,
    run_flags,
)
from tests.fixtures.drivers import Drivers, Run, log_of

WORDS = "red blue old new stone river house tree wind light".split()


def write_triples(path: pathlib.Path, count: int, *, seed: int) -> None:
    """Writes queries, the same words in another order, and other words."""
    rng = random.Random(seed)
    lines = ["q\tright\twrong"]
    for _ in range(count):
        words = rng.sample(WORDS, rng.randint(2, 4))
        other = rng.sample(words, len(words))
        lines.append("\t".join(" ".join(each) for each in (words, other, rng.sample(WORDS, 3))))
    path.write_text("\n".join(lines) + "\n")


def test_vectors_are_those_of_training(
    drivers: Drivers, task: pathlib.Path, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    write_triples(tmp_path / "train.tsv", 37, seed=0)
    write_triples(tmp_path / "dev.tsv", 11, seed=1)
    run = tmp_path / "run"
    config = [
        "task=vectors",
        f"data.train={tmp_path / 'train.tsv'}",
        f"data.dev={tmp_path / 'dev.tsv'}",
        "data.text_column=q",
        "data.text_pair_column=right",
        "data.label_column=",
        "data.negative_columns=wrong",
        "vectors.pooling=last",
        "vectors.query_prompt=old ",
        "vectors.widths=5",
        "batch_size=8",
        "micro_batches=2",
        "dropout_rate=0.1",
        "optimizer.learning_rate=1e-3",
    ]
    result = drivers.run("finetune", *run_flags(task, pretrained, run, *config))
    assert result.status == 0, result
    assert "train: 37 examples of 111 texts" in result.err
    assert "classifier" not in result.err
    log = log_of(run)
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[-1] < losses[0]
    assert all(entry["negatives"] > 8 for entry in log if "negatives" in entry)
    scores = evaluate(drivers, run, tmp_path / "evaluated")
    assert {"mrr", "accuracy", "mrr_5", "accuracy_5"} <= set(scores)
    assert_scores_are_those_of_the_run(scores, run)

    # Prediction has the prompts, the pooling and the length of the checkpoint.
    metadata = read_metadata(find_checkpoint(run))
    assert metadata["config"]["vectors"]["query_prompt"] == "old "
    model = bert_jax.load(run)
    pairs = [("red stone", "stone red"), ("wind", "blue light tree")]
    sides = [model.encode(["old " + a for a, _ in pairs]), model.encode([b for _, b in pairs])]
    np.testing.assert_allclose(np.linalg.norm(sides, axis=-1), 1, rtol=1e-5)
    last = model.encode("wind", pooling="last")
    np.testing.assert_allclose(last / np.linalg.norm(last), model.encode("wind"), atol=1e-5)
    told = predict(drivers, run, ["\t".join(pair) for pair in pairs])
    near = [each["cosine"] for each in told]
    np.testing.assert_allclose(near, (sides[0] * sides[1]).sum(axis=1), atol=1e-5)
    assert told[0] == {"text": "red stone", "text_pair": "stone red", "cosine": near[0]}
    result = drivers.run("predict", f"--checkpoint={run}", "--text=wind")
    assert result.status != 0 and "has no second text to compare" in result.err
    lines = json.loads((tmp_path / "evaluated" / "scores.json").read_text())
    assert lines["examples"] == 11


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (["batch_size=2"], "batch_size=2 leaves a batch of one of 37 examples"),
        (["vectors.widths=5,99"], "widths=5,99: the vectors of the model are 12 wide"),
        (["data.text_pair_column=wright"], "train.tsv:2 has no column 'wright'"),
    ],
)
def test_what_cannot_be_trained_is_told_before_the_first_step(
    drivers: Drivers,
    task: pathlib.Path,
    pretrained: Run,
    tmp_path: pathlib.Path,
    config: list[str],
    message: str,
) -> None:
    write_triples(tmp_path / "train.tsv", 37, seed=0)
    flags = [
        "task=vectors",
        f"data.train={tmp_path / 'train.tsv'}",
        f"data.dev={tmp_path / 'train.tsv'}",
        "data.text_column=q",
        "data.text_pair_column=right",
        "data.label_column=",
        *config,
    ]
    run = tmp_path / "run"
    result = drivers.run("finetune", *run_flags(task, pretrained, run, *flags))
    assert result.status == 1 and message in result.err and not run.exists()
    assert len(result.err.strip().splitlines()) == 1
