"""Questions and answers: SQuAD's JSON, JSON lines, TFDS."""

import copy
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bert_jax.data.tasks.question_files import Answer, Question, Questions, read_questions
from bert_jax.errors import UserError
from tests.fixtures.damage import damaged
from tests.fixtures.tfds import build_dataset

CONTEXT = "The \U0001f600 caf\u00e9 opened in 1973."
OTHER = " Nobody lives here."


def answer(text: str, begin: int) -> dict[str, Any]:
    return {"text": text, "answer_start": begin}


SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "a",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {
                            "id": "q1",
                            "question": "When did it open? ",
                            "answers": [
                                answer("1973", 21),
                                answer("in 1973", 18),
                                answer("1973", 21),
                            ],
                        },
                        {
                            "id": "q2",
                            "question": "What opened?",
                            "is_impossible": False,
                            "answers": [answer("caf\u00e9", 6)],
                        },
                    ],
                }
            ],
        },
        {
            "paragraphs": [
                {"context": "Empty.", "qas": []},
                {
                    "context": OTHER,
                    "qas": [
                        {
                            "id": 3,
                            "question": "Who lives?",
                            "is_impossible": True,
                            "answers": [],
                            "plausible_answers": [answer("Nobody", 1)],
                        },
                        {"id": "q4", "question": "Why?", "answers": []},
                    ],
                },
            ]
        },
    ],
}
PLACES = [
    "data[0].paragraphs[0].qas[0]",
    "data[0].paragraphs[0].qas[1]",
    "data[1].paragraphs[1].qas[0]",
    "data[1].paragraphs[1].qas[1]",
]


def expected(places: list[str]) -> list[Question]:
    spans = (Answer("1973", 21), Answer("in 1973", 18), Answer("1973", 21))
    return [
        Question("q1", "When did it open? ", CONTEXT, spans, places[0]),
        Question("q2", "What opened?", CONTEXT, (Answer("caf\u00e9", 6),), places[1]),
        Question("3", "Who lives?", OTHER, (), places[2]),
        Question("q4", "Why?", OTHER, (), places[3]),
    ]


def flat() -> list[dict[str, Any]]:
    """The questions of SQUAD as rows, answers as two lists."""
    rows = []
    for article in SQUAD["data"]:
        for paragraph in article["paragraphs"]:
            for item in paragraph["qas"]:
                answers = {
                    name: [each[name] for each in item["answers"]]
                    for name in ("text", "answer_start")
                }
                rows.append(item | {"context": paragraph["context"], "answers": answers})
    return rows


def read(path: Path, content: str | bytes, *, skip_bad_rows: bool = False) -> Questions:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_questions(str(path), skip_bad_rows=skip_bad_rows)


def refusal(path: Path, content: str | bytes, *, skip_bad_rows: bool = False) -> str:
    with pytest.raises(UserError) as caught:
        read(path, content, skip_bad_rows=skip_bad_rows)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_squad_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    found = expected([f"{path}: {place}" for place in PLACES])
    for content in (
        json.dumps(SQUAD),
        "\ufeff" + json.dumps(SQUAD, ensure_ascii=False, indent=1).replace("\n", "\r\n"),
    ):
        assert read(path, content) == Questions(found, "")
    assert all(CONTEXT[each.begin :].startswith(each.text) for each in found[0].answers)


def test_json_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    content = "\n".join(map(json.dumps, flat()))
    assert read(path, content) == Questions(expected([f"{path}:{n}" for n in range(1, 5)]), "")


def test_an_impossible_question_needs_no_answers(tmp_path: Path) -> None:
    item = {"id": "a", "question": "b", "is_impossible": True}
    for answers in ({}, {"answers": {"text": ["c"], "answer_start": [0]}}):
        row = item | {"context": "c"} | answers
        (question,) = read(tmp_path / "a.jsonl", json.dumps(row)).questions
        assert question.answers == ()
    for answers in ({}, {"answers": [answer("c", 0)]}):
        squad = {"data": [{"paragraphs": [{"context": "c", "qas": [item | answers]}]}]}
        (question,) = read(tmp_path / "a.json", json.dumps(squad)).questions
        assert question.answers == ()


