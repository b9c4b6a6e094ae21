import json
import pathlib

import numpy as np
import pytest

from bert_jax.config import TaskDataConfig
from bert_jax.data.tasks.classes import (
    Example,
    LabelledExamples,
    encode_inputs,
    label_names,
    read_class_task,
    read_examples,
    read_number_task,
)
from bert_jax.errors import UserError
from bert_jax.text.tokenizer import SpecialIds, WordPieceTokenizer

SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
LETTERS = "abcdefgh"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS)]

TOKENIZER = WordPieceTokenizer(PIECES, lower_case=True)


def read(path: pathlib.Path, content: str | bytes, **columns: object) -> list[Example]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    config = TaskDataConfig(**columns)  # pyright: ignore[reportArgumentType]
    return read_examples(str(path), config).examples


def test_every_format_reads_the_same(tmp_path: pathlib.Path) -> None:
    rows = [("one, two", "yes"), ('say "no"', "no"), ("three", "yes")]
    tsv = "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows)
    csv = 'text,label\n"one, two",yes\r\n"say ""no""",no\nthree,yes'
    jsonl = "\n".join(json.dumps({"label": label, "text": text, "n": 1}) for text, label in rows)
    bare = tsv.removeprefix("text\tlabel\n").replace("\n", "\r\n")
    numbers = {"header": False, "text_column": "0", "label_column": "1"}
    for examples in (
        read(tmp_path / "a.tsv", tsv),
        read(tmp_path / "a.tsv", b"\xef\xbb\xbf" + tsv.encode()),
        read(tmp_path / "a.csv", csv),
        read(tmp_path / "a.jsonl", jsonl),
        read(tmp_path / "b.tsv", bare, **numbers),
    ):
        assert [(example.text, example.label) for example in examples] == rows
    assert read(tmp_path / "a.tsv", tsv)[1].location.endswith("a.tsv:3")


