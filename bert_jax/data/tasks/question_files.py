"""Questions on a text whose answers are spans of it: SQuAD's JSON, JSON lines, TFDS."""

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
    """A span of the context that answers the question."""

    text: str
    begin: int  # character (code point) of the context


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A question, the text that may answer it, and its answers."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]  # () if the context has none
    place: str  # for messages


@dataclasses.dataclass(frozen=True, slots=True)
class Questions:
    """The questions of a source, and what was left out of it."""

    questions: list[Question]
    misplaced: int  # answers left out, for they are not in the context where they should be
    left_out: int  # questions left out, for all of their answers were


def read_questions(source: str, *, skip_misplaced: bool) -> Questions:
    """Reads questions and answers.

    SQuAD counts its offsets in characters (code points), and so must every source. A question with
    `is_impossible`, or without answers, is unanswerable; plausible answers are ignored.

    Args:
      source: a .json file as of SQuAD 1.1 or 2.0; or a .jsonl file, or `tfds:NAME[/CONFIG]:SPLIT`,
        with the fields id, question, context and answers, which has lists text and answer_start.
      skip_misplaced: leave out, and count, answers that are not in the context at their offset.

    Raises:
      UserError: for a source that cannot be read or has no questions, a field that is missing, of
        another type or empty, an id that comes twice, and, unless they are skipped, misplaced
        answers.
    """
    questions: list[Question] = []
    misplaced = left_out = 0
    places: dict[str, str] = {}
    for question in _all_questions(source):
        if question.id in places:
            raise UserError(
                f"{question.place} has the id {question.id!r} of {places[question.id]}:"
                " give each question its own"
            )
        places[question.id] = question.place
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
        raise UserError(f"{source} holds no questions{but}: name another file")
    return Questions(questions, misplaced, left_out)


def _is_placed(answer: Answer, context: str) -> bool:
    # A begin below 0 would be counted from the end.
    return answer.begin >= 0 and context.startswith(answer.text, answer.begin)


def _misplaced(question: Question, answer: Answer) -> UserError:
    there = question.context[max(answer.begin, 0) :][: len(answer.text)]
    return UserError(
        f"{question.place}: the answer {shown(answer.text)} of question {question.id!r} is not at"
        f" character {answer.begin} of its context, where {shown(there)} is: count answer_start in"
        " characters (code points) from 0, or leave such answers out with"
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
    for article, article_place in _items(content, "data", path, ": "):
        for paragraph, place in _items(article, "paragraphs", article_place):
            context = _text(paragraph, "context", place)
            for item, item_place in _items(paragraph, "qas", place):
                impossible = _is_impossible(item, item_place)
                answers = [] if impossible else _items(item, "answers", item_place)
                yield _question(item, context, answers, item_place)


def _from_records(source: str) -> Iterator[Question]:
    for place, row in read_records(source):
        context = _text(row, "context", place)
        answers = [] if _is_impossible(row, place) else _flat_answers(row, place)
        yield _question(row, context, answers, place)


def _flat_answers(row: _Object, place: str) -> list[tuple[_Object, str]]:
    """Returns (answer as in SQuAD's JSON, place) of the two lists in which they are."""
    answers = _field(row, "answers", dict, place)
    texts = _field(answers, "text", list, f"{place} answers")
    begins = _field(answers, "answer_start", list, f"{place} answers")
    if len(texts) != len(begins):
        raise UserError(
            f"{place} answers has {len(texts)} of text and {len(begins)} of answer_start:"
            " write as many of both"
        )
    return [
        ({"text": text, "answer_start": begin}, f"{place} answers[{number}]")
        for number, (text, begin) in enumerate(zip(texts, begins, strict=True))
    ]


def _question(
    item: _Object, context: str, answers: Sequence[tuple[_Object, str]], place: str
) -> Question:
    return Question(
        id=_id(item, place),
        question=_text(item, "question", place),
        context=context,
        answers=tuple(
            Answer(_text(answer, "text", where), _field(answer, "answer_start", int, where))
            for answer, where in answers
        ),
        place=place,
    )


def _id(item: _Object, place: str) -> str:
    """Returns the id, which some sets write as a number."""
    return str(item["id"]) if type(item.get("id")) is int else _text(item, "id", place)


def _is_impossible(item: _Object, place: str) -> bool:
    """Whether a question says that it has no answer; only SQuAD 2.0 has the field."""
    return "is_impossible" in item and _field(item, "is_impossible", bool, place)


def _items(item: _Object, name: str, place: str, joint: str = ".") -> list[tuple[_Object, str]]:
    """Returns (object, place) of a list of objects in JSON."""
    values = _field(item, name, list, place)
    places = [f"{place}{joint}{name}[{number}]" for number in range(len(values))]
    return [(_object(value, where), where) for value, where in zip(values, places, strict=True)]


def _object(value: Any, place: str) -> _Object:
    if not isinstance(value, dict):
        raise UserError(f"{place} is {shown(value)}: it must be an object")
    return value


def _text(item: _Object, name: str, place: str) -> str:
    text = _field(item, name, str, place)
    if not text.strip():
        raise UserError(f"{place} has an empty {name!r}: fill it in, or leave it out")
    return text


def _field(item: _Object, name: str, kind: type[_Kind], place: str) -> _Kind:
    if name not in item:
        raise UserError(f"{place} has no {name!r}: it has {listed(item)}")
    value = item[name]
    if type(value) is not kind:  # true is no whole number
        raise UserError(f"{place} has {shown(value)} in {name!r}: it must be {_KINDS[kind]}")
    return value
