"""Rows that cannot be used are refused or left out; labels, and what stands for none."""

import csv
import io
import json
from pathlib import Path

import pytest

from bert_jax.config import TaskDataConfig
from bert_jax.data.tasks.bad_rows import BadRow, BadRows
from bert_jax.data.tasks.classes import (
    LabelledExamples,
    read_class_split,
    read_class_task,
    read_examples,
)
from bert_jax.data.tasks.labels import check_distinct, clean_label, is_blank, unlabelled
from bert_jax.errors import UserError
from tests.fixtures.data import LETTER_TOKENIZER as TOKENIZER


def test_the_first_of_each_reason_is_named_and_all_are_counted() -> None:
    def close(*, skip: bool, kept: int) -> str:
        bad = BadRows("f", skip=skip)
        for number, reason in enumerate(("odd", "even", "odd")):
            with bad.caught():
                raise BadRow(f"f:{number}", reason, f"is {reason}: mend it")
        bad.close(kept, "rows")
        return bad.note

    with pytest.raises(UserError) as caught:
        close(skip=False, kept=7)
    assert str(caught.value) == (
        "f:0 is odd: mend it; unusable in all: odd (2, from f:0 on), even (1, from f:1 on);"
        " --config.data.skip_bad_rows leaves these out"
    )
    assert close(skip=True, kept=1) == "left out: odd (2), even (1)"
    with pytest.raises(UserError, match="f has no rows but what is left out: odd .2., even .1.: c"):
        close(skip=True, kept=0)
    with pytest.raises(UserError, match="f has no rows: choose another file"):
        BadRows("f", skip=True).close(0, "rows")


def read(
    path: Path, content: str, *, numbers: bool = False, **settings: object
) -> LabelledExamples:
    path.write_text(content, newline="")
    config = TaskDataConfig(**settings)  # pyright: ignore[reportArgumentType]
    return read_examples(str(path), config, numbers=numbers)


GOOD = [("a", "x"), ("b", "y"), ("c", "z")]


def rows_as(suffix: str, rows: list) -> str:
    """Writes (text, label) rows, or single cells as rows that are too short."""
    if suffix == ".jsonl":
        return "\n".join(json.dumps({"text": text, "label": label}) for text, label in rows)
    joint = "\t" if suffix == ".tsv" else ","
    cells = [["text", "label"], *([str(cell) for cell in row] for row in rows)]
    return "\n".join(joint.join(row) for row in cells)


