import json
import pathlib

import numpy as np
import pytest

from bert_jax.config import TaskDataConfig
from bert_jax.data.tasks import (
    EncodedTask,
    Example,
    TaskStream,
    encode_inputs,
    label_names,
    make_input_rows,
    make_task_rows,
    read_examples,
)
from bert_jax.errors import UserError
from bert_jax.tokenizer import SpecialIds, WordPieceTokenizer

SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
LETTERS = "abcdefgh"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS)]


def read(path: pathlib.Path, content: str | bytes, **columns: object) -> list[Example]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_examples(str(path), TaskDataConfig(**columns))  # pyright: ignore[reportArgumentType]


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
    assert read(tmp_path / "a.tsv", tsv)[1].place.endswith("a.tsv:3")


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
        ("a.tsv", "text\tlabel\na\tb\nc\n", "a.tsv:3 has 1 columns where the first line has 2"),
        (
            "a.tsv",
            "text\tlabel\n \tb\n",
            "a.tsv:2 has an empty 'text': remove the line",
        ),
        ("a.tsv", "text\tlabel\na\t\n", "a.tsv:2 has an empty 'label'"),
        ("a.tsv", "", "a.tsv holds no examples"),
        ("a.tsv", b"text\tlabel\n" + b"a\tb\n" * 9000 + b"\xff\tb\n", "UTF-8 .byte 36011."),
        ("a.csv", 'text,label\n"a,b\n', "a.csv cannot be read: "),
        ("a.csv", 'text,label\n"a\n', "a.csv cannot be read: "),
        ("a.jsonl", "{}\n", "a.jsonl:1 has no column 'text': it has "),
        ("a.jsonl", '{"text": "a", "label": null}\n', "a.jsonl:1 has an empty 'label'"),
        ("a.jsonl", '{"text": ["a"], "label": "b"}\n', "a.jsonl:1 has no text in 'text' but"),
        ("a.jsonl", "[1]\n", "a.jsonl:1 is not a JSON object"),
        ("a.jsonl", '{"text": "a"\n', "a.jsonl:1 is not JSON"),
        ("a.xml", "x", "a.xml: the name must end in .tsv, .csv, .jsonl"),
    ],
)
def test_a_wrong_file_is_named(
    name: str, content: str | bytes, message: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read(tmp_path / name, content)
    assert "\n" not in str(raised.value)


def test_label_names() -> None:
    def examples(*labels: str) -> list[Example]:
        return [Example("a", "", label, f"f:{n}") for n, label in enumerate(labels)]

    assert label_names(examples("b", "a", "b"), examples("a")) == ["a", "b"]
    with pytest.raises(UserError, match="f:1 has the label 'c', which training never saw"):
        label_names(examples("b", "a"), examples("a", "c"))
    with pytest.raises(UserError, match="f:0 and on have the one label 'a': two are needed"):
        label_names(examples("a", "a"), examples("a"))


def test_inputs_are_cut_to_the_row_and_counted() -> None:
    tokenizer = WordPieceTokenizer(PIECES, lower_case=True)
    texts, pairs = ["abcdefgh", "abc", "abcd", "a", "abcdefgh"], ["", "", "efgh", "b", "ab"]
    a, b, cut = encode_inputs(texts, pairs, tokenizer, 9)
    assert cut == 3
    rows = make_input_rows(a, b, 9, SPECIAL)
    assert [(len(x), len(y)) for x, y in zip(a, b, strict=True)] == [
        (7, 0),
        (3, 0),
        (3, 3),
        (1, 1),
        (4, 2),
    ]
    assert rows["token_ids"].shape == (5, 9) and rows["pool_positions"].tolist() == [[0]] * 5
    assert rows["token_ids"][1].tolist() == [2, *a[1], 3, 0, 0, 0, 0]
    assert rows["token_ids"][3].tolist() == [2, *a[3], 3, *b[3], 3, 0, 0, 0, 0]
    assert rows["segment_ids"][3].tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 0]
    assert rows["example_ids"][3].tolist() == [1] * 5 + [0] * 4


def test_special_pieces_in_an_input_are_text() -> None:
    tokenizer = WordPieceTokenizer(PIECES, lower_case=True)
    (ids,), _, _ = encode_inputs(["a [MASK] [SEP] b"], [""], tokenizer, 20)
    assert len(ids) > 2 and not set(ids.tolist()) & {SPECIAL.mask, SPECIAL.sep}


def encoded(examples: int) -> EncodedTask:
    ids = [np.array([5 + number], np.int32) for number in range(examples)]
    none = [np.array([], np.int32)] * examples
    return EncodedTask(ids, none, np.arange(examples, dtype=np.int32), 0)


@pytest.mark.parametrize("batch_size", [1, 4, 11, 16])
def test_an_epoch_has_every_example_once(batch_size: int) -> None:
    stream = TaskStream(encoded(11), 6, SPECIAL, seed=0, batch_size=batch_size)
    assert stream.batches_per_epoch == -(-11 // batch_size)
    orders = []
    for epoch in range(3):
        seen, names = [], set()
        for number in range(stream.batches_per_epoch):
            first = (epoch * stream.batches_per_epoch + number) * batch_size
            batch = stream.rows(np.arange(first, first + batch_size))
            held = batch["weights"][:, 0] > 0
            assert (batch["token_ids"][held, 1] == 5 + batch["labels"][held, 0]).all()
            assert not batch["token_ids"][~held].any() and not batch["example_ids"][~held].any()
            seen += batch["labels"][held, 0].tolist()
            names |= {tuple(name) for name in batch["row_ids"][held].tolist()}
        assert sorted(seen) == list(range(11)) and len(names) == 11
        orders.append(seen)
    assert orders[0] != orders[1] != orders[2] != list(range(11))


def test_parts_of_a_batch_are_those_of_the_whole() -> None:
    stream = TaskStream(encoded(11), 6, SPECIAL, seed=0, batch_size=4)
    whole = stream.rows(np.arange(8, 12))
    for name, field in whole.items():
        parts = [stream.rows(np.array([row]))[name] for row in range(8, 12)]
        assert np.array_equal(np.concatenate(parts), field)


def test_empty_rows_weigh_nothing() -> None:
    batch = make_task_rows(encoded(3), np.array([2, -1, 0]), 6, SPECIAL)
    assert batch["weights"].tolist() == [[1], [0], [1]]
    assert batch["labels"].tolist() == [[2], [0], [0]]
    assert batch["token_ids"][:, 1].tolist() == [7, 0, 5]
