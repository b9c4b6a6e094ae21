"""Fine-tuning, evaluation and prediction of every kind of task, as a user runs them."""

import json
import pathlib
import random
import re
import shutil

import jax
import numpy as np
import pytest

import bert_jax
from bert_jax.checkpoints.checkpoint import find_checkpoint, read_metadata
from bert_jax.inspection.stored import open_checkpoint
from tests.drivers.test_finetune import state_of
from tests.fixtures.drivers import (
    Drivers,
    Result,
    Run,
    assert_same_bits,
    finetune_flags,
    log_of,
    newest,
)
from tests.fixtures.drivers import state_of as pretrained_state

WORDS = "red blue old new stone river house tree wind light".split()


def run_flags(
    task: pathlib.Path, pretrained: Run, workdir: pathlib.Path, *config: str
) -> list[str]:
    return [
        f"--config={task / 'recipe.py'}",
        f"--checkpoint={pretrained[0]}",
        f"--workdir={workdir}",
        *(f"--config.{each}" for each in config),
    ]


def predict(drivers: Drivers, workdir: pathlib.Path, lines: list[str]) -> list[dict]:
    stdin = "".join(f"{line}\n" for line in lines)
    result = drivers.run("predict", f"--checkpoint={workdir}", "--json", stdin=stdin)
    assert result.status == 0 and not result.err, result
    return [json.loads(line) for line in result.out.splitlines()]


def evaluate(drivers: Drivers, workdir: pathlib.Path, output: pathlib.Path) -> dict:
    result = drivers.run("evaluate", f"--checkpoint={workdir}", f"--output={output}")
    assert result.status == 0 and not result.err, result
    return json.loads((output / "scores.json").read_text())


def assert_scores_are_those_of_the_run(scores: dict, workdir: pathlib.Path) -> None:
    stored = read_metadata(find_checkpoint(workdir))["scores"]
    found = {name: value for name, value in scores.items() if f"dev_{name}" in stored}
    assert len(found) >= 2
    for name, value in found.items():
        assert value == pytest.approx(stored[f"dev_{name}"], abs=1e-5), name


