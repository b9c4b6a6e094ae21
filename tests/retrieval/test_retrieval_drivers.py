"""Collections and their scores by `evaluate --retrieval`, as a user calls it."""

import json
import pathlib
import random
from collections.abc import Sequence
from typing import Any

import pytest

from bert_jax.errors import UserError
from bert_jax.retrieval.collection import Collection, read_collection
from bert_jax.retrieval.scoring import score_retrieval
from tests.fixtures.drivers import Drivers, Run

WORDS = "red stone house wind old new blue river under tree sun light runs and the sees".split()


def make_texts(count: int) -> list[str]:
    rng = random.Random(5)
    return [" ".join(rng.choices(WORDS, k=rng.randint(2, 9))) for _ in range(count)]


def write_collection(
    folder: pathlib.Path,
    texts: Sequence[str],
    queries: Sequence[str],
    judged: Sequence[tuple[str, str, int]],
    order: Sequence[int] | None = None,
) -> pathlib.Path:
    """Writes BEIR's files; documents and queries are numbered from 0."""
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": str(number), "title": "", "text": text} for number, text in enumerate(texts)]
    write_rows(folder / "corpus.jsonl", [rows[n] for n in order or range(len(rows))])
    rows = [{"_id": str(number), "text": text} for number, text in enumerate(queries)]
    write_rows(folder / "queries.jsonl", rows)
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, each)) for each in judged)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder


def write_rows(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def read(folder: pathlib.Path, *, skip: bool = False) -> Collection:
    return read_collection(folder, "test", skip_bad_rows=skip)


def test_files_of_beir(tmp_path: pathlib.Path) -> None:
    judged = [("1", "2", 1), ("1", "0", -1), ("2", "1", 3)]
    folder = write_collection(tmp_path / "c", make_texts(3), ["red", "sun", "wind"], judged)
    rows = [{"_id": 7, "title": " A sun ", "text": "rises "}, {"_id": "é", "text": "red"}]
    with (folder / "corpus.jsonl").open("a") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows)
    collection = read(folder)
    assert collection.documents.ids == ["é", "7", "2", "1", "0"]
    assert collection.documents.texts[:2] == ["red", "A sun rises"]
    assert collection.queries == {"1": "sun", "2": "wind"}
    assert collection.judgements == {"1": {"2": 1, "0": -1}, "2": {"1": 3}}
    assert collection.notes == ["left out: queries that test.tsv does not judge (1)"]
    (folder / "qrels" / "test.tsv").rename(folder / "qrels.tsv")
    assert read(folder).judgements == collection.judgements


def test_paragraphs_of_squad(tmp_path: pathlib.Path) -> None:
    def paragraph(context: str, *names: str) -> dict[str, Any]:
        answers = [{"text": context[:3], "answer_start": 0}]
        qas = [{"id": name, "question": f"who {name}?", "answers": answers} for name in names]
        return {"context": context, "qas": qas}

    unanswered = {"context": "blue", "qas": [{"id": "n", "question": "why?", "answers": []}]}
    paragraphs = [paragraph("red house", "a", "b"), unanswered, paragraph("red house", "c")]
    content = {"data": [{"title": "t", "paragraphs": paragraphs}]}
    (tmp_path / "squad.json").write_text(json.dumps(content))
    collection = read(tmp_path / "squad.json")
    assert collection.documents.ids == ["1", "0"]
    assert collection.documents.texts == ["blue", "red house"]
    assert collection.judgements == {name: {"0": 1} for name in "abc"}
    assert collection.notes == ["left out: questions without an answer (1)"]


