import json
import math
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.checkpoints.checkpoint import find_checkpoint, read_metadata
from bert_jax.config import EncoderConfig, from_dict
from bert_jax.model.heads import PretrainingModel
from bert_jax.text.tokenizer import tokenizer_from_dict
from tests.fixtures.drivers import (
    COLD,
    WARM,
    Drivers,
    Run,
    copied,
    finetune_flags,
    log_of,
    newest,
    state_of,
)


def predict(drivers: Drivers, run: Run, lines: list[str], *flags: str) -> list[dict]:
    stdin = "".join(f"{line}\n" for line in lines)
    result = drivers.run("predict", f"--checkpoint={run[0]}", "--json", *flags, stdin=stdin)
    assert result.status == 0 and not result.err, result
    return [json.loads(line) for line in result.out.splitlines()]


def test_a_byte_order_mark_is_no_text(drivers: Drivers, finetuned: Run) -> None:
    (marked,), (plain,) = (predict(drivers, finetuned, [line]) for line in ("\ufeffred", "red"))
    assert marked == plain and marked["text"] == "red"


def test_fill_mask(drivers: Drivers, pretrained: Run) -> None:
    lines = ["red [MASK] stone[MASK]", "[MASK]", "old wind\tnew [MASK]"]
    filled = predict(drivers, pretrained, lines, "--top_k=7")
    assert [each["text"] for each in filled] == ["red [MASK] stone[MASK]", "[MASK]", "old wind"]
    assert [len(each["masks"]) for each in filled] == [2, 1, 1]
    assert ["pair" in each for each in filled] == [False, False, True]
    assert filled[2]["text_pair"] == "new [MASK]" and len(filled[2]["pair"]) == 2
    for tokens in (tokens for each in filled for tokens in each["masks"]):
        assert len(tokens) == 7 == len({each["token"] for each in tokens})
        probabilities = [each["probability"] for each in tokens]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1
    # All of the vocabulary, where more is asked for than there is.
    everything = predict(drivers, pretrained, ["[MASK]"], "--top_k=1000")[0]["masks"][0]
    assert len(everything) == 40
    assert sum(each["probability"] for each in everything) == pytest.approx(1, abs=1e-5)


def test_one_at_a_time_is_the_same(drivers: Drivers, pretrained: Run, finetuned: Run) -> None:
    lines = ["[MASK] red", "sun [MASK] wind [MASK]", "a [MASK] much longer line of old words"]
    together = predict(drivers, pretrained, lines)
    alone = predict(drivers, pretrained, lines, "--batch_size=1")
    for one, other in zip(together, alone, strict=True):
        for ours, theirs in zip(one["masks"], other["masks"], strict=True):
            ours, theirs = ([token["probability"] for token in side] for side in (ours, theirs))
            assert ours == pytest.approx(theirs, abs=1e-5)
    together = predict(drivers, finetuned, lines)
    alone = predict(drivers, finetuned, lines, "--batch_size=1")
    for one, other in zip(together, alone, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


def test_predictions_are_those_that_finetuning_scored(
    drivers: Drivers, finetuned: Run, task: pathlib.Path
) -> None:
    rows = [line.split("\t") for line in (task / "dev.tsv").read_text().splitlines()[1:]]
    predictions = predict(drivers, finetuned, [words for _, _, words in rows], "--batch_size=5")
    best = int(find_checkpoint(finetuned[0]).name)
    logged = next(
        entry for entry in log_of(finetuned[0]) if entry["step"] == best and "dev_loss" in entry
    )
    right = [each["label"] == row[1] for each, row in zip(predictions, rows, strict=True)]
    assert sum(right) / len(rows) == pytest.approx(logged["dev_accuracy"], abs=1e-6)
    # Every example once, though the batches of fine-tuning did not divide them.
    losses = [
        -math.log(each["probabilities"][row[1]])
        for each, row in zip(predictions, rows, strict=True)
    ]
    assert sum(losses) / len(rows) == pytest.approx(logged["dev_loss"], rel=1e-4)
    assert all(sum(each["probabilities"].values()) == pytest.approx(1) for each in predictions)


def test_in_a_text_to_label_mask_is_text(drivers: Drivers, finetuned: Run) -> None:
    lines = ["red [MASK]", "red [SEP]", "red"]
    assert [each["text"] for each in predict(drivers, finetuned, lines)] == lines
    text = drivers.run("predict", f"--checkpoint={finetuned[0]}", "--text=red light sun")
    label, first, second = text.out.splitlines()
    assert label == "red light sun" and first.endswith("  warm") and second.endswith("  cold")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--checkpoint is not set"),
        (["--checkpoint=configs", "--text=x"], "configs has no checkpoint"),
        (["--checkpoint=PRETRAINED", "--text=red"], "nothing to fill in 'red': put [MASK] where"),
        (["--checkpoint=PRETRAINED", "--text="], "nothing to fill in ''"),
        (
            ["--checkpoint=PRETRAINED", f"--text={'[MASK]' * 39}"],
            "and the model has positions for 40",
        ),
        (["--checkpoint=FINETUNED", "--text="], "--text: the input is empty: give it some text"),
        (["--checkpoint=FINETUNED", "--text=red", "--text_pair=sun"], "inputs are single texts"),
        (["--checkpoint=PRETRAINED", "--text_pair=x"], "--text_pair=x needs --text"),
        (["--checkpoint=PRETRAINED", "--text_pair=x", "--input=y"], "--text_pair=x needs --text"),
        (["--checkpoint=PRETRAINED", "--text=x", "--input=y"], "give one of them"),
        (["--checkpoint=FINETUNED", "--top_k=0"], "flag --top_k=0"),
    ],
)
def test_a_wrong_input_is_one_line(
    flags: list[str], message: str, drivers: Drivers, pretrained: Run, finetuned: Run
) -> None:
    names = {"PRETRAINED": str(pretrained[0]), "FINETUNED": str(finetuned[0])}
    for name, path in names.items():
        flags = [flag.replace(name, path) for flag in flags]
    assert message in drivers.run("predict", *flags).error()


