"""Readers of collections: BEIR's directories, and SQuAD's questions with their paragraphs."""

import dataclasses
import pathlib
from collections.abc import Iterator

from bert_jax.data.tasks.bad_rows import BadRow, BadRows
from bert_jax.data.tasks.question_files import read_questions
from bert_jax.data.tasks.tables import (
    Row,
    as_text,
    is_missing,
    listed,
    read_records,
    read_rows,
    shown,
)
from bert_jax.errors import UserError

Judgements = dict[str, dict[str, int]]  # id of a query -> id of a document -> relevance

_QRELS = "qrels"
_SKIP = "--skip_bad_rows"
_CORPUS, _QUERIES = "corpus.jsonl", "queries.jsonl"


@dataclasses.dataclass(frozen=True)
class Documents:
    """Texts to search among, N of them.

    Ids descend, which is how trec_eval ranks documents of one score: of equal scores, the document
    that is first here is ranked first.

    Attributes:
      ids: of the documents, descending.
      texts: title and text of each, with a space between.
      note: what was left out; '' for nothing.
    """

    ids: list[str]
    texts: list[str]
    note: str


@dataclasses.dataclass(frozen=True)
class Collection:
    """Documents, queries, and which documents answer which queries.

    Attributes:
      documents: to search among.
      queries: id -> text, of the judged queries alone.
      judgements: of every query at least one; relevance 0 or less: the document is no answer.
      notes: what was left out, for the log.
    """

    documents: Documents
    queries: dict[str, str]
    judgements: Judgements
    notes: list[str]


def read_collection(source: pathlib.Path, split: str, *, skip_bad_rows: bool) -> Collection:
    """Reads a collection.

    Args:
      source: a directory in BEIR's layout: corpus.jsonl (`_id`, `title`, `text`), queries.jsonl
        (`_id`, `text`), and qrels/SPLIT.tsv or qrels.tsv (query, document, relevance); or a file of
        `read_questions`, whose documents are its distinct contexts, numbered from 0.
      split: names the file of judgements of a directory.
      skip_bad_rows: leave out, and count, empty texts and judgements of unknown queries. Judgements
        of documents that the corpus lacks are counted and kept: these cannot be found.

    Raises:
      UserError: if a file is missing or is not in this layout, an id occurs twice or has white
        space; if a text is empty or a judgement names an unknown id, unless they are skipped.
    """
    if source.is_dir():
        return _read_beir(source, split, skip=skip_bad_rows)
    return _read_questions(source, skip=skip_bad_rows)


def read_documents(path: pathlib.Path, *, skip_bad_rows: bool) -> Documents:
    """Reads a corpus.jsonl; see `read_collection`."""
    bad = _bad_rows(path, skip=skip_bad_rows)
    texts = dict(_texts(path, bad))
    bad.close(len(texts), "texts")
    return _ordered(texts, bad.note)


def _ordered(texts: dict[str, str], note: str) -> Documents:
    # Python compares strings by code point, strcmp by byte of UTF-8: the same order.
    ids = sorted(texts, reverse=True)
    return Documents(ids, [texts[each] for each in ids], note)


def _bad_rows(path: pathlib.Path, *, skip: bool) -> BadRows:
    return BadRows(str(path), skip=skip, flag=_SKIP)


def _read_beir(folder: pathlib.Path, split: str, *, skip: bool) -> Collection:
    judged = _qrels_file(folder, split)
    for name in (_CORPUS, _QUERIES):
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}: name a directory in BEIR's layout")
    documents = read_documents(folder / _CORPUS, skip_bad_rows=skip)
    bad = _bad_rows(folder / _QUERIES, skip=skip)
    queries = dict(_texts(folder / _QUERIES, bad))
    bad.close(len(queries), "queries")
    known = set(documents.ids)
    bad_judgements = _bad_rows(judged, skip=skip)
    judgements: Judgements = {}
    for location, query, document, relevance in _judgements(judged, bad_judgements):
        with bad_judgements.caught():
            if document not in known:
                bad_judgements.add(_unknown(location, "document", document, _CORPUS))
            if query not in queries:
                raise _unknown(location, "query", query, _QUERIES)
            of_query = judgements.setdefault(query, {})
            if of_query.setdefault(document, relevance) != relevance:
                raise UserError(
                    f"{location} judges the document {document!r} of query {query!r} again, and"
                    " otherwise: keep one of the two"
                )
    bad_judgements.close(len(judgements), "judgements")
    notes = [documents.note, bad.note, bad_judgements.note]
    if more := len(queries) - len(judgements):
        notes.append(f"left out: queries that {judged.name} does not judge ({more:,})")
    return Collection(
        documents,
        {name: text for name, text in queries.items() if name in judgements},
        judgements,
        [note for note in notes if note],
    )


