"""Two separators between the texts of a pair, and no segments, as RoBERTa's tokenizer has them."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from bert_jax.config import ExampleFormat, PretrainDataConfig, TaskDataConfig
from bert_jax.data.packing.layout import RowFormat
from bert_jax.data.pretraining.plan import plan_block
from bert_jax.data.pretraining.rows import make_rows, row_format
from bert_jax.data.tasks.classes import encode_inputs
from bert_jax.data.tasks.rows import TaskInputs, input_sizes, make_token_rows
from bert_jax.data.tasks.spans import read_span_task
from bert_jax.text.library_files import from_library_values
from bert_jax.text.tokenizer import LibraryTokenizer
from tests.fixtures.data import SPECIAL, make_documents, write_corpus

TWO = dataclasses.replace(SPECIAL, separators=2, segments=False)
PAD, CLS, SEP = SPECIAL.pad, SPECIAL.cls, SPECIAL.sep


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_rows_of_pairs_and_of_single_texts() -> None:
    a, b = [ids(7, 8), ids(9), ids(10)], [ids(11), ids(), ids(12, 13)]
    rows, (row, slot) = make_token_rows(
        a, b, np.array([2, 1]), RowFormat(12, 2, TWO, pool_last=False)
    )
    first = [CLS, 7, 8, SEP, SEP, 11, SEP, CLS, 9, SEP, PAD, PAD]
    second = [CLS, 10, SEP, SEP, 12, 13, SEP, *[PAD] * 5]
    assert rows["token_ids"].tolist() == [first, second]
    assert rows["example_ids"].tolist() == [[1] * 7 + [2] * 3 + [0] * 2, [1] * 7 + [0] * 5]
    assert rows["position_ids"][0].tolist() == [*range(7), 0, 1, 2, 0, 0]
    assert not rows["segment_ids"].any()
    assert rows["pool_positions"].tolist() == [[0, 7], [0, 0]]
    assert (row.tolist(), slot.tolist()) == ([0, 0, 1], [0, 1, 0])
    assert input_sizes(a, b, TWO).tolist() == [7, 3, 7]
    inputs = TaskInputs(a, b, np.zeros(3, np.int32), np.arange(3), TWO)
    assert inputs.sizes.tolist() == [7, 3, 7]
    last, _ = make_token_rows(a, b, np.array([2, 1]), RowFormat(12, 2, TWO, pool_last=True))
    assert last["pool_positions"].tolist() == [[6, 9], [6, 0]]
    with_segments = dataclasses.replace(TWO, segments=True)
    told, _ = make_token_rows(a, b, np.array([2, 1]), RowFormat(12, 2, with_segments, False))
    assert told["segment_ids"].tolist()[1] == [0, 0, 0, 0, 1, 1, 1, *[0] * 5]


@pytest.mark.parametrize("format", ExampleFormat)
def test_rows_of_pretraining_are_full_and_no_longer(
    format: ExampleFormat, tmp_path: pathlib.Path
) -> None:
    corpus = write_corpus(tmp_path, make_documents(60, seed=3))
    config = PretrainDataConfig(format=format, length=40, max_examples_per_row=3)
    if format not in (ExampleFormat.SEGMENT_PAIR, ExampleFormat.SENTENCE_PAIR):
        config.objective = type(config.objective)("none")
    plan = plan_block(corpus, config, seed=1, epoch=0, block=0, separators=2)
    batch = make_rows(corpus, plan, np.arange(plan.rows), row_format(config, TWO), epoch=0, block=0)
    tokens, example = batch["token_ids"], batch["example_ids"]
    assert (example > 0).sum() == plan.examples.sizes.sum()
    assert ((tokens == PAD) == (example == 0)).all()
    doubled = (tokens[:, 1:] == SEP) & (tokens[:, :-1] == SEP)
    is_pair = np.bincount(plan.examples.part_segment, minlength=2)[1]
    assert doubled.sum() == is_pair and bool(is_pair) is (
        format in (ExampleFormat.SEGMENT_PAIR, ExampleFormat.SENTENCE_PAIR)
    )


def letters() -> LibraryTokenizer:
    """A byte-level tokenizer without merges, with RoBERTa's template."""
    from tokenizers import pre_tokenizers

    pieces = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocab = {piece: id for id, piece in enumerate([*pieces, "<mask>"])}
    step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    values = {
        "pre_tokenizer": step,
        "decoder": step,
        "post_processor": {"type": "RobertaProcessing", "cls": ["<s>", 0], "sep": ["</s>", 2]},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }
    return from_library_values(values, "x", {})


@pytest.mark.parametrize("length", [64, 16, 15])
@pytest.mark.parametrize("answer", ["C3", "A1", "D4"])
def test_an_answer_lies_behind_both_separators(
    length: int, answer: str, tmp_path: pathlib.Path
) -> None:
    tokenizer, context = letters(), "A1 B2 C3 D4"
    item = {
        "id": "x",
        "question": "who",
        "answers": [{"text": answer, "answer_start": context.index(answer)}],
    }
    squad = {"data": [{"paragraphs": [{"context": context, "qas": [item]}]}]}
    (tmp_path / "a.json").write_text(json.dumps(squad))
    config = TaskDataConfig(train=str(tmp_path / "a.json"), dev=str(tmp_path / "a.json"))
    config.length, config.stride, config.question_length = length, 3, 8
    task = read_span_task(config, tokenizer)
    inputs = task.train.inputs
    assert (inputs.sizes <= length).all()
    found = 0
    outputs = []
    for a, b, (first, last) in zip(inputs.a, inputs.b, inputs.labels, strict=True):
        row = [0, *a, 2, 2, *b, 2]
        assert len(row) == len(a) + len(b) + 4
        if first:
            assert tokenizer.decode(row[first : last + 1]).strip() == answer
            found += 1
        output = np.zeros((len(row), 2), np.float32)
        output[first, 0] = output[last, 1] = 5.0
        outputs.append(output)
    assert found
    (prediction,) = task.train.predictions(outputs)
    assert prediction["answer"] == answer
    if length < 64:
        assert len(inputs) > 1 and inputs.sizes[0] == length  # windows hold all that fits


def test_pairs_are_cut_to_the_room_that_is_left() -> None:
    tokenizer = letters()
    a, b, cut = encode_inputs(["abcdefgh", "ab"], ["ijklmnop", ""], tokenizer, 10)
    assert [len(a[0]) + len(b[0]), len(a[1])] == [6, 2] and cut.tolist() == [True, False]
    assert input_sizes(a, b, tokenizer.special).tolist() == [10, 4]
