"""Inputs that are read without labels are those that are read with them."""

import json
import pathlib

import numpy as np
import pytest

from bert_jax.config import FinetuneConfig, TaskKind
from bert_jax.errors import UserError
from bert_jax.tasks.kinds import KINDS, read_task
from tests.fixtures.data import LETTER_TOKENIZER

TABLE = "text\tlabel\nabc de\t1\nfa\t2.5\nbad cafe\t1\n"
TEXTS = "text\nabc de\nfa\nbad cafe\n"
WORDS = "abc B\nde I\n\nfa O\n"
WORDS_ALONE = "abc\nde\n\nfa\n"
QUESTIONS = [
    {"id": "1", "question": "abc", "context": "fa de cab", "answers": []},
    {"id": "2", "question": "de", "context": "fade " * 20 + "fed", "answers": []},
]
ANSWER = {"text": ["de"], "answer_start": [3]}


def written(path: pathlib.Path, text: str) -> str:
    path.write_text(text)
    return str(path)


TAUGHT = [task for task in TaskKind if KINDS[task].read_unlabelled]  # vectors have no teacher


@pytest.mark.parametrize("task", TAUGHT, ids=lambda task: task.value)
def test_inputs_are_those_of_the_labelled_file(task: TaskKind, tmp_path: pathlib.Path) -> None:
    config = FinetuneConfig(task=task, teacher="some")
    data = config.data
    data.length, data.stride, data.word_column, data.tag_column = 24, 8, "0", "1"
    if task is TaskKind.SPANS:
        labelled = [QUESTIONS[0] | {"answers": ANSWER}, QUESTIONS[1]]
        names = "labelled.jsonl", "unlabelled.jsonl"
        texts = ["\n".join(map(json.dumps, each)) for each in (labelled, QUESTIONS)]
    elif task is TaskKind.TAGS:
        names, texts = ("labelled.conll", "unlabelled.conll"), [WORDS, WORDS_ALONE]
    else:
        names, texts = ("labelled.tsv", "unlabelled.tsv"), [TABLE, TEXTS]
    data.train, data.unlabelled = (
        written(tmp_path / name, text) for name, text in zip(names, texts, strict=True)
    )
    data.dev = data.train
    found = read_task(config, LETTER_TOKENIZER)
    train, more = found.train.inputs, found.unlabelled
    assert more is not None and len(more) == len(train)
    for side in ("a", "b"):
        for one, other in zip(getattr(train, side), getattr(more, side), strict=True):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(train.example_of, more.example_of)
    for one, other in zip(train.labels, more.labels, strict=True):  # same slots
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        if task is TaskKind.TAGS:
            np.testing.assert_array_equal(one < 0, other < 0)
    data.unlabelled = ""
    assert found.fingerprint() != read_task(config, LETTER_TOKENIZER).fingerprint()


@pytest.mark.parametrize(
    ("labelled", "unlabelled"),
    [
        ("id\tform\tner\n1\tabc\tO\n2\td\tB-X\n", "id\tform\n1\tabc\n2\td\n"),
        ("id\tform\tner\n1\tabc\tO\n2\td\tB-X\n", "id\tform\tner\n1\tabc\tO\n2\td\tB-X\n"),
        ("token\tlabel\nabc\tO\nd\tB-X\n", "token\tlabel\nabc\tO\nd\tB-X\n"),
        ("word NN O\nabc NN B-X\n", "word NN\nabc NN\n"),  # the first line is a word's
    ],
)
def test_names_of_columns_are_no_words(
    labelled: str, unlabelled: str, tmp_path: pathlib.Path
) -> None:
    config = FinetuneConfig(task=TaskKind.TAGS, teacher="some")
    data = config.data
    data.train = data.dev = written(tmp_path / "labelled.tsv", labelled.replace(" ", "\t"))
    data.unlabelled = written(tmp_path / "unlabelled.tsv", unlabelled.replace(" ", "\t"))
    found = read_task(config, LETTER_TOKENIZER)
    assert found.unlabelled is not None
    for one, other in zip(found.train.inputs.a, found.unlabelled.a, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_left_out_or_cut_is_noted(tmp_path: pathlib.Path) -> None:
    source = written(tmp_path / "texts.tsv", "text\nabc\n\t\n" + "a " * 9 + "\n")
    config = FinetuneConfig().data
    config.length, config.skip_bad_rows, config.text_column = 8, True, "text"
    read = KINDS[TaskKind.CLASSIFICATION].read_unlabelled
    assert read is not None
    notes = read(source, config, LETTER_TOKENIZER).notes
    assert "left out" in notes and notes.endswith("; 1 cut to 8 tokens")


def test_empty_texts_are_refused(tmp_path: pathlib.Path) -> None:
    source = written(tmp_path / "texts.tsv", "text\nabc\n\t\n")
    config = FinetuneConfig().data
    with pytest.raises(UserError, match=r"texts.tsv:3"):
        KINDS[TaskKind.CLASSIFICATION].read_unlabelled(source, config, LETTER_TOKENIZER)
    written(tmp_path / "texts.tsv", "text\nabc\n\ufffd\n")
    with pytest.raises(UserError, match=r"texts.tsv:3 has a text without a token"):
        KINDS[TaskKind.CLASSIFICATION].read_unlabelled(source, config, LETTER_TOKENIZER)
