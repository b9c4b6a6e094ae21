"""The examples of docs/files.md are read as the page says, or refused with its message."""

import dataclasses
import itertools
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from bert_jax.config import FinetuneConfig, TaskDataConfig, TaskKind
from bert_jax.data.corpus.documents import Layout
from bert_jax.data.corpus.sources import open_source
from bert_jax.data.tasks.bad_rows import BadRows
from bert_jax.data.tasks.classes import read_examples
from bert_jax.data.tasks.question_files import read_questions
from bert_jax.data.tasks.tagged_files import read_tagged
from bert_jax.errors import UserError
from bert_jax.tasks.kinds import KINDS
from docs.commands import ROOT
from tests.fixtures.data import LETTER_TOKENIZER

PAGE = ROOT / "docs/files.md"
_EXAMPLE = re.compile(
    r"^`([\w.]+)`([^\n]*):\n\n```\n(.*?)```\n\n(Read as|Refused):\n\n```\w+\n(.*?)```\n",
    re.MULTILINE | re.DOTALL,
)


class Example(NamedTuple):
    section: str
    name: str
    options: str
    content: str
    is_read: bool
    told: str


def examples() -> Iterator[Example]:
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        for name, options, content, how, told in _EXAMPLE.findall(section):
            heading = section.partition("\n")[0]
            yield Example(heading, name, options, content, how == "Read as", told)


EXAMPLES = list(examples())


def config_of(options: str) -> TaskDataConfig:
    fields: dict[str, Any] = dict(re.findall(r"`data\.(\w+)=([^`]*)`", options))
    if "header" in fields:
        fields["header"] = fields["header"] == "True"
    return TaskDataConfig(**fields)


def read_text(example: Example) -> list[Any]:
    layout = re.search(r"--layout=(\w+)", example.options)
    field = re.search(r"field `(\w+)`", example.options)
    spec = f"jsonl:{example.name}#{field[1]}" if field else f"text:{example.name}"
    source = open_source(spec, Layout(layout[1]) if layout else Layout.LINES)
    documents = itertools.chain.from_iterable(map(source.read, source.pieces))
    return [document.lines for document in documents]


def read_labels(example: Example) -> list[Any]:
    found = read_examples(example.name, config_of(example.options)).examples
    rows = [dataclasses.asdict(each) for each in found]
    return [
        {name: row[name] for name in ("text", "text_pair", "label") if row[name]} for row in rows
    ]


def read_tags(example: Example) -> list[Any]:
    config, bad = config_of(example.options), BadRows(example.name, skip=False)
    found = read_tagged(
        example.name,
        word_column=config.word_column,
        tag_column=config.tag_column,
        header=config.header,
        bad=bad,
    )
    bad.close(len(found), "sentences")
    return [{"words": each.words, "tags": each.tags} for each in found]


def read_answers(example: Example) -> list[Any]:
    found = read_questions(example.name, skip_bad_rows=False).questions
    return [
        {
            "id": each.id,
            "question": each.question,
            "context": each.context,
            "answers": [answer.text for answer in each.answers],
        }
        for each in found
    ]


READERS = {
    "Text for pretraining": read_text,
    "Texts with labels": read_labels,
    "Words with tags": read_tags,
    "Questions with answers": read_answers,
}


def test_every_kind_has_examples_of_both() -> None:
    assert {(each.section, each.is_read) for each in EXAMPLES} == {
        (section, is_read) for section in READERS for is_read in (True, False)
    }
    fences = PAGE.read_text().count("\n```")
    assert fences == 4 * len(EXAMPLES)  # no other block, so none is left out


@pytest.mark.parametrize("example", EXAMPLES, ids=[each.name for each in EXAMPLES])
def test_an_example_is_read_as_the_page_says(
    example: Example, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pathlib.Path(example.name).write_text(example.content)
    if example.is_read:
        assert READERS[example.section](example) == list(map(json.loads, example.told.splitlines()))
    else:
        with pytest.raises(UserError) as caught:
            READERS[example.section](example)
        assert str(caught.value) == example.told.rstrip("\n")


@pytest.mark.parametrize(
    ("task", "name", "labels"),
    [
        (TaskKind.CLASSIFICATION, "reviews.tsv", ["bad", "good"]),
        (TaskKind.CLASSIFICATION, "pairs.csv", ["0", "1"]),
        (TaskKind.REGRESSION, "pairs.csv", []),
        (TaskKind.TAGS, "people.conll", ["B-LOC", "B-PER", "I-PER", "O"]),
        (TaskKind.SPANS, "questions.jsonl", []),
    ],
)
def test_predictions_have_the_fields_of_the_page(
    task: TaskKind,
    name: str,
    labels: list[str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = (each for each in EXAMPLES if each.name == name)
    pathlib.Path(name).write_text(example.content)
    config = FinetuneConfig(task=task, data=config_of(example.options))
    split = KINDS[task].read_split(name, config, LETTER_TOKENIZER, labels)
    found = next(iter(split.predictions(split.constant_outputs())))
    (row,) = re.findall(rf"^\| `{task.value}` \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    told = re.findall(r"`(\w+)`", row)
    if "text_pair" in told and "text_pair" not in found:
        told.remove("text_pair")
    assert list(found) == told