@pytest.mark.parametrize(
    ("text", "begin", "there"),
    [
        ("caf\u00e9", 7, "'af\u00e9 '"),  # as UTF-16 has it
        ("caf\u00e9", 9, "'\u00e9 op'"),  # as UTF-8 has it
        ("Caf\u00e9", 6, "'caf\u00e9'"),
        ("1973.", -5, "'The \U0001f600'"),
        ("1973", 10**30, "''"),
        ("1973. ", 21, "'1973.'"),
        ("caf\u00e9\n", 6, "'caf\u00e9 '"),
    ],
)
def test_misplaced_answers_are_refused_or_counted(
    text: str, begin: int, there: str, tmp_path: Path
) -> None:
    squad: Any = copy.deepcopy(SQUAD)
    (first, second) = squad["data"][0]["paragraphs"][0]["qas"]
    first["answers"].insert(1, answer(text, begin))
    second["answers"] = [answer(text, begin)] * 2
    path = tmp_path / "a.json"
    message = refusal(path, json.dumps(squad))
    assert f"{path}: {PLACES[0]} has the answer {text!r} of question 'q1', which is not" in message
    assert f"character {begin} of its context, where {there} is: count answer_start in" in message
    assert f"answer that is not in its text (3, from {path}: {PLACES[0]} on)" in message
    assert message.endswith("; --config.data.skip_bad_rows leaves these out")

    found = expected([f"{path}: {place}" for place in PLACES])
    del found[1]
    note = "left out: answer that is not in its text (3), question without a right answer (1)"
    assert read(path, json.dumps(squad), skip_bad_rows=True) == Questions(found, note)

    row = flat()[1] | {"answers": {"text": [text], "answer_start": [begin]}}
    path = tmp_path / "a.jsonl"
    assert f"{path}:1 has the answer {text!r} of question 'q2'" in refusal(path, json.dumps(row))
    message = refusal(path, json.dumps(row), skip_bad_rows=True)
    assert message.endswith(
        "has no questions but what is left out: answer that is not in its text (1), question"
        " without a right answer (1): choose another file"
    )


