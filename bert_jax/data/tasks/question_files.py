"""Reads questions about texts with answers that are spans: SQuAD's JSON, JSON lines, TFDS."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any, TypeVar

from bert_jax.data.tasks.bad_rows import BadRow, BadRows
from bert_jax.data.tasks.tables import (
    has_records,
    is_missing,
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
    """The questions of a source, and a note of what was left out; '' for nothing."""

    questions: list[Question]
    note: str


def read_questions(
    source: str, *, skip_bad_rows: bool, flag: str = "--config.data.skip_bad_rows"
) -> Questions:
    """Reads questions and answers.

    Offsets are in characters (code points), as in SQuAD. A question with `is_impossible`, or
    without answers, is unanswerable; `plausible_answers` are ignored. An answer without text is
    none, whatever its offset; so are missing and null answers.

    Args:
      source: a .json file in the format of SQuAD 1.1 or 2.0; or a .jsonl file, or
        `tfds:NAME[/CONFIG]:SPLIT`, with the fields id, question, context and answers. Answers are a
        list of objects with text and answer_start, or an object with a list of each.
      skip_bad_rows: True leaves out, and counts, answers that are not at their offset in the
        context, questions with no other answers, and those whose question or context is empty.
      flag: sets `skip_bad_rows`, for messages.

    Raises:
      UserError: if the source cannot be read or has no questions; if a field is missing or of
        another type; if an id occurs twice; if something is to be left out and is not.
    """
    bad = BadRows(source, skip=skip_bad_rows, flag=flag)
    questions: list[Question] = []
    locations: dict[str, str] = {}
    for question in _all_questions(source, bad):
        if question.id in locations:
            raise UserError(
                f"{question.location} has the id {question.id!r} of {locations[question.id]}: give"
                " each question its own id"
            )
        locations[question.id] = question.location
        wrong = [each for each in question.answers if not _is_placed(each, question.context)]
        for each in wrong:
            bad.add(_misplaced(question, each))
        if wrong and len(wrong) == len(question.answers):
            problem = f"has no answer of question {question.id!r} in its context: mend its answers"
            bad.add(BadRow(question.location, "question without a right answer", problem))
            continue
        right = tuple(each for each in question.answers if each not in wrong)
        questions.append(dataclasses.replace(question, answers=right))
    bad.close(len(questions), "questions")
    return Questions(questions, bad.note)


def _is_placed(answer: Answer, context: str) -> bool:
    # Python counts a negative begin from the end.
    return answer.begin >= 0 and context.startswith(answer.text, answer.begin)


def _misplaced(question: Question, answer: Answer) -> BadRow:
    there = question.context[max(answer.begin, 0) :][: len(answer.text)]
    problem = (
        f"has the answer {shown(answer.text)} of question {question.id!r}, which is not at"
        f" character {answer.begin} of its context, where {shown(there)} is: count answer_start in"
        " characters (code points) from 0"
    )
    return BadRow(question.location, "answer that is not in its text", problem)


def _all_questions(source: str, bad: BadRows) -> Iterator[Question]:
    if has_records(source):
        return _from_records(source, bad)
    if pathlib.Path(source).suffix == ".json":
        return _from_squad(source, bad)
    raise UserError(
        f"{source}: the name must end in .json (SQuAD), .jsonl, or be tfds:NAME[/CONFIG]:SPLIT"
    )


def _from_squad(path: str, bad: BadRows) -> Iterator[Question]:
    text = "\n".join(line for _, line in read_lines(path))
    content = _object(parse_json(text, path), path)
    for article, article_location in _items(content, "data", path, ": "):
        for paragraph, location in _items(article, "paragraphs", article_location):
            for item, item_location in _items(paragraph, "qas", location):
                with bad.caught():
                    context = _text(paragraph, "context", location)
                    yield _question(item, context, item_location)


def _from_records(source: str, bad: BadRows) -> Iterator[Question]:
    for location, row in read_records(source):
        with bad.caught():
            yield _question(row, _text(row, "context", location), location)


def _question(item: _Object, context: str, location: str) -> Question:
    """Returns the question of an object; raises BadRow if it is empty."""
    return Question(
        id=_id(item, location),
        question=_text(item, "question", location),
        context=context,
        answers=() if _is_impossible(item, location) else tuple(_answers(item, location)),
        location=location,
    )


def _answers(item: _Object, location: str) -> Iterator[Answer]:
    """Yields the answers of a question, without those that have no text."""
    if item.get("answers") is None:
        return
    if isinstance(item["answers"], dict):
        answers = _flat_answers(item["answers"], f"{location} answers")
    else:
        answers = _items(item, "answers", location)
    for answer, where in answers:
        if "text" in answer and is_missing(answer["text"]):
            continue
        text = _field(answer, "text", str, where)
        yield Answer(text, _field(answer, "answer_start", int, where))


def _flat_answers(answers: _Object, location: str) -> list[tuple[_Object, str]]:
    """Returns (answer in SQuAD's form, location) from the lists `text` and `answer_start`."""
    if not any(answers.values()):  # as exports write no answer: {}, or with null or empty lists
        return []
    texts = _field(answers, "text", list, location)
    begins = _field(answers, "answer_start", list, location)
    if len(texts) != len(begins):
        raise UserError(
            f"{location} has {len(texts)} of text and {len(begins)} of answer_start: write the same"
            " number of both"
        )
    return [
        ({"text": text, "answer_start": begin}, f"{location}[{number}]")
        for number, (text, begin) in enumerate(zip(texts, begins, strict=True))
    ]


def _id(item: _Object, location: str) -> str:
    """Returns the id; some datasets write it as a number."""
    if type(item.get("id")) is int:
        return str(item["id"])
    if not (name := _field(item, "id", str, location)).strip():
        raise UserError(f"{location} has an empty 'id': give each question its own id")
    return name


def _is_impossible(item: _Object, location: str) -> bool:
    """Returns True for a question marked as unanswerable; only SQuAD 2.0 has the field."""
    marked = item.get("is_impossible") is not None
    return marked and _field(item, "is_impossible", bool, location)


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
    if name in item and is_missing(item[name]):
        problem = f"has an empty {name!r}: fill it in, or remove the item"
        raise BadRow(location, f"empty {name!r}", problem)
    return _field(item, name, str, location)


def _field(item: _Object, name: str, kind: type[_Kind], location: str) -> _Kind:
    if name not in item:
        raise UserError(f"{location} has no {name!r}, only {listed(item)}: add it")
    value = item[name]
    if type(value) is not kind:  # not isinstance, since bool is a subclass of int
        raise UserError(f"{location} has {shown(value)} in {name!r}: write {_KINDS[kind]}")
    return value
