"""The linear model on words, beside scikit-learn used by hand."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from bert_jax.config import FinetuneConfig, TaskKind, VectorLoss
from bert_jax.data.tasks.splits import Task
from bert_jax.errors import UserError
from bert_jax.tasks.kinds import read_task
from experiments.word_model import linear_outputs
from tests.fixtures.data import LETTER_TOKENIZER as TOKENIZER
from tests.fixtures.drivers import ROOT, Run, finetune_flags, log_of

SENTENCES = ["red sun , warm", "blue ice , cold", "warm red fire", "cold snow ice", "a warm sun"]
LABELS = ["hot", "cold", "hot", "cold", "hot"]


def classified(path: pathlib.Path, texts: list[str], labels: list[str]) -> FinetuneConfig:
    lines = [f"{text}\t{label}\n" for text, label in zip(texts, labels, strict=True)]
    path.write_text("text\tlabel\n" + "".join(lines))
    config = FinetuneConfig()
    config.data.train = config.data.dev = str(path)
    return config


def test_texts_are_bags_of_words_and_pairs(tmp_path: pathlib.Path) -> None:
    config = classified(tmp_path / "a.tsv", SENTENCES, LABELS)
    task = read_task(config, TOKENIZER)
    drawn = np.array([0, 1, 3])
    found = np.stack(linear_outputs(task.train, drawn, task.dev["dev"]))
    bag = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|\S")
    features = bag.fit_transform([SENTENCES[number] for number in drawn])
    model = LogisticRegression(C=10, max_iter=500)
    model.fit(features, [LABELS[number] for number in drawn])
    assert list(model.classes_) == task.labels
    expected = model.predict_log_proba(bag.transform(SENTENCES))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_second_text_counts_by_itself(tmp_path: pathlib.Path) -> None:
    lines = [f"same words\t{b}\t{label}\n" for b, label in zip(SENTENCES, LABELS, strict=True)]
    (tmp_path / "a.tsv").write_text("text\tother\tlabel\n" + "".join(lines))
    config = FinetuneConfig()
    config.data.train = config.data.dev = str(tmp_path / "a.tsv")
    config.data.text_pair_column = "other"
    task = read_task(config, TOKENIZER)
    outputs = linear_outputs(task.train, np.arange(5), task.dev["dev"])
    assert task.dev["dev"].scores(outputs)["accuracy"] == 1


def test_a_class_without_examples_is_never_the_answer(tmp_path: pathlib.Path) -> None:
    config = classified(tmp_path / "a.tsv", SENTENCES, [*LABELS[:4], "mild"])
    task = read_task(config, TOKENIZER)
    outputs = linear_outputs(task.train, np.arange(4), task.dev["dev"])
    assert np.stack(outputs).argmax(1).tolist() == [1, 0, 1, 0, 1]  # cold, hot, mild
    assert np.isfinite(task.dev["dev"].scores(outputs)["accuracy"])
    with pytest.raises(UserError, match="all drawn examples are of one class"):
        linear_outputs(task.train, np.array([0, 2]), task.dev["dev"])


def test_tags_follow_from_a_word_and_its_neighbours(tmp_path: pathlib.Path) -> None:
    # "may" is a month after "in", and a verb elsewhere; long sentences have several windows.
    pairs = [("in", "O"), ("may", "B-DATE"), ("we", "O"), ("may", "O")]
    block = "".join(f"{word}\t{tag}\n" for word, tag in pairs * 3)
    (tmp_path / "a.conll").write_text("\n".join([block] * 4))
    config = FinetuneConfig(task=TaskKind.TAGS)
    config.data.train = config.data.dev = str(tmp_path / "a.conll")
    config.data.length, config.data.stride = 8, 4
    task = read_task(config, TOKENIZER)
    dev = task.dev["dev"]
    assert len(dev.inputs) > dev.examples
    assert dev.scores(linear_outputs(task.train, np.array([1, 3]), dev))["f1"] == 1


def vectors_task(path: pathlib.Path, rows: list[tuple[str, ...]], label: str) -> Task:
    names = ("a", "b", "score")[: len(rows[0])]
    path.write_text("\n".join("\t".join(row) for row in (names, *rows)) + "\n")
    config = FinetuneConfig(task=TaskKind.VECTORS)
    config.data.train = config.data.dev = str(path)
    config.data.text_column, config.data.text_pair_column = "a", "b"
    config.data.label_column = label
    config.vectors.loss = VectorLoss.COSENT if label else VectorLoss.CONTRASTIVE
    return read_task(config, TOKENIZER)


def test_similar_texts_share_words(tmp_path: pathlib.Path) -> None:
    rows = [("red red sun", "red sun .", "5"), ("ice", "blue ice", "3"), ("red", "ice", "1")]
    task = vectors_task(tmp_path / "a.tsv", rows, "score")
    dev, drawn = task.dev["dev"], np.array([0, 1])
    texts = ["red red sun", "red sun .", "ice", "blue ice", "red", "ice"]
    fitted = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+|\S").fit(texts[:4])
    weights = fitted.transform(texts).toarray()
    expected = (weights[::2] * weights[1::2]).sum(axis=1)
    predictions = list(dev.predictions(linear_outputs(task.train, drawn, dev)))
    np.testing.assert_allclose([each["cosine"] for each in predictions], expected, rtol=1e-6)
    assert expected[2] == 0 < expected[1] < expected[0] < 1


def test_right_texts_are_found_by_bm25(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("bm25s")
    rows = [("red", "red ice"), ("ice fire", "fire fire sun"), ("snow", "a warm sun")]
    task = vectors_task(tmp_path / "a.tsv", rows, "")
    dev = task.dev["dev"]
    predictions = list(dev.predictions(linear_outputs(task.train, np.arange(3), dev)))
    assert [each["rank"] for each in predictions] == [1, 1, 3]
    task = vectors_task(tmp_path / "a.tsv", [*rows, ("red ice", "snow sun")], "")
    with pytest.raises(UserError, match="'red ice' is both a query and a right text"):
        linear_outputs(task.train, np.arange(4), task.dev["dev"])


def test_the_driver_writes_a_log_of_fine_tuning(
    task: pathlib.Path, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    flags = [*finetune_flags(task, pretrained, tmp_path / "a"), "--config.data.examples=30"]
    words = [sys.executable, "-m", "experiments.linear", *flags]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("30 examples: dev accuracy")
    first, last = log_of(tmp_path / "a")
    assert first["metric"] == "dev_accuracy" and first["examples"] == 30
    assert first["floor"] < last["dev_accuracy"] <= 1
    assert json.loads((tmp_path / "a" / "config.json").read_text())["data"]["examples"] == 30