def test_tags(
    drivers: Drivers, task: pathlib.Path, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    rng = random.Random(0)
    for name, count in (("train", 60), ("dev", 9)):
        sentences = [rng.choices(WORDS, k=rng.randint(2, 9)) for _ in range(count)]
        blocks = [
            "".join(f"{w}\t{'S-HUE' if w in ('red', 'blue') else 'O'}\n" for w in words)
            for words in sentences
        ]
        (tmp_path / f"{name}.conll").write_text("\n".join(blocks))
    run = tmp_path / "run"
    config = [
        "task=tags",
        f"data.train={tmp_path / 'train.conll'}",
        f"data.dev={tmp_path / 'dev.conll'}",
        "data.length=8",  # so that many sentences are longer
        "data.stride=3",
        "epochs=6",
        "optimizer.learning_rate=1e-2",
    ]
    result = drivers.run("finetune", *run_flags(task, pretrained, run, *config))
    assert result.status == 0, result
    assert "labels: O, S-HUE" in result.err and "windows" in result.err
    assert "IOBES entities" in result.err
    assert "majority-class baseline: dev f1 of 0.0000" in result.err
    scores = evaluate(drivers, run, tmp_path / "out")
    assert scores["f1"] == 1 and (tmp_path / "out/confusion.png").stat().st_size > 1000
    assert_scores_are_those_of_the_run(scores, run)
    lines = [
        json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()
    ]
    assert lines[0]["tags"] == lines[0]["gold"] and len(lines[0]["words"]) == len(lines[0]["tags"])

    odd = [["red", "blue", "old"], ["u.s.", 7, "\tred"]]
    stdin = "".join(json.dumps(words) + "\n" for words in [*(x["words"] for x in lines), *odd])
    flags = f"--checkpoint={run}", "--words"
    tagged = list(
        map(json.loads, drivers.run("predict", *flags, "--json", stdin=stdin).out.splitlines())
    )
    assert [each["tags"] for each in tagged[:-2]] == [each["tags"] for each in lines]
    assert [each["entities"] for each in tagged[:-2]] == [each["entities"] for each in lines]
    assert tagged[-2]["tags"] == ["S-HUE", "S-HUE", "O"]
    assert tagged[-1]["words"] == ["u.s.", "7", "\tred"]
    assert bert_jax.load(run).predict([each["words"] for each in tagged]) == tagged
    told = drivers.run("predict", *flags, '--text=["old", "red"]').out.splitlines()
    assert [line.split()[1:] for line in told] == [["O", "old"], ["S-HUE", "red"]]
    for line in (
        "red blue",
        "[]",
        '["red", " "]',
        '["red", ["blue"]]',
        '{"red": 1}',
        "7",
        '"red"',
        "",
    ):
        message = drivers.run("predict", *flags, stdin=f'["red"]\n{line}\n').error()
        assert message.startswith("standard input, line 2: ") and "write a JSON list" in message
    message = drivers.run(
        "predict", f"--checkpoint={pretrained[0]}", "--words", stdin=stdin
    ).error()
    assert message.startswith("--words needs a tagger, and ")
    assert "is of kind pretraining: leave it out" in message
    # What cannot be encoded is found before the first answer, too.
    stdin = '["red"]\n["\\ud800"]\n'
    message = drivers.run("predict", *flags, "--batch_size=1", stdin=stdin).error()
    assert message.startswith("standard input, line 2: ") and "surrogate" in message

    text = "old  red river " + "stone " * 40 + "blue"
    # What no reader sees, before a word and inside words.
    marked = f"\ufeff{text}".replace("red", "r\u00aded").replace("blue", "bl\u200bue")
    found, same = predict(drivers, run, [text, marked])
    places = [(each["type"], each["text"], each["begin"]) for each in found["entities"]]
    assert places == [("HUE", "red", 5), ("HUE", "blue", len(text) - 4)]
    places = [(each["type"], each["text"], each["begin"]) for each in same["entities"]]
    assert places == [("HUE", "r\u00aded", 6), ("HUE", "bl\u200bue", len(marked) - 5)]
    said = drivers.run("predict", f"--checkpoint={run}", "--text=old red stone").out
    assert "HUE" in said and "4-7" in said
    assert "no entity" in drivers.run("predict", f"--checkpoint={run}", "--text=old").out


def write_questions(path: pathlib.Path, count: int, *, seed: int) -> None:
    """Writes questions for a word of the text, some of which is not there."""
    rng = random.Random(seed)
    items = []
    for number in range(count):
        words = rng.sample(WORDS, k=6)
        word = rng.choice(WORDS)
        context = " ".join(words)
        answers = [{"text": word, "answer_start": context.find(word)}] if word in words else []
        qa = {"id": str(number), "question": word, "answers": answers}
        items.append({"context": context, "qas": [qa | {"is_impossible": not answers}]})
    path.write_text(json.dumps({"version": "v2.0", "data": [{"paragraphs": items}]}))


def test_spans(
    drivers: Drivers, task: pathlib.Path, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    write_questions(tmp_path / "train.json", 40, seed=0)
    write_questions(tmp_path / "dev.json", 11, seed=1)
    run = tmp_path / "run"
    config = [
        "task=spans",
        f"data.train={tmp_path / 'train.json'}",
        f"data.dev={tmp_path / 'dev.json'}",
        "data.length=24",
        "data.stride=5",
        "epochs=2",
    ]
    result = drivers.run("finetune", *run_flags(task, pretrained, run, *config))
    assert result.status == 0, result
    assert "dev: 11 examples" in result.err
    scores = evaluate(drivers, run, tmp_path / "out")
    assert scores["f1"] >= scores["exact_match"] and "no_answer_threshold" in scores
    assert_scores_are_those_of_the_run(scores, run)
    lines = (tmp_path / "out/predictions.jsonl").read_text().splitlines()
    assert len(lines) == 11 and not (tmp_path / "out/confusion.png").exists()
    context = "old river red " + "stone " * 40
    (found,) = predict(drivers, run, [f"red\t{context}"])
    assert found["answer"] == context[found["begin"] : found["end"]]
    # predict and evaluate answer alike, with the stored threshold.
    paragraphs = json.loads((tmp_path / "dev.json").read_text())["data"][0]["paragraphs"]
    asked = [f"{each['qas'][0]['question']}\t{each['context']}" for each in paragraphs]
    for one, other in zip(predict(drivers, run, asked), map(json.loads, lines), strict=True):
        assert one["answer"] == other["answer"]
        for name in ("score", "null_score"):
            assert one[name] == pytest.approx(other[name], abs=1e-4)
    # On another file the threshold is the one of the run, not that file's best.
    write_questions(tmp_path / "test.json", 7, seed=2)
    test = f"--data={tmp_path / 'test.json'}"
    said = drivers.run("evaluate", f"--checkpoint={run}", test).out.splitlines()
    threshold = next(line.split()[1] for line in said if "no_answer_threshold" in line)
    assert (
        threshold
        == f"{read_metadata(find_checkpoint(run))['scores']['dev_no_answer_threshold']:.4g}"
    )
    message = drivers.run("predict", f"--checkpoint={run}", "--text=red").error()
    assert "'red' has no text to find the answer in" in message


def test_numbers(
    drivers: Drivers, task: pathlib.Path, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    rng = random.Random(0)
    for name, count in (("train", 60), ("dev", 9), ("more", 5)):
        lines = [rng.choices(WORDS[:2], k=rng.randint(2, 6)) for _ in range(count)]
        # Numbers around 0: a correlation magnifies rounding by how far their mean is from it.
        rows = [f"{' '.join(words)}\t{2 * words.count('red') - len(words)}" for words in lines]
        (tmp_path / f"{name}.tsv").write_text("text\tlabel\n" + "\n".join([*rows, "red\t-\n"]))
    run = tmp_path / "run"
    config = [
        "task=regression",
        f"data.train={tmp_path / 'train.tsv'}",
        f"data.dev={tmp_path / 'dev.tsv'},{tmp_path / 'more.tsv'}",
        "epochs=6",
        "optimizer.learning_rate=1e-2",
    ]
    message = drivers.run("finetune", *run_flags(task, pretrained, run, *config)).error()
    assert "train.tsv:62 has no gold label ('-' in 'label')" in message and not run.exists()
    config.append("data.skip_bad_rows")
    result = drivers.run("finetune", *run_flags(task, pretrained, run, *config))
    assert result.status == 0, result
    assert "train: 60 examples; left out: no gold label (1)" in result.err
    entry = log_of(run)[-1]
    assert entry["dev_pearson"] > 0.8 and "dev2_spearman" in entry
    few, many = predict(drivers, run, ["blue blue blue", "red red red"])
    assert few["value"] < many["value"]
    scores = evaluate(drivers, run, tmp_path / "out")
    assert_scores_are_those_of_the_run(scores, run)


def test_evaluate_writes_what_a_person_wants_to_see(
    drivers: Drivers, finetuned: Run, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    scores = evaluate(drivers, finetuned[0], tmp_path / "out")
    assert scores["accuracy"] == 1 and scores["examples"] == 17
    assert_scores_are_those_of_the_run(scores, finetuned[0])
    lines = (tmp_path / "out/predictions.jsonl").read_text().splitlines()
    assert len(lines) == 17 and json.loads(lines[0])["gold"] == json.loads(lines[0])["label"]
    for name in ("confusion.png", "reliability.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out/confusion.tsv").read_text().startswith("gold\tpredicted\tcount\n")
    again = drivers.run(
        "evaluate", f"--checkpoint={finetuned[0]}", f"--output={tmp_path / 'out'}"
    ).error()
    assert "is there already: name a new or an empty directory" in again
    message = drivers.run("evaluate", f"--checkpoint={pretrained[0]}").error()
    assert "is of kind pretraining and has no task head: fine-tune it first" in message


def test_cached_features_train_the_same_head_as_a_frozen_encoder(
    drivers: Drivers, task: pathlib.Path, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    states = []
    for mode in ("frozen", "cached"):
        flags = finetune_flags(task, pretrained, tmp_path / mode)
        result = drivers.run("finetune", *flags, f"--config.encoder_mode={mode}")
        assert result.status == 0, result
        assert any(
            line.split()[0:4:3] == ["encoder", "frozen"] for line in result.err.splitlines() if line
        )
        states.append(state_of(newest(tmp_path / mode)).params)
    assert_same_bits(states[0]["encoder"], states[1]["encoder"])
    for group in ("pooler", "classifier"):
        for one, other in zip(*(state[group]["dense"].values() for state in states), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)


def test_several_seeds_and_a_start_from_a_fine_tuned_run(
    drivers: Drivers, task: pathlib.Path, finetuned: Run, tmp_path: pathlib.Path
) -> None:
    flags = [*finetune_flags(task, finetuned, tmp_path), "--config.seeds=2", "--config.epochs=1"]
    flags += ["--config.seed=7", "--config.layer_decay=0.9", "--config.head_learning_rate=0.02"]
    result = drivers.run("finetune", *flags)
    assert result.status == 0 and "2 seeds: mean 1.0000, standard deviation 0.0000" in result.out
    assert "0.0219 (embeddings) to 0.027 (top layer)" in result.err
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary["scores"]) == ["7", "8"] and summary["failed"] == 0
    logs = [log_of(tmp_path / f"seed-{seed}") for seed in (7, 8)]
    assert logs[0] != logs[1]
    again = drivers.run("finetune", *flags)
    assert again.status == 0 and again.out.count("is finished") == 2
    assert [log_of(tmp_path / f"seed-{seed}") for seed in (7, 8)] == logs


def test_what_is_wrong_for_several_seeds_leaves_nothing(
    drivers: Drivers, task: pathlib.Path, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    run = tmp_path / "run"
    flags = [*finetune_flags(task, pretrained, run), "--config.seeds=2"]
    wrong = drivers.run("finetune", *flags, "--config.class_weights=hot=3")
    assert "'hot=3' is not LABEL=WEIGHT" in wrong.error() and not run.exists()


def test_rows_that_cannot_be_scored(
    drivers: Drivers, finetuned: Run, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "bad.tsv").write_text("feel\twords\nwarm\tred sun\nwarm\t \n")
    (tmp_path / "other.tsv").write_text("feel\ttext\nwarm\tred sun\n")
    checkpoint = f"--checkpoint={finetuned[0]}"

    def evaluated(file: str, *flags: str) -> Result:
        return drivers.run("evaluate", checkpoint, f"--data={tmp_path / file}", *flags)

    assert evaluated("bad.tsv").error().endswith("; --skip_bad_rows leaves these out")
    scored = evaluated("bad.tsv", "--skip_bad_rows")
    assert scored.status == 0 and "bad.tsv: 1 examples; left out:" in scored.out, scored
    renamed = "rename the columns, which are those that the run was trained with"
    assert renamed in evaluated("other.tsv").error()


def test_files_of_tags_that_cannot_be_scored(
    drivers: Drivers, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "train.txt").write_text("red\tO\nsun\tB-X\n\nwarm\tO\n")
    (tmp_path / "words.txt").write_text("red\nsun\n\nwarm\n")
    flags = ["--config=finetune_tags", f"--checkpoint={pretrained[0]}", "--config.epochs=1"]
    flags += [f"--config.data.{split}={tmp_path / 'train.txt'}" for split in ("train", "dev")]
    run = f"--workdir={tmp_path / 'run'}"
    assert drivers.run("finetune", *flags, run, "--config.data.length=16").status == 0
    scored = ["evaluate", f"--checkpoint={tmp_path / 'run'}", f"--data={tmp_path / 'words.txt'}"]
    said = drivers.run(*scored).error()
    assert "has 1 columns, too few for the run's data.word_column=" in said and "--conf" not in said


def test_more_epochs_go_on_with_the_head(
    drivers: Drivers, task: pathlib.Path, finetuned: Run, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    # Asked for in the same directory, the way is named.
    more = [*finetune_flags(task, pretrained, finetuned[0]), "--config.epochs=5"]
    message = drivers.run("finetune", *more).error()
    way = f"--checkpoint={finetuned[0]} --config.keep_head=True"
    assert "epochs: 3 -> 5" in message and f"; {way} trains its model further" in message

    still = ["--config.optimizer.learning_rate=1e-12", "--config.epochs=1"]
    flags = [*finetune_flags(task, finetuned, tmp_path / "run"), "--config.keep_head=True", *still]
    done = drivers.run("finetune", *flags)
    assert done.status == 0, done
    assert re.search(r"classifier +\d+ +transferred", done.err), done.err
    params = [open_checkpoint(run).params.read_tree() for run in (finetuned[0], tmp_path / "run")]
    for one, other in zip(*map(jax.tree.leaves, params), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("checkpoint", "the checkpoint has task=pretraining, and the run classification"),
        ("labels", "the checkpoint has labels=['cold', 'warm'], and the run ['chilly', 'warm']"),
        ("--config.feature_layers=2", "the checkpoint has feature_layers=1, and the run 2"),
        ("--config.transfer=False", "keep_head=True needs transfer=True"),
    ],
)
def test_a_head_of_another_task_is_not_kept(
    change: str, message: str, drivers: Drivers, task: pathlib.Path, finetuned: Run,
    pretrained: Run, tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    if change == "labels":
        task = pathlib.Path(shutil.copytree(task, tmp_path / "task"))
        for name in ("train.tsv", "dev.tsv"):
            (task / name).write_text((task / name).read_text().replace("\tcold\t", "\tchilly\t"))
    start = pretrained if change == "checkpoint" else finetuned
    flags = [*finetune_flags(task, start, tmp_path / "run"), "--config.keep_head=True"]
    flags += [change] if change.startswith("--") else []
    assert message in drivers.run("finetune", *flags).error()
    assert not (tmp_path / "run").exists()


def test_a_run_ends_when_it_gets_no_better(
    drivers: Drivers, task: pathlib.Path, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    flags = finetune_flags(task, pretrained, tmp_path)
    flags += ["--config.patience=2", "--config.epochs=9", "--config.optimizer.learning_rate=1e-9"]
    flags += ["--config.eval_epochs=2", "--config.data.examples=20"]
    result = drivers.run("finetune", *flags)
    assert result.status == 0 and "stopping: no better accuracy in 2 evaluations" in result.err
    assert "train: 20 examples" in result.err and result.out.startswith("finished 30 steps")
    assert [each["step"] for each in log_of(tmp_path) if "dev_loss" in each] == [10, 20, 30]
    assert log_of(tmp_path)[0]["examples"] == 20
    again = drivers.run("finetune", *flags)
    assert again.status == 0 and "is finished: 30 steps" in again.out


def test_a_pooler_is_taken_where_it_reads_as_many_layers(
    drivers: Drivers, task: pathlib.Path, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    def pooler(workdir: pathlib.Path, source: Run, layers: int) -> str:
        flags = [*finetune_flags(task, source, workdir), f"--config.feature_layers={layers}"]
        result = drivers.run("finetune", *flags, "--config.epochs=1")
        assert result.status == 0, result
        return next(line.split()[2] for line in result.err.splitlines() if "pooler " in line)

    assert pooler(tmp_path / "two", pretrained, 2) == "fresh"
    two: Run = (tmp_path / "two", pretrained[1])
    assert pooler(tmp_path / "again", two, 2) == "transferred"
    assert pooler(tmp_path / "one", two, 1) == "fresh"


def test_fresh_layers_are_the_top_ones(
    drivers: Drivers, task: pathlib.Path, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    flags = finetune_flags(task, pretrained, tmp_path)
    flags += ["--config.fresh_layers=1", "--config.batch_size=42", "--config.epochs=2"]
    # Another seed than the pretraining's, whose first values would come again.
    flags += ["--config.seed=1", "--config.optimizer.learning_rate=1e-9"]
    result = drivers.run("finetune", *flags)
    assert result.status == 0 and "top 1 fresh" in result.err
    before = pretrained_state(newest(pretrained[0])).params["encoder"]["layers"]["mlp"]["up"]
    after = state_of(newest(tmp_path)).params["encoder"]["layers"]["mlp"]["up"]
    np.testing.assert_allclose(after["kernel"][0], before["kernel"][0], atol=1e-6)
    assert np.abs(after["kernel"][1] - before["kernel"][1]).max() > 0.01
