"""The table of kinds, and what a user can ask of a task."""

from pathlib import Path

import numpy as np
import pytest

from bert_jax.config import (
    EncoderConfig,
    EncoderMode,
    FinetuneConfig,
    TaskKind,
    VectorLoss,
    VectorsConfig,
    check_widths,
    validate,
)
from bert_jax.data.tasks.splits import Task
from bert_jax.errors import UserError
from bert_jax.tasks.kinds import KINDS, check_source, chosen_metric, class_weights, read_task
from bert_jax.text.tokenizer import WordPieceTokenizer

TOKENIZER = WordPieceTokenizer(
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"], lower_case=True
)


def make_config(tmp_path: Path, **changes: object) -> FinetuneConfig:
    (tmp_path / "t.tsv").write_text("text\tlabel\na\tx=1\nb\tno\na b\tno\nb a\tno\n")
    path = str(tmp_path / "t.tsv")
    config = FinetuneConfig(**changes)  # pyright: ignore[reportArgumentType]
    config.data.train, config.data.dev = path, path
    return config


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return read_task(make_config(tmp_path), TOKENIZER)


def test_class_weights(task: Task) -> None:
    assert task.labels == ["no", "x=1"]
    every = task.train.inputs
    assert class_weights("", task.labels, every) == ()
    assert class_weights("balanced", task.labels, every) == pytest.approx((4 / 6, 4 / 2))
    some = every.of_examples(np.array([0, 2]))
    assert class_weights("balanced", task.labels, some) == (1, 1)
    assert class_weights("x=1=2.5", task.labels, every) == (1.0, 2.5)
    assert class_weights("no=3,x=1=2", task.labels, every) == (3.0, 2.0)


@pytest.mark.parametrize("asked", ["yes=1", "no", "no=0", "no=-1", "no=many", "no=inf", "no=nan"])
def test_wrong_class_weights_are_refused(asked: str, task: Task) -> None:
    with pytest.raises(UserError, match="is not LABEL=WEIGHT with a label of 'no', 'x=1' and a"):
        class_weights(asked, task.labels, task.train.inputs)


def test_the_metric_must_be_one_of_the_tasks(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    assert chosen_metric(config, ["accuracy", "matthews", "macro_f1", "f1"]) == "accuracy"
    config.metric = "matthews"
    assert chosen_metric(config, ["accuracy", "matthews"]) == "matthews"
    config.metric = "f1"  # which only two classes have
    with pytest.raises(
        UserError, match="metric=f1 is not a metric of this task: choose one of acc"
    ):
        chosen_metric(config, ["accuracy", "matthews"])
    tags = make_config(tmp_path, task=TaskKind.TAGS)
    assert chosen_metric(tags, ["accuracy"]) == "accuracy"  # tags that mark no entities


@pytest.mark.parametrize(
    ("kind", "source", "wanted"),
    [
        ("classification", "a.conll", "task=classification cannot read a.conll: a .conll"),
        ("regression", "a.json", "a .json file is for task=spans or vectors"),
        ("spans", "a.tsv", "a .tsv file is for task=classification or regression"),
        ("spans", "a.conllu", "task=spans cannot read a.conllu: a .conllu file is for"),
        ("tags", "a.json", "task=tags cannot read a.json: a .json file is for"),
    ],
)
def test_a_head_that_does_not_suit_the_file_is_refused(kind: str, source: str, wanted: str) -> None:
    with pytest.raises(UserError, match=wanted):
        check_source(TaskKind(kind), source)


QUESTIONS = """{"data": [{"title": "", "paragraphs": [{"context": "a b", "qas": [
    {"id": "1", "question": "a", "answers": [{"text": "b", "answer_start": 2}]}]}]}]}"""
CONLLU = "1\ta\t_\tDET\t_\t_\t0\troot\t_\t_\n2\tb\t_\tNOUN\t_\t_\t1\tdep\t_\t_\n\n"


def sample(kind: TaskKind, suffix: str) -> tuple[str, dict[str, str]]:
    """Returns a small file of a kind of task, and the columns to read."""
    if suffix == ".json":
        return QUESTIONS, {"text_column": "question", "text_pair_column": "context"}
    if suffix.startswith(".conllu"):
        return CONLLU, {}
    between = "," if suffix == ".csv" else "\t"
    if kind is TaskKind.TAGS:
        return "a\tO\nb\tB-X\n\n".replace("\t", between), {}
    table = "one\ttwo\tscore\na\tb\t1\nb\ta\t2\n".replace("\t", between)
    second = {"text_pair_column": "two"} if kind is TaskKind.VECTORS else {}
    return table, {"text_column": "one", "label_column": "score", **second}


@pytest.mark.parametrize(
    ("kind", "suffix"), [(kind, suffix) for kind in KINDS for suffix in KINDS[kind].suffixes]
)
def test_each_kind_reads_each_of_its_files(kind: TaskKind, suffix: str, tmp_path: Path) -> None:
    content, columns = sample(kind, suffix)
    path = tmp_path / f"task{suffix}"
    path.write_text(content)
    config = FinetuneConfig(task=kind)
    config.data.train = config.data.dev = str(path)
    for name in ("text_column", "text_pair_column", "label_column"):
        setattr(config.data, name, columns.get(name, ""))
    assert read_task(config, TOKENIZER).train.examples >= 1


def test_files_of_every_kind_and_of_no_kind_pass() -> None:
    for kind, entry in KINDS.items():
        for suffix in (*entry.suffixes, ".jsonl", ".unheard"):
            check_source(kind, f"a{suffix}")
        check_source(kind, "tfds:glue/sst2:train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_decay": 0.0}, "layer_decay=0.0 must be above 0"),
        ({"layer_decay": 1.5}, "layer_decay=1.5 must be a rate"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0 must be a rate from 0 to below 1"),
        ({"task": TaskKind.SPANS, "label_smoothing": 0.1}, "is of classes, which task=spans has"),
        ({"task": TaskKind.REGRESSION, "class_weights": "a=1"}, "is of classes, which task=regr"),
        ({"seeds": 0}, "seeds=0 must be at least 1"),
        ({"seed": 2**32 - 1, "seeds": 2}, "seeds=2 go beyond 4294967295"),
        ({"patience": -1}, "patience=-1 must be at least 0"),
        ({"feature_layers": 0}, "feature_layers=0 must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        validate(make_config(tmp_path, **changes))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("vectors.temperature", 0.0, "vectors.temperature=0.0 must be above 0"),
        ("vectors.highest_score", 0.0, "vectors.highest_score=0.0 must be above 0"),
        (
            "vectors.highest_score",
            5.0,
            "highest_score=5 is of vectors.loss=cosine, and this is con",
        ),
        ("vectors.widths", "8,x", "widths=8,x must be numbers from 1, such as 64,128"),
        ("vectors.widths", "0", "widths=0 must be numbers from 1"),
        ("vectors.loss", VectorLoss.COSENT, "label_column is not set, and vectors.loss=cosent"),
        ("data.text_pair_column", "", "text_pair_column is not set: vectors are scored on pairs"),
        ("batch_size", 1, "batch_size=1: vectors.loss=contrastive compares with the other texts"),
        ("encoder_mode", EncoderMode.FROZEN, "encoder_mode=frozen: task=vectors trains the enc"),
        ("feature_layers", 2, "feature_layers=2: task=vectors trains the encoder itself"),
        ("task", TaskKind.REGRESSION, "negative_columns=n is of vectors, and this is task=regr"),
    ],
)
def test_impossible_settings_of_vectors_are_refused(field, value, message, tmp_path: Path) -> None:
    config = make_config(tmp_path, task=TaskKind.VECTORS)
    data, vectors = config.data, config.vectors
    data.text_pair_column, data.label_column = "other", ""
    validate(config)
    if field in ("task", "vectors.loss"):
        data.negative_columns = "n" if field == "task" else ""
    group, _, name = field.rpartition(".")
    setattr({"": config, "data": data, "vectors": vectors}[group], name, value)
    with pytest.raises(UserError, match=message):
        validate(config)


