"""Inputs written into packed rows, and the outputs of the rows taken apart again."""

import dataclasses

import numpy as np
import pytest

from bert_jax.data.tasks.rows import (
    NO_LABEL,
    BatchFormat,
    TaskInputs,
    TaskStream,
    outputs_of_inputs,
)
from bert_jax.text.tokenizer import SpecialIds

SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
COUNT, LENGTH = 37, 16


def make_inputs(kind: str) -> TaskInputs:
    """Makes inputs whose every token is a number of its own."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 7, (COUNT, 2))
    lengths[::3, 1] = 0  # singles among pairs
    ids = np.split(np.arange(5, 5 + lengths.sum(), dtype=np.int32), np.cumsum(lengths)[:-1])
    a, b = ids[::2], ids[1::2]
    every = np.arange(COUNT)
    labels = every.astype(np.int32)
    if kind == "pairs":
        labels = np.stack([labels, -labels], axis=1)
    if kind == "tokens":
        sizes = TaskInputs(a, b, labels, every, SPECIAL).sizes
        labels = [rng.choice([NO_LABEL, 0, 7], size).astype(np.int32) for size in sizes]
    return TaskInputs(a, b, labels, every, SPECIAL)


def make_stream(inputs: TaskInputs, batch_size: int, most: int = 5) -> TaskStream:
    batch_format = BatchFormat(LENGTH, most, SPECIAL, False, batch_size)
    batches = batch_format.deal(inputs, epochs=2, seed=3, rows_multiple=2)
    return TaskStream(inputs, batches, batch_format)


def batches_of(stream: TaskStream) -> list[dict[str, np.ndarray]]:
    rows = stream.batches.rows
    numbers = range(2 * stream.batches.per_epoch)
    return [stream.rows(np.arange(number * rows, (number + 1) * rows)) for number in numbers]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("most", [1, 5])
def test_every_input_is_whole_in_one_row_with_its_label(batch_size: int, most: int) -> None:
    inputs = make_inputs("whole")
    stream = make_stream(inputs, batch_size, most)
    seen = []
    for batch in batches_of(stream):
        assert batch["weights"].shape == (stream.batches.rows, stream.batches.slots)
        for row, slot in zip(*np.nonzero(batch["weights"]), strict=True):
            own = batch["example_ids"][row] == slot + 1
            number = int(batch["labels"][row, slot])
            a, b = inputs.a[number], inputs.b[number]
            wanted = [2, *a, 3, *b, 3] if len(b) else [2, *a, 3]
            assert batch["token_ids"][row][own].tolist() == wanted
            assert batch["position_ids"][row][own].tolist() == list(range(len(wanted)))
            assert batch["segment_ids"][row][own].sum() == (len(b) + 1 if len(b) else 0)
            assert batch["pool_positions"][row, slot] == np.flatnonzero(own)[0]
            seen.append(number)
        assert (batch["example_ids"] > 0).sum() == (batch["token_ids"] > 0).sum()
    assert sorted(seen) == sorted(2 * list(range(COUNT)))


def test_labels_of_tokens_stand_at_their_tokens() -> None:
    inputs = make_inputs("tokens")
    label_of = {}
    for a, b, labels in zip(inputs.a, inputs.b, inputs.labels, strict=True):
        places = [*range(1, 1 + len(a)), *range(len(a) + 2, len(a) + 2 + len(b))]
        label_of |= dict(zip([*a.tolist(), *b.tolist()], labels[places].tolist(), strict=True))
    seen = 0
    for batch in batches_of(make_stream(inputs, 7)):
        ordinary = batch["token_ids"] > 4
        wanted = np.array([label_of[token] for token in batch["token_ids"][ordinary]])
        assert np.array_equal(batch["weights"][ordinary], wanted >= 0)
        assert np.array_equal(batch["labels"][ordinary], np.maximum(wanted, 0))
        assert not batch["weights"][batch["example_ids"] == 0].any()
        seen += int(batch["weights"].sum())
    assert seen == 2 * sum(int((labels >= 0).sum()) for labels in inputs.labels)


def test_spans_keep_both_places() -> None:
    inputs = make_inputs("pairs")
    for batch in batches_of(make_stream(inputs, 7)):
        held = batch["weights"] > 0
        assert batch["labels"].shape == (*held.shape, 2)
        assert np.array_equal(batch["labels"][held][:, 0], -batch["labels"][held][:, 1])


def test_parts_of_a_batch_are_those_of_the_whole() -> None:
    stream = make_stream(make_inputs("tokens"), 16)
    rows = stream.batches.rows
    whole = stream.rows(np.arange(rows, 2 * rows))
    for name, field in whole.items():
        parts = [stream.rows(np.array([row]))[name] for row in range(rows, 2 * rows)]
        assert np.array_equal(np.concatenate(parts), field)


@pytest.mark.parametrize("tokens", [False, True])
def test_outputs_come_back_to_their_inputs(tokens: bool) -> None:
    inputs = make_inputs("whole")
    stream = make_stream(inputs, 7)
    for number, batch in enumerate(batches_of(stream)):
        chosen, inputs_in_row = stream.batches.batch(number)
        if tokens:
            outputs = np.stack([batch["token_ids"], batch["position_ids"]], axis=2)
        else:
            outputs = np.stack([batch["labels"], batch["pool_positions"]], axis=2)
        parts = outputs_of_inputs(outputs, inputs.sizes[chosen], inputs_in_row, tokens=tokens)
        for place, part in zip(chosen, parts, strict=True):
            if tokens:
                assert part[:, 1].tolist() == list(range(inputs.sizes[place]))
                assert part[1 : 1 + len(inputs.a[place]), 0].tolist() == inputs.a[place].tolist()
            else:
                assert part[0] == place


@pytest.mark.parametrize("tokens", [False, True])
def test_features_stand_where_the_labels_of_their_kind_do(tokens: bool) -> None:
    inputs = make_inputs("tokens" if tokens else "whole")
    features = (
        [np.arange(size)[:, None] + [0.25, 0.5] for size in inputs.sizes]
        if tokens
        else np.arange(COUNT)[:, None] + [0.25, 0.5]
    )
    inputs = TaskInputs(inputs.a, inputs.b, inputs.labels, inputs.example_of, SPECIAL, features)
    for batch in batches_of(make_stream(inputs, 7)):
        names, there = ("position_ids", "example_ids") if tokens else ("labels", "weights")
        held = batch[there] > 0
        assert np.array_equal(batch["features"][held], batch[names][held][:, None] + [0.25, 0.5])
        assert not batch["features"][~held].any()


def test_rows_that_hold_nothing_have_the_fields_of_the_others() -> None:
    inputs = make_inputs("tokens")
    features = [np.ones((size, 3), np.float32) for size in inputs.sizes]
    inputs = TaskInputs(inputs.a, inputs.b, inputs.labels, inputs.example_of, SPECIAL, features)
    batch_format = BatchFormat(LENGTH, 5, SPECIAL, False, 1)
    batches = batch_format.deal(inputs, epochs=1, seed=3, rows_multiple=2)
    stream = TaskStream(inputs, batches, batch_format)  # one input in two rows
    full, empty = (stream.rows(np.array([row])) for row in (0, 1))
    assert not empty["example_ids"].any() and full["example_ids"].any()
    for name, field in full.items():
        assert (field.shape, field.dtype) == (empty[name].shape, empty[name].dtype), name


def test_inputs_of_some_examples() -> None:
    inputs = make_inputs("tokens")
    inputs = TaskInputs(
        inputs.a, inputs.b, inputs.labels, np.repeat(np.arange(COUNT), 2)[:COUNT], SPECIAL
    )
    some = inputs.of_examples(np.array([9, 2]))
    assert some.example_of.tolist() == [2, 2, 9, 9]
    assert [part.tolist() for part in some.a] == [inputs.a[i].tolist() for i in (4, 5, 18, 19)]
    assert [part.tolist() for part in some.labels] == [
        inputs.labels[i].tolist() for i in (4, 5, 18, 19)
    ]


@pytest.mark.parametrize("kind", ["whole", "pairs", "tokens"])
def test_inputs_without_labels_count_for_a_teacher_alone(kind: str) -> None:
    """Their rows are those of labelled inputs; their labels have no weight."""
    inputs = make_inputs(kind)
    is_list = isinstance(inputs.labels, list)
    taught = [np.full((n, 3), i + 1.0) for i, n in enumerate(inputs.sizes)]
    whole = dataclasses.replace(
        inputs, taught=taught if is_list else np.stack([each[0] for each in taught])
    )
    labelled, others = whole.take(np.arange(20)), whole.take(np.arange(20, COUNT))
    parted = labelled.with_unlabelled(others)
    assert len(np.unique(parted.example_of)) == COUNT
    for one, other in zip(*map(batches_of, map(make_stream_of, (whole, parted))), strict=True):
        assert one.keys() == other.keys()
        np.testing.assert_array_equal(one["taught_weights"], one["weights"])
        for name in one.keys() - {"weights"}:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
        number = one["taught"][..., 0] - 1  # of the input that a slot or token belongs to
        np.testing.assert_array_equal(other["weights"], one["weights"] * (number < 20))
    subset = parted.of_examples(parted.example_of[[3, 30]])
    np.testing.assert_array_equal(subset.labelled, [True, False])


def make_stream_of(inputs: TaskInputs) -> TaskStream:
    return make_stream(inputs, 7)
