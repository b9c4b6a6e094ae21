"""Reads questions about texts with answers that are spans: SQuAD's JSON, JSON lines, TFDS."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from bert_jax.data.tasks.tables import (
    has_records,
    listed,
    parse_json,
    read_lines,
    read_records,
    shown,
)
from bert_jax.errors import UserError

_KINDS = {
    str: "text",
    int: "a whole number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}
_Kind = TypeVar("_Kind", str, int, bool, list, dict)
_Object = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """An answer: a span of the context."""

    text: str
    begin: int  # character (code point) of the context


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A question, its context and its answers."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]  # () if the context does not answer it
    location: str  # for messages


@dataclasses.dataclass(frozen=True, slots=True)
class Questions:
    """The questions of a source, and the counts of what was skipped."""

    questions: list[Question]
    misplaced: int  # answers skipped because they are not at their offset in the context
    left_out: int  # questions skipped because all their answers were


def read_questions(source: str, *, skip_misplaced: bool) -> Questions:
    """Reads questions and answers.

    Offsets are in characters (code points), as in SQuAD. A question with `is_impossible`, or
    without answers, is unanswerable; `plausible_answers` are ignored.

    Args:
      source: a .json file in the format of SQuAD 1.1 or 2.0; or a .jsonl file, or
        `tfds:NAME[/CONFIG]:SPLIT`, with the fields id, question, context and answers, which has the
        lists text and answer_start.
      skip_misplaced: True skips and counts answers that are not at their offset in the context.

    Raises:
      UserError: if the source cannot be read or has no questions; if a field is missing, empty or
        of another type; if an id occurs twice; if an answer is misplaced and not skipped.
    """
    questions: list[Question] = []
    misplaced = left_out = 0
    locations: dict[str, str] = {}
    for question in _all_questions(source):
        if question.id in locations:
            raise UserError(
                f"{question.location} has the id {question.id!r} of {locations[question.id]}: give"
                " each question its own id"
            )
        locations[question.id] = question.location
        wrong = [each for each in question.answers if not _is_placed(each, question.context)]
        if wrong and not skip_misplaced:
            raise _misplaced(question, wrong[0])
        misplaced += len(wrong)
        if wrong and len(wrong) == len(question.answers):
            left_out += 1
            continue
        right = tuple(each for each in question.answers if each not in wrong)
        questions.append(dataclasses.replace(question, answers=right))
    if not questions:
        but = f" but {left_out} whose answers are all misplaced" if left_out else ""
        raise UserError(f"{source} has no questions{but}: choose another file")
    return Questions(questions, misplaced, left_out)


def _is_placed(answer: Answer, context: str) -> bool:
    # Python counts a negative begin from the end.
    return answer.begin >= 0 and context.startswith(answer.text, answer.begin)


def _misplaced(question: Question, answer: Answer) -> UserError:
    there = question.context[max(answer.begin, 0) :][: len(answer.text)]
    return UserError(
        f"{question.location}: the answer {shown(answer.text)} of question {question.id!r} is not"
        f" at character {answer.begin} of its context, where {shown(there)} is: count answer_start"
        " in characters (code points) from 0, or skip such answers with"
        " --config.data.skip_misplaced"
    )


def _all_questions(source: str) -> Iterator[Question]:
    if has_records(source):
        return _from_records(source)
    if pathlib.Path(source).suffix == ".json":
        return _from_squad(source)
    raise UserError(
        f"{source}: the name must end in .json (SQuAD), .jsonl, or be tfds:NAME[/CONFIG]:SPLIT"
    )


def _from_squad(path: str) -> Iterator[Question]:
    text = "\n".join(line for _, line in read_lines(path))
    content = _object(parse_json(text, path), path)
    for article, article_location in _items(content, "data", path, ": "):
        for paragraph, location in _items(article, "paragraphs", article_location):
            context = _text(paragraph, "context", location)
            for item, item_location in _items(paragraph, "qas", location):
                impossible = _is_impossible(item, item_location)
                answers = [] if impossible else _items(item, "answers", item_location)
                yield _question(item, context, answers, item_location)


def _from_records(source: str) -> Iterator[Question]:
    for location, row in read_records(source):
        context = _text(row, "context", location)
        answers = [] if _is_impossible(row, location) else _flat_answers(row, location)
        yield _question(row, context, answers, location)


def _flat_answers(row: _Object, location: str) -> list[tuple[_Object, str]]:
    """Returns (answer in SQuAD's form, location) from the lists `text` and `answer_start`."""
    answers = _field(row, "answers", dict, location)
    texts = _field(answers, "text", list, f"{location} answers")
    begins = _field(answers, "answer_start", list, f"{location} answers")
    if len(texts) != len(begins):
        raise UserError(
            f"{location} answers has {len(texts)} of text and {len(begins)} of answer_start: write"
            " the same number of both"
        )
    return [
        ({"text": text, "answer_start": begin}, f"{location} answers[{number}]")
        for number, (text, begin) in enumerate(zip(texts, begins, strict=True))
    ]


def _question(
    item: _Object, context: str, answers: Sequence[tuple[_Object, str]], location: str
) -> Question:
    return Question(
        id=_id(item, location),
        question=_text(item, "question", location),
        context=context,
        answers=tuple(
            Answer(_text(answer, "text", where), _field(answer, "answer_start", int, where))
            for answer, where in answers
        ),
        location=location,
    )


def _id(item: _Object, location: str) -> str:
    """Returns the id; some datasets write it as a number."""
    return str(item["id"]) if type(item.get("id")) is int else _text(item, "id", location)


def _is_impossible(item: _Object, location: str) -> bool:
    """Returns True for a question marked as unanswerable; only SQuAD 2.0 has the field."""
    return "is_impossible" in item and _field(item, "is_impossible", bool, location)


def _items(item: _Object, name: str, location: str, joint: str = ".") -> list[tuple[_Object, str]]:
    """Returns (object, location) of each object in a JSON list."""
    values = _field(item, name, list, location)
    locations = [f"{location}{joint}{name}[{number}]" for number in range(len(values))]
    return [(_object(value, where), where) for value, where in zip(values, locations, strict=True)]


def _object(value: Any, location: str) -> _Object:
    if not isinstance(value, dict):
        raise UserError(f"{location} is {shown(value)}: write an object")
    return value


def _text(item: _Object, name: str, location: str) -> str:
    text = _field(item, name, str, location)
    if not text.strip():
        raise UserError(f"{location} has an empty {name!r}: fill it in, or remove the item")
    return text


def _field(item: _Object, name: str, kind: type[_Kind], location: str) -> _Kind:
    if name not in item:
        raise UserError(f"{location} has no {name!r}, only {listed(item)}: add it")
    value = item[name]
    if type(value) is not kind:  # not isinstance, since bool is a subclass of int
        raise UserError(f"{location} has {shown(value)} in {name!r}: write {_KINDS[kind]}")
    return value