def test_what_a_loss_of_vectors_does_not_read_is_refused(tmp_path: Path) -> None:
    config = make_config(tmp_path, task=TaskKind.VECTORS)
    config.data.text_pair_column = "other"
    config.vectors.loss = VectorLoss.SIMCSE
    validate(config)
    config.dropout_rate = 0.0
    with pytest.raises(UserError, match="dropout_rate=0: vectors.loss=simcse sees each text twice"):
        validate(config)
    config.vectors.loss, config.vectors.symmetric = VectorLoss.COSINE, True
    with pytest.raises(UserError, match="symmetric=True is of queries and their right texts"):
        validate(config)
    config.vectors.symmetric, config.data.negative_columns = False, "n"
    with pytest.raises(UserError, match="negative_columns=n is of vectors.loss=contrastive"):
        validate(config)
    config.task, config.data.negative_columns = TaskKind.CLASSIFICATION, ""
    with pytest.raises(UserError, match="vectors.loss=cosine is of vectors, and this is task=cla"):
        validate(config)
    with pytest.raises(UserError, match="widths=8,64: the vectors of the model are 24 wide: leave"):
        check_widths(VectorsConfig(widths="8,64"), EncoderConfig(width=24))


@pytest.mark.parametrize("name", ["layer_decay", "fresh_layers"])
def test_a_frozen_encoder_has_no_rates_and_no_fresh_layers(name: str, tmp_path: Path) -> None:
    config = make_config(tmp_path, encoder_mode=EncoderMode.CACHED)
    validate(config)
    setattr(config, name, 0.5 if name == "layer_decay" else 1)
    with pytest.raises(UserError, match=f"--config.{name}=.* needs an encoder that is trained"):
        validate(config)


def test_held_out_files_are_named_with_commas_between(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    path = config.data.train
    config.data.dev = f",{path}, {path},"
    validate(config)
    assert list(read_task(config, TOKENIZER).dev) == ["dev", "dev2"]
    config.data.dev = " , "
    with pytest.raises(UserError, match="data.dev is not set: name a labelled file"):
        validate(config)


def test_pairs_are_of_two_columns(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    config.data.text_pair_column = "text"
    with pytest.raises(UserError, match="text_pair_column=text is the text_column as well"):
        validate(config)
