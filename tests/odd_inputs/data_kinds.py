"""Odd data: text for `prepare`, lines for `predict`, labelled files for `evaluate`."""

import csv
import gzip
import io
import json
import pathlib
import random
import string
import unicodedata
from collections import Counter
from typing import Any

from backports import zstd
from seqeval.metrics import f1_score
from sklearn.metrics import accuracy_score

from bert_jax.data.corpus.documents import Layout
from bert_jax.data.corpus.sentences import SentenceSplitter
from bert_jax.text.tokenizer import load_tokenizer
from tests.fixtures.corpora import documents_of
from tests.fixtures.drivers import Result
from tests.fixtures.slow_readers import read_json, read_text
from tests.odd_inputs.cases import (
    Case,
    Material,
    check_finite,
    expect,
    questions,
    read_lines_of_json,
    tagged_text,
)
from tests.odd_inputs.mutations import mutated_json, mutated_text


def text(rng: random.Random, material: Material, folder: pathlib.Path) -> Case:
    """A corpus of text or JSON lines, perhaps compressed; a slow reader is the oracle."""
    is_json, layout = rng.random() < 0.4, rng.choice([Layout.LINES, Layout.DOCUMENTS])
    whole = material.text.read_text()
    if is_json:
        layout = Layout.LINES
        parts = whole.split("\n\n")[:20]
        records = [{"id": number, "text": part} for number, part in enumerate(parts)]
        if rng.random() < 0.5:
            records = mutated_json(rng, records)
        lines = [json.dumps(each, ensure_ascii=rng.random() < 0.5) for each in records or [""]]
        whole = "\n".join(lines).encode(errors="replace").decode() + "\n"
    content = mutated_text(rng, whole) if rng.random() < 0.9 else whole.encode()
    compress, ending = rng.choice(
        [(bytes, ""), (bytes, ""), (gzip.compress, ".gz"), (zstd.compress, ".zst")]
    )
    stored = compress(content)
    is_damaged = bool(ending) and rng.random() < 0.3
    if is_damaged:
        stored = stored[: rng.randrange(len(stored))]
    source = folder / f"text{'.jsonl' if is_json else '.txt'}{ending}"
    source.write_bytes(stored)
    output = folder / "corpus"

    def confirm(_: Result) -> None:
        expect(not is_damaged, "a damaged file was read")
        try:
            read = read_json(source, content) if is_json else read_text(source, content, layout)
        except ValueError as error:
            expect(False, f"the oracle refuses it: {error}")
            raise
        tokenizer, splitter = load_tokenizer(material.vocabulary), SentenceSplitter(layout)
        wanted = set()
        for document in read:
            sentences = [tokenizer.encode(each).tolist() for each in splitter.split(document)]
            wanted.add(tuple(tuple(each) for each in sentences if each))
        found = {tuple(each) for each in documents_of(output, "train")}
        expect(found == wanted - {()}, "other documents than the oracle's")

    spec = f"jsonl:{source}#text" if is_json else f"text:{source}"
    flags = (
        f"--source={spec}",
        f"--layout={layout.value}",
        f"--tokenizer={material.vocabulary}",
        "--heldout_rate=0",
        "--workers=1",
        f"--output={output}",
    )
    return Case("prepare", flags, confirm, output)


def lines(rng: random.Random, material: Material, folder: pathlib.Path) -> Case:
    """Lines of text for a model of any kind; one answer for each line."""
    task = rng.choice(["pretraining", "classification", "tags", "spans"])
    first = {"pretraining": "red [MASK] stone", "spans": "red\told red stone"}.get(
        task, "red stone"
    )
    content = mutated_text(rng, "".join(f"{first} {rng.choice('abc')}\n" for _ in range(6)))

    def confirm(result: Result) -> None:
        found = read_lines_of_json(result.out)
        asked = content.decode().split("\n")
        asked = [line.removesuffix("\r") for line in asked if line or line != asked[-1]]
        expect(len(found) == len(asked), f"{len(found)} answers for {len(asked)} lines")
        for each, line in zip(found, asked, strict=True):
            text = each.get("text", each.get("question"))
            expect(text == line.partition("\t")[0], f"{text!r} for {line!r}")
            if "probabilities" in each:
                total = sum(each["probabilities"].values())
                expect(abs(total - 1) < 1e-4, f"probabilities add up to {total}")

    return Case("predict", (f"--checkpoint={material.run(task)}", "--json"), confirm, stdin=content)


def word_lists(rng: random.Random, material: Material, folder: pathlib.Path) -> Case:
    """JSON lists of words for a tagger; one tag for each word."""
    lists: Any = [rng.choices(["red", "blue", "U.S.", "stone"], k=4) for _ in range(4)]
    if rng.random() < 0.7:
        lists = mutated_json(rng, lists)
    content = "\n".join(json.dumps(each) for each in (lists or [lists])).encode() + b"\n"
    if rng.random() < 0.3:
        content = mutated_text(rng, content.decode())

    def confirm(result: Result) -> None:
        found = read_lines_of_json(result.out)
        asked = [json.loads(line) for line in content.decode().split("\n") if line.strip("\r")]
        expect(len(found) == len(asked), f"{len(found)} answers for {len(asked)} lists")
        for each, words in zip(found, asked, strict=True):
            expect(len(words) == len(each["words"]) == len(each["tags"]), "a word has no tag")

    flags = f"--checkpoint={material.run('tags')}", "--words", "--json"
    return Case("predict", flags, confirm, stdin=content)