@pytest.mark.parametrize(
    ("suffix", "row", "reason"),
    [
        (".tsv", ("d",), "wrong number of columns"),
        (".tsv", ("d", "x", "y"), "wrong number of columns"),
        (".csv", ("d",), "wrong number of columns"),
        (".csv", ("d", "x", ""), "wrong number of columns"),
        (".tsv", ("text", "label"), "repeated header"),
        (".csv", ("\ufefftext", "label"), "repeated header"),
        (".tsv", ("", "x"), "empty 'text'"),
        (".tsv", (" \u00a0", "x"), "empty 'text'"),
        (".tsv", ("\ufeff\u200b", "x"), "empty 'text'"),
        (".jsonl", (None, "x"), "empty 'text'"),
        (".jsonl", (float("nan"), "x"), "empty 'text'"),
        (".tsv", ("d", "-"), "no gold label"),
        (".jsonl", ("d", "-"), "no gold label"),
        (".csv", ("d", " "), "no gold label"),
        (".csv", ("d", '""'), "no gold label"),
        (".jsonl", ("d", None), "no gold label"),
        (".jsonl", ("d", float("nan")), "no gold label"),
        (".tsv", ("d", "\u200b"), "no gold label"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_or_left_out(
    suffix: str, row: tuple, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    content = rows_as(suffix, [GOOD[0], row, *GOOD[1:], row])
    line = 2 if suffix == ".jsonl" else 3
    with pytest.raises(UserError) as caught:
        read(path, content)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line} ") and "\n" not in message
    assert f"unusable in all: {reason} (2, from {path}:{line} on)" in message
    found = read(path, content, skip_bad_rows=True)
    assert [(each.text, each.label) for each in found.examples] == GOOD
    assert found.note == f"left out: {reason} (2)"


@pytest.mark.parametrize(
    ("labels", "none"),
    [
        (["neutral", "entailment", "-"], {"-"}),
        (["0", "1", "2", "-1"], {"-1"}),
        ([0, 1, 2, -1], {"-1"}),
        (["0", "1", "2", "-1", "-"], {"-", "-1"}),
        (["+", "-"], set()),
        (["1", "-1"], set()),
        (["0", "1", "-1"], set()),  # as polarities are written
        (["-2", "-1", "0", "1", "2"], set()),
        (["N/A", "none", "x"], set()),  # classes of some task
    ],
)
def test_labels_that_stand_for_none(labels: list, none: set[str], tmp_path: Path) -> None:
    content = "\n".join(json.dumps({"text": "a", "label": label}) for label in labels)
    found = read(tmp_path / "a.jsonl", content, skip_bad_rows=True)
    assert {each.label for each in found.examples} == {str(label) for label in labels} - none
    assert bool(found.note) == bool(none)


def test_a_held_out_file_has_the_classes_of_the_training_file(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(rows_as(".tsv", [("a", "+"), ("b", "-")]))
    (tmp_path / "dev.tsv").write_text(rows_as(".tsv", [("a", "-"), ("b", "-"), ("c", "-1")]))
    config = TaskDataConfig(train=f"{tmp_path}/train.tsv", dev=f"{tmp_path}/dev.tsv")
    with pytest.raises(UserError, match=r"dev.tsv:4 has no gold label \('-1' in 'label'\)"):
        read_class_task(config, TOKENIZER)
    config.skip_bad_rows = True
    task = read_class_task(config, TOKENIZER)
    assert task.labels == ["+", "-"] and task.dev["dev"].examples == 2
    assert task.dev["dev"].notes == "left out: no gold label (1); no example of '+'"


@pytest.mark.parametrize("value", ["high", "1,5", "1e999", "0x1", "1e39"])
def test_labels_that_are_no_numbers_are_left_out(value: str, tmp_path: Path) -> None:
    content = rows_as(".tsv", [("a", "1"), ("b", value), ("c", "-"), ("d", ""), ("e", "2")])
    with pytest.raises(UserError, match="a.tsv:3 has "):
        read(tmp_path / "a.tsv", content, numbers=True)
    found = read(tmp_path / "a.tsv", content, numbers=True, skip_bad_rows=True)
    assert [each.label for each in found.examples] == ["1.0", "2.0"]


LONG = "b " * 70_000  # beyond what csv reads by default


@pytest.mark.parametrize(
    "cell",
    [
        LONG,
        LONG + '"',
        f'"{LONG}',
        LONG + "\n" + LONG,
        LONG + "," * 9,
        "x" * 1_000_000,
        "a\0b",
        "'",
    ],
)
def test_any_cell_of_a_csv_file_is_read(cell: str, tmp_path: Path) -> None:
    for ends in ("\n", "\r\n"):
        written = io.StringIO()
        csv.writer(written, lineterminator=ends).writerows([("label", "text"), ("x", cell)])
        for mark in ("", "\ufeff"):
            (found,) = read(tmp_path / "a.csv", mark + written.getvalue()).examples
            assert found.text == cell.strip()
    if "\n" not in cell:
        (found,) = read(tmp_path / "a.tsv", f"label\ttext\nx\t{cell}\n").examples
        assert found.text == cell.strip()


@pytest.mark.parametrize(
    "spelling",
    [
        "cafe\u0301 noir",
        " caf\u00e9 noir ",
        "caf\u00e9  noir",
        "caf\u00e9\u00a0noir",
        "caf\u00e9\u3000noir",
    ],
)
def test_spellings_of_a_label_are_one_class(spelling: str, tmp_path: Path) -> None:
    assert clean_label(spelling) == "caf\u00e9 noir"
    (tmp_path / "a.tsv").write_text(f"text\tlabel\na\tcaf\u00e9 noir\nb\t{spelling}\nc\tx\n")
    config = TaskDataConfig(train=f"{tmp_path}/a.tsv", dev=f"{tmp_path}/a.tsv")
    config.positive_label = spelling
    task = read_class_task(config, TOKENIZER)
    assert task.labels == ["caf\u00e9 noir", "x"]
    # A checkpoint may have been trained on the other spelling alone.
    split = read_class_split(f"{tmp_path}/a.tsv", config, TOKENIZER, [clean_label(spelling), "x"])
    assert split.gold.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    "other",
    ["yes\u200b", "\ufeffyes", "y\u00ades", "yes\ufe0f", "\u202ayes", "yes\u0007", "ye\u2060s"],
)
def test_labels_that_look_the_same_are_refused(other: str, tmp_path: Path) -> None:
    content = f"text\tlabel\na\tyes\nb\tno\nc\t{other}\n"
    with pytest.raises(UserError, match="a.tsv has the labels 'yes' and .*look the same: write"):
        read(tmp_path / "a.tsv", content)
    check_distinct(["yes", "Yes", "yes.", "y\u00e9s"], "f")


@pytest.mark.parametrize("numbers", [[1, 1.0], ["1", "1.0"], ["01", "1"], ["-2", "-2.50", "-2.5"]])
def test_labels_that_are_the_same_number_are_refused(numbers: list, tmp_path: Path) -> None:
    rows = [{"text": "a", "label": label} for label in [*numbers, "x"]]
    with pytest.raises(UserError, match=r"a.jsonl has the labels .*, which are the same number"):
        read(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    check_distinct(["1", "1.5", "10", "-1", "1e0", "1."[:1], "v1", "v1.0"], "f")


def test_a_text_without_a_token_is_refused(tmp_path: Path) -> None:
    config = TaskDataConfig(text_pair_column="pair")
    for row in ("red\t\ufffd\tx", "\ufffd\tred\tx"):
        (tmp_path / "a.tsv").write_text(f"text\tpair\tlabel\nsun\tsky\tx\n{row}\n")
        with pytest.raises(UserError, match=r"a.tsv:3 has a text without a token: fill it in, or"):
            read_class_split(f"{tmp_path}/a.tsv", config, TOKENIZER, ["x", "y"])


def test_blank_texts_and_numbers_of_classes() -> None:
    assert is_blank("") and is_blank("\u200b \ufeff\0") and not is_blank("\u200b.")
    assert unlabelled(["a"]) == {"-"} and unlabelled(["0", "1", "2", "-1"]) == {"-", "-1"}