_DATA = ["data"]
_PARAGRAPH = ["data", 0, "paragraphs", 0]
_ITEM = ["data", 1, "paragraphs", 1, "qas", 1]
_ANSWER = ["data", 0, "paragraphs", 0, "qas", 1, "answers", 0]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ([], [], "a.json is []: write an object"),
        (_DATA, None, "a.json has no 'data', only 'version'"),
        (_DATA, {"a": 1}, "a.json has {'a': 1} in 'data': write a list"),
        ([*_DATA, 1], "a", "a.json: data[1] is 'a': write an object"),
        (_PARAGRAPH[:3], None, "a.json: data[0] has no 'paragraphs', only 'title'"),
        (_PARAGRAPH, 3, "a.json: data[0].paragraphs[0] is 3: write an object"),
        ([*_PARAGRAPH, "context"], None, "data[0].paragraphs[0] has no 'context', only 'qas'"),
        ([*_PARAGRAPH, "qas"], None, "data[0].paragraphs[0] has no 'qas', only 'context'"),
        (_ITEM, ["a"], "a.json: data[1].paragraphs[1].qas[1] is ['a']: write an object"),
        ([*_ITEM, "id"], None, "qas[1] has no 'id', only 'question', 'answers'"),
        ([*_ITEM, "id"], "", "qas[1] has an empty 'id'"),
        ([*_ITEM, "id"], True, "qas[1] has True in 'id': write text"),
        ([*_ITEM, "id"], "q1", f"qas[1] has the id 'q1' of PATH: {PLACES[0]}: give each"),
        ([*_ITEM, "id"], "3", f"qas[1] has the id '3' of PATH: {PLACES[2]}: give each"),
        ([*_ITEM, "question"], None, "qas[1] has no 'question', only 'id', 'answers'"),
        ([*_ITEM, "question"], 7, "paragraphs[1].qas[1] has 7 in 'question': write text"),
        ([*_ITEM, "answers"], "a", "qas[1] has 'a' in 'answers': write a list"),
        ([*_ITEM, "is_impossible"], 1, "qas[1] has 1 in 'is_impossible': write true or false"),
        (_ANSWER, 1, "a.json: data[0].paragraphs[0].qas[1].answers[0] is 1: write an object"),
        ([*_ANSWER, "text"], None, "answers[0] has no 'text', only 'answer_start'"),
        ([*_ANSWER, "text"], 7, "answers[0] has 7 in 'text': write text"),
        ([*_ANSWER, "answer_start"], None, "answers[0] has no 'answer_start', only 'text'"),
        ([*_ANSWER, "answer_start"], True, "answers[0] has True in 'answer_start': write a whole"),
        ([*_ANSWER, "answer_start"], 6.0, "answers[0] has 6.0 in 'answer_start': write a whole"),
    ],
)  # fmt: skip
def test_wrong_squad_is_named_by_its_path(
    path: list, value: object, message: str, tmp_path: Path
) -> None:
    root: Any = {"root": copy.deepcopy(SQUAD)}
    holder, name = root, "root"
    for step in path:
        holder, name = holder[name], step
    holder[name] = value
    if value is None:
        del holder[name]
    file = tmp_path / "a.json"
    content = json.dumps(root["root"])
    assert message.replace("PATH", str(file)) in refusal(file, content, skip_bad_rows=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": 1}, "a.jsonl:2 has 1 in 'context': write text"),
        ({"question": ""}, "a.jsonl:2 has an empty 'question': fill it in, or remove the item; un"),
        ({"id": 3}, "a.jsonl:3 has the id '3' of PATH:2: give each question its own"),
        ({"answers": {"text": ["a"]}}, "a.jsonl:2 answers has no 'answer_start', only 'text'"),
        (
            {"answers": {"text": "a", "answer_start": 1}},
            "a.jsonl:2 answers has 'a' in 'text': write a list",
        ),
        ({"answers": {"text": ["a", "b"], "answer_start": [1]}}, "answers has 2 of text and 1 of"),
        ({"answers": {"text": ["a"], "answer_start": [None]}}, "a.jsonl:2 answers[0] has None in"),
    ],
)
def test_wrong_lines_are_named(change: dict, message: str, tmp_path: Path) -> None:
    rows = flat()
    rows[1] |= change
    path = tmp_path / "a.jsonl"
    assert message.replace("PATH", str(path)) in refusal(path, "\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"data":\n[}', "a.json is not JSON (Expecting value: line 2 column 2"),
        ("a.json", "", "a.json is not JSON (Expecting value"),
        ("a.json", b'{"data":\n"\xff"}', "a.json is not UTF-8 at byte 10 in line 2: convert"),
        ("a.json", '{"data": []}', "a.json has no questions: choose another file"),
        ("a.jsonl", "\n", "a.jsonl has no questions: choose another file"),
        ("a.txt", "a", "a.txt: the name must end in .json (SQuAD), .jsonl, or be tfds:NAME"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named(
    name: str, content: str | bytes, message: str, tmp_path: Path
) -> None:
    assert message in refusal(tmp_path / name, content)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for name in ("a.json", "a.jsonl"):
        with pytest.raises(UserError, match=f"cannot read .*{name}: No such file or directory"):
            read_questions(str(tmp_path / name), skip_bad_rows=True)


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    rng = random.Random(17)
    for name, content in (
        ("a.json", json.dumps(SQUAD, indent=1)),
        ("b.json", json.dumps(SQUAD, ensure_ascii=False)),
        ("a.jsonl", "\n".join(map(json.dumps, flat()))),
    ):
        results = Counter()
        for number in range(400):
            try:
                stored = damaged(content.encode(), rng)
                found = read(tmp_path / name, stored, skip_bad_rows=number % 2 == 0)
            except UserError as error:
                assert "\n" not in str(error)
                results["refused"] += 1
                continue
            results["read"] += 1
            assert number % 2 == 0 or not found.note
            for question in found.questions:
                assert question.question.strip() and question.context.strip() and question.id
                for span in question.answers:
                    end = span.begin + len(span.text)
                    assert span.text and question.context[span.begin : end] == span.text
        assert min(results.values()) > 20 and len(results) == 2


class Trivia(tfds.core.GeneratorBasedBuilder):
    """A dataset of this test, with the features of TFDS's squad."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="v2.0")]

    def _info(self) -> tfds.core.DatasetInfo:
        feature = tfds.features
        spans = feature.Sequence({"text": feature.Text(), "answer_start": np.int32})
        features = {
            "id": np.str_,
            "context": feature.Text(),
            "question": feature.Text(),
            "answers": spans,
            "plausible_answers": spans,
            "is_impossible": np.bool_,
        }
        return tfds.core.DatasetInfo(
            builder=self, features=feature.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, _: object) -> dict[str, Iterator]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
        nothing = {"text": [], "answer_start": []}
        for number, row in enumerate(flat()):
            defaults = {"is_impossible": False, "plausible_answers": nothing}
            plausible = {"text": ["Nobody"], "answer_start": [1]}
            hints = {"plausible_answers": plausible} if "plausible_answers" in row else {}
            yield number, defaults | row | hints | {"id": str(row["id"])}


def test_tfds_records_are_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_dataset(Trivia, tmp_path, monkeypatch)
    source = "tfds:trivia/v2.0:train"
    found = expected([f"{source} record {number}" for number in range(4)])
    assert read_questions(source, skip_bad_rows=False) == Questions(found, "")


# What means that there is no answer, in each form of a question; exports differ.
NO_ANSWERS: list[dict] = [
    {},
    {"answers": None},
    {"answers": []},
    {"answers": {}},
    {"answers": {"text": [], "answer_start": []}},
    {"answers": {"text": None, "answer_start": None}},
    {"answers": [{"text": "", "answer_start": -1}]},
    {"answers": [{"text": None, "answer_start": None}]},
    {"answers": [{"text": " \u200b", "answer_start": 0}]},
    {"answers": [{"text": ""}]},
    {"answers": {"text": [""], "answer_start": [-1]}},
    {"is_impossible": None, "answers": [{"text": "", "answer_start": -1}] * 2},
    {"is_impossible": False, "answers": [{"text": "", "answer_start": -1}]},
]


@pytest.mark.parametrize("fields", NO_ANSWERS)
def test_an_empty_answer_is_none(fields: dict, tmp_path: Path) -> None:
    other = {"id": "b", "question": "q", "answers": [answer("c", 2)]}
    item = {"id": "a", "question": "q"} | fields
    squad = {"data": [{"paragraphs": [{"context": "a c", "qas": [item, other]}]}]}
    rows = "\n".join(json.dumps(each | {"context": "a c"}) for each in (item, other))
    for name, content in (("a.json", json.dumps(squad)), ("a.jsonl", rows)):
        found = read(tmp_path / name, content)
        assert [each.answers for each in found.questions] == [(), (Answer("c", 2),)]
        assert not found.note


def test_answers_beside_an_empty_one_count(tmp_path: Path) -> None:
    row = {"id": 1, "question": "q", "context": "a c", "answers": [answer("", -1), answer("c", 2)]}
    (found,) = read(tmp_path / "a.jsonl", json.dumps(row)).questions
    assert found.answers == (Answer("c", 2),)


def test_empty_questions_and_contexts_are_refused_or_left_out(tmp_path: Path) -> None:
    squad: Any = copy.deepcopy(SQUAD)
    squad["data"][1]["paragraphs"][1]["qas"][1]["question"] = "\u2003"
    squad["data"][0]["paragraphs"][0]["context"] = "\ufeff \n"
    path = tmp_path / "a.json"
    message = refusal(path, json.dumps(squad))
    assert message.startswith(f"{path}: data[0].paragraphs[0] has an empty 'context': fill it in")
    assert f"empty 'context' (2, from {path}: data[0].paragraphs[0] on), empty 'quest" in message
    found = read(path, json.dumps(squad), skip_bad_rows=True)
    assert [each.id for each in found.questions] == ["3"]
    assert found.note == "left out: empty 'context' (2), empty 'question' (1)"