def table(rng: random.Random, material: Material, folder: pathlib.Path) -> Case:
    """A .tsv, .csv or .jsonl file; Python's own readers and scikit-learn are the oracles."""
    ending = rng.choice([".tsv", ".csv", ".jsonl"])
    words = [rng.choices(["red", "light", "sun", "blue", "wind"], k=3) for _ in range(8)]
    rows: Any = [
        {"id": number, "feel": rng.choice(["warm", "cold"]), "words": " ".join(each)}
        for number, each in enumerate(words)
    ]
    if ending == ".jsonl":
        rows = mutated_json(rng, rows) if rng.random() < 0.6 else rows
        whole = "".join(json.dumps(each) + "\n" for each in rows or [""])
    else:
        joint = "\t" if ending == ".tsv" else ","
        whole = "".join(
            f"{joint.join(map(str, cells))}\n"
            for cells in (rows[0].keys(), *(row.values() for row in rows))
        )
    is_mutated = ending != ".jsonl" or rng.random() < 0.5
    content = mutated_text(rng, whole) if is_mutated else whole.encode()
    source, output = folder / f"data{ending}", folder / "out"
    source.write_bytes(content)

    def confirm(_: Result) -> None:
        found, scores = _evaluated(output)
        wanted = [(_plain(row["feel"]), _plain(row["words"])) for row in _rows(content, ending)]
        told = [(_plain(each["gold"]), _plain(each["text"])) for each in found]
        expect(told == wanted, f"read {told}, and the oracle {wanted}")
        gold, label = ([each[name] for each in found] for name in ("gold", "label"))
        _same(scores["accuracy"], accuracy_score(gold, label), "accuracy")

    return _evaluation(material, "classification", source, output, confirm)


def _rows(content: bytes, ending: str) -> list[dict[str, Any]]:
    text = content.decode("utf-8-sig")
    if ending == ".csv":
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        filled = [row for row in rows if row]
    elif ending == ".tsv":
        filled = [line.removesuffix("\r").split("\t") for line in text.split("\n")]
        filled = [row for row in filled if any(cell.strip() for cell in row)]
    else:
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    names, *rest = filled
    names = [name.strip() for name in names]
    return [dict(zip(names, row, strict=True)) for row in rest]


def _plain(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return " ".join(unicodedata.normalize("NFC", text).split())


def tagged(rng: random.Random, material: Material, folder: pathlib.Path) -> Case:
    """A file of words and tags; seqeval is the oracle."""
    content = mutated_text(rng, tagged_text(rng, 6))
    source, output = folder / "data.conll", folder / "out"
    source.write_bytes(content)

    def confirm(_: Result) -> None:
        found, scores = _evaluated(output)
        for each in found:
            sizes = {len(each[name]) for name in ("words", "gold", "tags")}
            expect(len(sizes) == 1, f"{sizes} words, gold tags and tags")
        lines = [line.split() for line in content.decode("utf-8-sig").split("\n")]
        written = [cells[0] for cells in lines if len(cells) > 1 and cells[0] != "#"]
        read = [word.split()[0] for each in found for word in each["words"]]
        missing = Counter(read) - Counter(written)
        expect(not missing, f"words that are not in the file: {missing}")
        gold, tags = ([each[name] for each in found] for name in ("gold", "tags"))
        _same(scores["f1"], f1_score(gold, tags, zero_division=0), "f1")  # pyright: ignore

    return _evaluation(material, "tags", source, output, confirm)


def question_file(rng: random.Random, material: Material, folder: pathlib.Path) -> Case:
    """A file in SQuAD's form; the rules of its script are the oracle."""
    whole: Any = questions(rng, 5)
    if rng.random() < 0.8:
        whole = mutated_json(rng, whole)
    content = json.dumps(whole).encode()
    if rng.random() < 0.3:
        content = mutated_text(rng, content.decode())
    source, output = folder / "data.json", folder / "out"
    source.write_bytes(content)

    def confirm(_: Result) -> None:
        found, scores = _evaluated(output)
        asked = [
            item["question"]
            for article in json.loads(content.decode("utf-8-sig"))["data"]
            for paragraph in article["paragraphs"]
            for item in paragraph["qas"]
        ]
        expect([each["question"] for each in found] == asked, "other questions than in the file")
        values = [
            max(_f1(each["answer"], gold) for gold in each["golds"] or [""]) for each in found
        ]
        _same(scores["f1"], 100 * sum(values) / len(values), "f1")

    return _evaluation(material, "spans", source, output, confirm)


def _words(answer: str) -> list[str]:
    kept = "".join(c for c in answer.lower() if c not in string.punctuation)
    return [word for word in kept.split() if word not in ("a", "an", "the")]


def _f1(answer: str, gold: str) -> float:
    ours, theirs = _words(answer), _words(gold)
    if not ours or not theirs:
        return float(ours == theirs)
    same = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * same / (len(ours) + len(theirs))


def _evaluation(
    material: Material, task: str, source: pathlib.Path, output: pathlib.Path, confirm: Any
) -> Case:
    flags = f"--checkpoint={material.run(task)}", f"--data={source}", f"--output={output}"
    return Case("evaluate", flags, confirm, output)


def _evaluated(output: pathlib.Path) -> tuple[list[Any], dict[str, Any]]:
    found = read_lines_of_json((output / "predictions.jsonl").read_text())
    scores = json.loads((output / "scores.json").read_text())
    check_finite(scores)
    expect(len(found) == scores["examples"], "examples without a prediction")
    return found, scores


def _same(ours: float, theirs: float, name: str) -> None:
    expect(
        abs(ours - theirs) < 1e-6 * max(1, abs(theirs)), f"{name}: {ours}, by the oracle {theirs}"
    )