def test_bad_questions_name_the_flag_of_evaluate(tmp_path: pathlib.Path) -> None:
    answers = [{"text": "red", "answer_start": 0}]
    qas = [{"id": "a", "question": "?", "answers": answers}]
    qas.append({"id": "b", "question": " ", "answers": answers})
    content = {"data": [{"title": "t", "paragraphs": [{"context": "red house", "qas": qas}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"; --skip_bad_rows leaves these out$"):
        read(tmp_path / "squad.json")
    assert read(tmp_path / "squad.json", skip=True).notes == ["left out: empty 'question' (1)"]


def bad_collections() -> dict[str, tuple[dict[str, Any], str]]:
    """Returns what is written over a sound collection, and what is said about it."""
    return {
        "document": (
            {"qrels/test.tsv": "0\t0\t1\n0\t99\t1\n"},
            "test.tsv:2 judges the document '99', which corpus.jsonl does not have: add it, or"
            " leave the row out; unusable in all: judgement of an unknown document (1, from",
        ),
        "query": ({"qrels/test.tsv": "9\t0\t1\n"}, "judges the query '9', which queries.jsonl"),
        "empty": (
            {"corpus.jsonl": '{"_id": "0", "text": " "}\n'},
            "corpus.jsonl:1 has an empty text, of id '0': fill it in, or remove the row;",
        ),
        "field": (
            {"corpus.jsonl": '{"_id": "0", "body": "x"}\n'},
            "has no 'text': it has '_id', '",
        ),
        "id": ({"corpus.jsonl": '{"_id": "a b", "text": "x"}\n'}, "one without white space"),
        "twice": ({"queries.jsonl": '{"_id": 0, "text": "x"}\n' * 2}, "2 has the id '0' of "),
        "again": ({"qrels/test.tsv": "0\t0\t1\n0\t0\t2\n"}, "test.tsv:2 judges the document '0'"),
        "number": ({"qrels/test.tsv": "0\t0\t1\n0\t1\thigh\n"}, "2 has the relevance 'high'"),
        "columns": ({"qrels/test.tsv": "0 0 1\n"}, "has 1 columns: write query, document"),
        "nothing": ({"qrels/test.tsv": "q\td\tscore\n"}, "test.tsv has no judgements"),
        "text": ({"corpus.jsonl": '{"_id": "0", "text": 3}\n'}, "has 3 as title or text"),
    }


@pytest.mark.parametrize("case", bad_collections())
def test_a_wrong_collection_is_one_line(case: str, tmp_path: pathlib.Path) -> None:
    folder = write_collection(tmp_path / "c", make_texts(3), ["red"], [("0", "1", 1)])
    files, message = bad_collections()[case]
    for name, content in files.items():
        (folder / name).write_text(content)
    with pytest.raises(UserError) as error:
        read(folder)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_unknown_ids_are_counted_where_a_flag_says_so(tmp_path: pathlib.Path) -> None:
    judged = [("0", "1", 1), ("0", "99", 1), ("8", "1", 1)]
    folder = write_collection(tmp_path / "c", [*make_texts(3), ""], ["red"], judged)
    collection = read(folder, skip=True)
    # What cannot be found stays in the divisor.
    assert collection.judgements == {"0": {"1": 1, "99": 1}}
    assert collection.notes == [
        "left out: empty text (1)",
        "left out: judgement of an unknown document (1), judgement of an unknown query (1)",
    ]


def test_the_order_of_a_file_changes_nothing(pretrained: Run, tmp_path: pathlib.Path) -> None:
    texts = make_texts(20) * 3  # each has three ids
    judged = [(str(n), str(40 - 2 * n), 1) for n in range(9)]
    runs = []
    for number, seed in enumerate((None, 1, 2)):
        order = list(range(60))
        if seed:
            random.Random(seed).shuffle(order)
        name = tmp_path / f"c{number}"
        folder = write_collection(name, texts, make_texts(9), judged, order)
        score_retrieval(pretrained[0], folder, tmp_path / f"o{number}")
        runs.append((tmp_path / f"o{number}" / "vectors.trec").read_text())
    assert runs[0] == runs[1] == runs[2]
    rows = [line.split() for line in runs[0].splitlines()]
    assert len(rows) == 9 * 60
    first = [row for row in rows if row[0] == "0"]
    assert len({row[4] for row in first[:3]}) == 1  # witness: three ids of one text
    assert [row[2] for row in first[:3]] == sorted((row[2] for row in first[:3]), reverse=True)


def test_a_query_whose_text_is_there_finds_it(
    drivers: Drivers, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    pytest.importorskip("bm25s")
    texts = list(dict.fromkeys(make_texts(30)))
    judged = [(str(n), str(n), 1) for n in range(5)]  # ids of queries and documents are alike
    folder = write_collection(tmp_path / "c", texts, texts[:5], judged)
    flags = [f"--checkpoint={pretrained[0]}", f"--retrieval={folder}", "--bm25"]
    result = drivers.run("evaluate", *flags, f"--output={tmp_path / 'o'}")
    assert result.status == 0 and not result.err, result
    written = json.loads((tmp_path / "o" / "scores.json").read_text())
    assert written["scores"]["vectors"] == dict.fromkeys(written["scores"]["vectors"], 1.0)
    assert written["scores"]["bm25"]["recall@10"] == 1 and written["vectors"] == "mean, cosine"
    table = result.out.splitlines()
    assert table[0] == f"{folder}: {len(texts)} documents, 5 queries, 5 judgements"
    assert table[2].split() == ["mean,", "cosine", *["1.0000"] * 5]
    for name in ("vectors", "bm25"):
        lines = (tmp_path / "o" / f"{name}.trec").read_text().splitlines()
        assert lines[0].split()[:4] == ["0", "Q0", "0", "1"]
    # Nothing is removed by id unless a flag asks for it.
    result = drivers.run("evaluate", *flags, "--skip_own_id", "--pooling=cls")
    assert result.out.splitlines()[2].split() == ["cls,", "cosine", *["0.0000"] * 5]


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_narrow_vectors_are_near(
    dtype: str, drivers: Drivers, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    texts = list(dict.fromkeys(make_texts(30)))
    judged = [(str(n), str(n), 1) for n in range(8)]
    folder = write_collection(tmp_path / "c", texts, texts[:8], judged)
    flags = [f"--checkpoint={pretrained[0]}", f"--retrieval={folder}", f"--dtype={dtype}"]
    result = drivers.run("evaluate", *flags, f"--output={tmp_path / 'o'}")
    assert result.status == 0, result
    written = json.loads((tmp_path / "o" / "scores.json").read_text())
    assert written["dtype"] == dtype and written["scores"]["vectors"]["recall@1"] == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--retrieval=NOWHERE"], "--retrieval=NOWHERE is not there"),
        (["--retrieval=FOLDER", "--split=dev"], "--split=dev has no "),
        (["--retrieval=FOLDER", "--data=x.tsv"], "give one of the two"),
        (["--retrieval=FOLDER", "--processes=2"], "--retrieval runs in one process"),
        (["--retrieval=FOLDER", "--length=90"], "--length=90: the model has positions for 40"),
        (["--skip_own_id"], "are of --retrieval: add it, or leave them out"),
        (["--pooling=cls"], "are of --retrieval: add it, or leave them out"),
        (["--retrieval=FOLDER", "--output=FOLDER"], "is there already"),
    ],
)
def test_a_wrong_flag_is_one_line(
    flags: list[str], message: str, drivers: Drivers, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    folder = write_collection(tmp_path / "c", make_texts(3), ["red"], [("0", "1", 1)])
    flags = [flag.replace("FOLDER", str(folder)) for flag in flags]
    result = drivers.run("evaluate", f"--checkpoint={pretrained[0]}", *flags)
    assert message in result.error()