def test_lines_must_be_utf8(drivers: Drivers, finetuned: Run) -> None:
    result = drivers.run("predict", f"--checkpoint={finetuned[0]}", stdin=b"red\nr\xe9d\n")
    assert "standard input, line 2 is not UTF-8 (byte 1 of the line)" in result.error()


def test_what_is_filled_in_is_what_the_model_says(drivers: Drivers, pretrained: Run) -> None:
    metadata = read_metadata(newest(pretrained[0]))
    tokenizer = tokenizer_from_dict(metadata["tokenizer"])
    special = tokenizer.special
    before, after = tokenizer.encode("red"), tokenizer.encode("stone house")
    ids = np.array([[special.cls, *before, special.mask, *after, special.sep]], np.int32)
    zeros = np.zeros_like(ids)
    batch = {
        "token_ids": ids,
        "example_ids": zeros + 1,
        "segment_ids": zeros,
        "position_ids": np.arange(ids.size, dtype=np.int32)[None],
        "pool_positions": zeros[:, :1],
        "mlm_positions": np.array([[1 + len(before)]], np.int32),
    }
    model = PretrainingModel(from_dict(EncoderConfig, metadata["encoder"]))
    variables = {"params": state_of(newest(pretrained[0])).params}
    logits = jnp.asarray(model.apply(variables, batch, deterministic=True).mlm)
    expected = np.sort(np.asarray(jax.nn.softmax(logits[0, 0])))[::-1][:5]
    tokens = predict(drivers, pretrained, ["red [MASK] stone house"])[0]["masks"][0]
    assert [each["probability"] for each in tokens] == pytest.approx(expected.tolist(), abs=1e-6)
    assert tokens[0]["token"] == tokenizer.id_to_piece(int(logits[0, 0].argmax()))


def test_a_long_text_has_the_label_that_evaluate_gives_it(
    drivers: Drivers, finetuned: Run, tmp_path: pathlib.Path
) -> None:
    # The first 22 tokens decide in training (data.length=24), all of them the other way.
    texts = [f"{first} " * 30 + f"{second} " * 60 for first in WARM for second in COLD]
    (tmp_path / "long.tsv").write_text(
        "feel\twords\n" + "".join(f"warm\t{text.strip()}\n" for text in texts)
    )
    flags = f"--checkpoint={finetuned[0]}", f"--data={tmp_path / 'long.tsv'}"
    done = drivers.run("evaluate", *flags, f"--output={tmp_path / 'out'}")
    assert done.status == 0 and "9 cut to 24 tokens" in done.out
    evaluated = map(json.loads, (tmp_path / "out/predictions.jsonl").read_text().splitlines())
    predicted = predict(drivers, finetuned, texts)
    for one, other in zip(evaluated, predicted, strict=True):
        assert one["label"] == other["label"] and other["cut_to"] == 24
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    shown = drivers.run("predict", flags[0], f"--text={texts[0]}")
    assert "(cut to 24 tokens, as in training)" in shown.out


@pytest.mark.parametrize(
    ("run", "lines", "message"),
    [
        ("FINETUNED", "red\n\nsun\n", "standard input, line 2: the input is empty"),
        ("FINETUNED", "red\n\u3000\n", "standard input, line 2: the input is empty"),
        ("FINETUNED", "red\nsun\tsun\n", "standard input, line 2: 'sun' does not suit the task"),
        ("FINETUNED", "red\nsun\tsun\tx\n", "standard input, line 2 has 3 columns: leave TEXT"),
        ("PRETRAINED", "[MASK]\nred\n", "standard input, line 2: nothing to fill in 'red'"),
        ("PRETRAINED", "[MASK]\n" + "[MASK]" * 50, "line 2: '[MASK][MASK]"),
        ("FINETUNED", "", "standard input has no line"),
    ],
)
def test_a_line_that_cannot_be_answered_is_named_before_any_is(
    run: str, lines: str, message: str, drivers: Drivers, pretrained: Run, finetuned: Run
) -> None:
    path = {"PRETRAINED": pretrained, "FINETUNED": finetuned}[run][0]
    flags = f"--checkpoint={path}", "--batch_size=1"
    assert message in drivers.run("predict", *flags, stdin=lines).error()


@pytest.mark.parametrize("content", [b"", b"{", b'{"score": "x"}', b"[]", b"\xff", b"{}"])
def test_a_damaged_score_is_named_and_its_remedy_works(
    content: bytes,
    drivers: Drivers,
    task: pathlib.Path,
    pretrained: Run,
    finetuned: Run,
    tmp_path: pathlib.Path,
) -> None:
    run = copied(finetuned, tmp_path / "run")
    path = newest(run) / "metrics"
    (path / "metrics").write_bytes(content)
    flags = f"--checkpoint={run}", "--text=red"
    message = drivers.run("predict", *flags).error()
    assert message.startswith(f"{path} is damaged (") and "remove this checkpoint" in message
    if content == b"{":
        again = drivers.run("finetune", *finetune_flags(task, pretrained, run))
        assert again.status == 1 and again.err == f"error: {message}\n", again
        shutil.copytree(newest(finetuned[0]), newest(run).with_name("1"))
        shutil.rmtree(newest(run))
        assert drivers.run("predict", *flags).status == 0