def _unknown(location: str, kind: str, name: str, file: str) -> BadRow:
    problem = (
        f"judges the {kind} {name!r}, which {file} does not have: add it, or leave the row out"
    )
    return BadRow(location, f"judgement of an unknown {kind}", problem)


def _qrels_file(folder: pathlib.Path, split: str) -> pathlib.Path:
    path = folder / _QRELS / f"{split}.tsv"
    if path.is_file():
        return path
    there = sorted(each.stem for each in folder.glob(f"{_QRELS}/*.tsv"))
    if there:
        raise UserError(f"--split={split} has no {path}: choose of {', '.join(there)}")
    if not (single := folder / f"{_QRELS}.tsv").is_file():
        raise UserError(f"{folder} has no {_QRELS}/{split}.tsv and no {single.name}: add one")
    return single


def _texts(path: pathlib.Path, bad: BadRows) -> Iterator[tuple[str, str]]:
    """Yields id and text of each row that has a text; a title is put before it."""
    places: dict[str, str] = {}
    for location, row in read_records(str(path)):
        with bad.caught():
            name = _id(_value(row, "_id", location), location)
            if name in places:
                raise UserError(
                    f"{location} has the id {name!r} of {places[name]}: give each its own"
                )
            places[name] = location
            parts = [row.get("title"), _value(row, "text", location)]
            texts = [_text(part, location) for part in parts if not is_missing(part)]
            if not texts:
                problem = f"has an empty text, of id {name!r}: fill it in, or remove the row"
                raise BadRow(location, "empty text", problem)
            yield name, " ".join(texts)


def _value(row: Row, name: str, location: str) -> object:
    if name not in row:
        raise UserError(f"{location} has no {name!r}: it has {listed(row)}; rename its field")
    return row[name]


def _text(value: object, location: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{location} has {shown(value)} as title or text: write text")
    return value.strip()


def _id(value: object, location: str) -> str:
    """Returns an id; some collections write it as a number."""
    name = as_text(value)
    if not name or name.split() != [name]:
        raise UserError(f"{location} has the id {shown(value)}: write one without white space")
    return name


def _judgements(path: pathlib.Path, bad: BadRows) -> Iterator[tuple[str, str, str, int]]:
    """Yields place, query, document and relevance of each row; the first may name the columns."""
    rows = read_rows(str(path), header=False, bad=bad)
    for number, (location, row) in enumerate(rows):
        if len(row) != 3:
            raise UserError(
                f"{location} has {len(row)} columns: write query, document and relevance, with"
                " tabs between"
            )
        query, document, relevance = (str(value).strip() for value in row.values())
        if not _is_whole(relevance):
            if number == 0:
                continue
            raise UserError(
                f"{location} has the relevance {shown(relevance)}: write a whole number"
            )
        yield location, query, document, int(relevance)


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _read_questions(source: pathlib.Path, *, skip: bool) -> Collection:
    if not source.is_file():
        raise UserError(f"--retrieval={source} is not there: name a directory or a SQuAD file")
    read = read_questions(str(source), skip_bad_rows=skip, flag=_SKIP)
    answered = [question for question in read.questions if question.answers]
    numbers: dict[str, str] = {}
    for question in read.questions:
        numbers.setdefault(question.context.strip(), str(len(numbers)))
    notes = [read.note] if read.note else []
    if not answered:
        raise UserError(f"{source} has no question with an answer: choose another file")
    if more := len(read.questions) - len(answered):
        notes.append(f"left out: questions without an answer ({more:,})")
    return Collection(
        _ordered({number: context for context, number in numbers.items()}, ""),
        {_id(each.id, each.location): each.question.strip() for each in answered},
        {each.id: {numbers[each.context.strip()]: 1} for each in answered},
        notes,
    )