def test_labels_are_strings_and_pairs_have_two_texts(tmp_path: pathlib.Path) -> None:
    rows = [
        '{"text": "a", "other": "b", "label": 1}',
        "",
        '{"text": 2, "other": "d", "label": true}',
    ]
    examples = read(tmp_path / "a.jsonl", "\n".join(rows), text_pair_column="other")
    assert [(each.text, each.text_pair) for each in examples] == [("a", "b"), ("2", "d")]
    assert [each.label for each in examples] == ["1", "true"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.tsv",
            "text\tlable\na\tb\n",
            "a.tsv:2 has no column 'label': it has 'text'",
        ),
        ("a.tsv", "text\tlabel\na\tb\nc\n", "a.tsv:3 has 1 columns, but the first line has 2"),
        (
            "a.tsv",
            "text\tlabel\n \tb\n",
            "a.tsv:2 has an empty 'text': fill it in",
        ),
        ("a.tsv", "text\tlabel\na\t\n", "a.tsv:2 has no gold label"),
        ("a.tsv", "", "a.tsv has no examples"),
        ("a.tsv", b"text\tlabel\n" + b"a\tb\n" * 9000 + b"\xff\tb\n", "UTF-8 at byte 36011"),
        ("a.csv", 'text,label\n"a,b\n', "a.csv:2 is not CSV"),
        ("a.csv", 'text,label\n"a\n', "a.csv:2 is not CSV"),
        ("a.jsonl", "{}\n", "a.jsonl:1 has no column 'text': it has "),
        ("a.jsonl", '{"text": "a", "label": null}\n', "a.jsonl:1 has no gold label"),
        (
            "a.jsonl",
            '{"text": ["a"], "label": "b"}\n',
            r"a.jsonl:1 has \['a'\] in 'text': write text",
        ),
        ("a.jsonl", "[1]\n", "a.jsonl:1 is not a JSON object"),
        ("a.jsonl", '{"text": "a"\n', "a.jsonl:1 is not JSON"),
        ("a.xml", "x", "a.xml: the name must end in .tsv, .txt, .csv, .jsonl"),
    ],
)
def test_a_wrong_file_is_named(
    name: str, content: str | bytes, message: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read(tmp_path / name, content)
    assert "\n" not in str(raised.value)


def test_label_names() -> None:
    def examples(*labels: str) -> LabelledExamples:
        found = [Example("a", "", label, f"f:{n}") for n, label in enumerate(labels)]
        return LabelledExamples("f", found, "")

    assert label_names(examples("b", "a", "b")) == ["a", "b"]
    with pytest.raises(UserError, match="all examples from f:0 on have the label 'a': add"):
        label_names(examples("a", "a"))


def test_inputs_are_cut_to_the_row_and_counted() -> None:
    texts, pairs = ["abcdefgh", "abc", "abcd", "a", "abcdefgh"], ["", "", "efgh", "b", "ab"]
    a, b, cut = encode_inputs(texts, pairs, TOKENIZER, 9)
    assert cut.tolist().count(True) == 3
    assert [(len(x), len(y)) for x, y in zip(a, b, strict=True)] == [
        (7, 0),
        (3, 0),
        (3, 3),
        (1, 1),
        (4, 2),
    ]


def test_special_pieces_in_an_input_are_text() -> None:
    (ids,), _, _ = encode_inputs(["a [MASK] [SEP] b"], [""], TOKENIZER, 20)
    assert len(ids) > 2 and not set(ids.tolist()) & {SPECIAL.mask, SPECIAL.sep}


def task_of(tmp_path: pathlib.Path, train: str, *dev: str, **columns: object) -> TaskDataConfig:
    for number, content in enumerate([train, *dev]):
        (tmp_path / f"{number}.tsv").write_text(content)
    columns |= {
        "train": str(tmp_path / "0.tsv"),
        "dev": ",".join(str(tmp_path / f"{number}.tsv") for number in range(1, len(dev) + 1)),
        "header": False,
        "text_column": "0",
        "label_column": "1",
    }
    return TaskDataConfig(**columns)  # pyright: ignore[reportArgumentType]


def test_a_task_of_classes_and_its_scores(tmp_path: pathlib.Path) -> None:
    config = task_of(tmp_path, "a\tno\nb\tyes\n", "ab\tyes\nc\tno\nd\tyes\n", "e\tno\n", length=8)
    task = read_class_task(config, TOKENIZER)
    assert task.labels == ["no", "yes"] and list(task.dev) == ["dev", "dev2"]
    dev = task.dev["dev"]
    assert dev.inputs.labels[:].tolist() == [1, 0, 1]  # pyright: ignore
    outputs = [np.array(x, np.float32) for x in ([0, 2], [1, 3], [0, 5])]
    scores = dev.scores(outputs)
    assert scores["accuracy"] == pytest.approx(2 / 3) and scores["f1"] == pytest.approx(0.8)
    assert dev.scores(dev.constant_outputs())["accuracy"] == pytest.approx(2 / 3)
    first = next(iter(dev.predictions(outputs)))
    assert first["text"] == "ab" and first["gold"] == first["label"] == "yes"
    assert first["probabilities"]["yes"] == pytest.approx(1 / (1 + np.exp(-2)))
    # F1 is of the label that is asked for.
    config.positive_label = "no"
    assert read_class_task(config, TOKENIZER).dev["dev"].scores(outputs)["f1"] == 0
    config.positive_label = "maybe"
    with pytest.raises(UserError, match="positive_label='maybe' is not a label of the"):
        read_class_task(config, TOKENIZER)


def test_a_label_that_training_never_saw_is_named(tmp_path: pathlib.Path) -> None:
    config = task_of(tmp_path, "a\tno\nb\tyes\n", "a\tno\n", "ab\tperhaps\n")
    with pytest.raises(
        UserError, match=r"2.tsv:1 has the label 'perhaps', which the training file"
    ):
        read_class_task(config, TOKENIZER)


def test_a_task_of_numbers(tmp_path: pathlib.Path) -> None:
    config = task_of(tmp_path, "a\t1\nb\t2.5\n", "ab\t0\nc\t2\nd\t4\n")
    task = read_number_task(config, TOKENIZER)
    dev = task.dev["dev"]
    assert task.labels == [] and task.train.inputs.labels[:].tolist() == [1, 2.5]  # pyright: ignore
    outputs = [np.array([x], np.float32) for x in (1, 2, 3)]
    assert dev.scores(outputs)["pearson"] == pytest.approx(1)
    assert dev.scores(dev.constant_outputs())["pearson"] == 0
    assert [each["value"] for each in dev.predictions(outputs)] == [1, 2, 3]
    config = task_of(tmp_path, "a\t1\nb\thigh\n", "a\t1\n")
    with pytest.raises(UserError, match=r"0.tsv:2 has 'high' in '1': write a number"):
        read_number_task(config, TOKENIZER)
    config = task_of(tmp_path, "a\t1\nb\t1e39\n", "a\t1\n")  # beyond float32
    with pytest.raises(UserError, match=r"0.tsv:2 has the label 1e\+39, too large for float32"):
        read_number_task(config, TOKENIZER)
