"""The benchmarks compare what they claim to compare; no test depends on a time."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks import device_parity, turns
from benchmarks.matrix_rate import step_products
from benchmarks.report import FailedProgram, Row, measure, slower, table
from benchmarks.rows import packed_batches, padded
from benchmarks.sizes import encoder_of, modern_encoder_of
from bert_jax.config import ComputeType, ExampleFormat
from bert_jax.model.flops import pretraining_flops
from tests.fixtures.drivers import ROOT

_PROGRAM = """
import sys
from benchmarks.turns import serve
count = iter(range(1, 100))
def turn():
    number = next(count)
    open(sys.argv[1], "a").write(sys.argv[2])
    return {"number": number}
serve(turn, lambda: {"last": next(count)})
"""


def test_programs_take_turns(tmp_path: pathlib.Path):
    order = tmp_path / "order"
    commands = {
        name: [sys.executable, "-c", _PROGRAM, str(order), name] for name in ("a", "b", "c")
    }
    figures = turns.take_turns(commands, 3)
    assert order.read_text() == "abcabcabc"
    assert figures == {name: {"number": 2, "last": 4} for name in commands}


def test_a_program_that_fails_ends_the_others():
    commands = {"fails": [sys.executable, "-c", "raise SystemExit(3)"]}
    with pytest.raises(SystemExit, match="status 3"):
        turns.take_turns(commands, 1)


@pytest.mark.parametrize(
    ("encoder", "rows", "length", "slots"),
    [
        (encoder_of("base"), 8, 128, 24),
        (encoder_of("base"), 2, 512, 80),
        (modern_encoder_of("base", length=128), 8, 128, 40),
    ],
)
def test_the_products_of_a_step_are_those_of_the_formula(encoder, rows, length, slots):
    forward = sum(
        count * 2 * batch * a * b * c
        for count, (batch, a, b, c) in step_products(encoder, rows, length, slots)
    )
    assert 3 * forward == rows * length * pretraining_flops(encoder, length, slots)


def test_the_peer_gets_the_examples_of_the_packed_rows(corpus: pathlib.Path):
    for form in (ExampleFormat.SEGMENT_PAIR, ExampleFormat.SENTENCE_PAIR):
        (batch,) = packed_batches(str(corpus), form, length=64, rows=3, batches=1)
        theirs = padded(batch)
        assert theirs["attention_mask"].sum() == np.count_nonzero(batch["example_ids"])
        assert theirs["attention_mask"].sum(axis=1).max() == theirs["input_ids"].shape[1]
        examples = [
            batch["token_ids"][row][batch["example_ids"][row] == number].tolist()
            for row in range(3)
            for number in range(1, batch["example_ids"][row].max() + 1)
        ]
        lengths = theirs["attention_mask"].sum(axis=1)
        assert [
            ids[:n].tolist() for ids, n in zip(theirs["input_ids"], lengths, strict=True)
        ] == examples
        assert theirs["next_sentence_label"].shape == (len(examples),)


def test_what_has_become_worse_is_named():
    rows = [Row("step", 9.0, "tokens/s", of_peer=1.5, of_limit=0.8), Row("start", 3.0, "s")]
    lines = table(rows).splitlines()
    assert lines[2:] == ["| step | 9 tokens/s | 1.50 | 0.80 |  |", "| start | 3 s |  |  |  |"]
    lines = table(rows, ratios_alone=True).splitlines()
    assert lines[2:] == ["| step | 1.50 | 0.80 |  |"]
    here = {"machine": "m", "scale": "small"}
    entry = here | {"ratios": {"step: of the peer": 1.5, "step: of the limit": 0.8}}
    names = "step: of the peer", "gone"
    before = [here | {"ratios": dict.fromkeys(names, value)} for value in (1, 1, 1.7, 1.9, 1.8)]
    worse = "step: of the peer: 1.50, and {} in the last {}"
    assert slower(entry, before[2:]) == [worse.format("1.80", 3)]
    assert slower(entry, [*before, here | {"ratios": {}}]) == [worse.format("1.70", 5)]
    more = [*before, here | {"ratios": dict.fromkeys(names, 1.6)}]
    assert slower(entry, more) == [worse.format("1.70", 5)]  # of the last five, not of six
    assert slower(entry | {"machine": "another"}, before) == []
    assert slower(entry | {"scale": "large"}, before) == []


def test_a_section_that_fails_is_named_and_the_others_run(tmp_path: pathlib.Path, capsys):
    def breaks() -> Iterator[Row]:
        yield Row("first", 1.0, "s")
        raise FailedProgram("benchmarks.x: exit status 1: no room", "all of it")

    def forgets() -> Iterator[Row]:
        raise KeyError("peer")
        yield

    written = []
    sections = {"a": breaks, "b": forgets, "c": lambda: iter([Row("last", 2.0, "s")])}
    write = lambda rows, failed: written.append((len(rows), len(failed)))  # noqa: E731
    rows, failed = measure(sections, tmp_path, write)
    assert [row.name for row in rows] == ["first", "last"]
    assert failed == [
        f"a: benchmarks.x: exit status 1: no room (see {tmp_path / 'a.log'})",
        f"b: 'peer' (see {tmp_path / 'b.log'})",
    ]
    assert (tmp_path / "a.log").read_text() == "all of it"
    assert written == [(1, 1), (1, 2), (2, 2)]
    assert f"failed: {failed[0]}" in capsys.readouterr().err


def test_the_history_can_be_read():
    lines = (ROOT / "benchmarks" / "history.jsonl").read_text().splitlines()
    for entry in map(json.loads, lines):
        assert entry.keys() == {"date", "commit", "machine", "scale", "versions", "ratios"}


def test_this_device_computes_what_the_cpu_does():
    assert device_parity.differences(ComputeType.FLOAT32, "tiny") == {"loss": 0.0, "gradients": 0.0}
    found = device_parity.differences(ComputeType.BFLOAT16, "tiny")
    assert 0 < found["loss"] < 0.01 and 0 < found["gradients"] < 0.1


@pytest.mark.hf
@pytest.mark.parametrize("family", ["bert", "modern"])
def test_both_steps_run_beside_each_other(family):
    pytest.importorskip("transformers")
    command = [sys.executable, "-m", "benchmarks.pretrain_step", "--size=tiny", "--batch=2"]
    command += [f"--family={family}", "--length=256"]
    done = subprocess.run([*command, "--turns=1"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done
    figures = json.loads(done.stdout)
    assert figures["peer_tokens_per_second"] > 0 and figures["peak_bytes"] > 0
    assert figures["ratio"] == figures["tokens_per_second"] / figures["peer_tokens_per_second"]
