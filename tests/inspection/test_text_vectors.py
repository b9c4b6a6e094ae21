"""Vectors and scores of new text: those of each text alone, however the texts are dealt."""

import dataclasses
import itertools
import json
import os
import pathlib
from typing import Any

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from bert_jax.checkpoints.pretrained import TrainedEncoder, one_device
from bert_jax.config import EncoderConfig, Norm, VectorsConfig
from bert_jax.errors import UserError
from bert_jax.inspection import line_vectors
from bert_jax.inspection.choices import FEATURES
from bert_jax.inspection.fill_mask import FillMask
from bert_jax.inspection.internals import Internals, masked_in_turn, text_internals
from bert_jax.inspection.line_vectors import LineBlock, LineVectors
from bert_jax.inspection.narrow_vectors import load_ranges, open_vectors, ranges_of
from bert_jax.inspection.pseudo_likelihood import PseudoLikelihood
from bert_jax.inspection.stored import open_checkpoint
from bert_jax.inspection.text_vectors import (
    TextVectors,
    chosen_settings,
    encode_lines,
    lowest_layers,
)
from bert_jax.inspection.vector_files import line_columns, token_columns, write_vectors
from bert_jax.model.encoder import Encoder
from tests.fixtures.batches import make_batch, random_params
from tests.fixtures.drivers import Drivers, Run, small_disk

LINES = [
    "red stone house",
    "wind",
    "old new blue river under tree",
    "sun",
    "light runs\tred wind",
    "and",
    "the house sees stone and makes wind under red light",
]
INPUTS = [(a, b) for a, _, b in (line.partition("\t") for line in LINES)]
close = {"rtol": 1e-4, "atol": 1e-5}


def taken(inside: Internals, pooling: str, layer: int) -> np.ndarray:
    vectors = inside.hidden[layer]
    match pooling:
        case "cls":
            return vectors[0]
        case "mean" | "of_checkpoint":
            return vectors.mean(axis=0)
        case "last":
            return vectors[-1]
    return vectors


@pytest.mark.parametrize("pooling", FEATURES)
@pytest.mark.parametrize("layer", [-1, 1])
def test_vectors_are_those_of_each_text_alone(pretrained: Run, pooling, layer) -> None:
    whole = open_checkpoint(pretrained[0]).restore_encoder()
    expected = [taken(text_internals(whole, *pair), pooling, layer) for pair in INPUTS]
    encoder = lowest_layers(whole, layer)
    settings = chosen_settings(pooling, open_checkpoint(pretrained[0]).metadata)
    a, b = encode_lines(INPUTS, whole.tokenizer, 40, "line {}".format)
    for batch_size, packed in ((32, True), (32, False), (2, True)):
        make = TextVectors(encoder, one_device(), settings, batch_size=batch_size, packed=packed)
        for ours, alone in zip(make(a, b), expected, strict=True):
            np.testing.assert_allclose(ours, alone, **close)
    spread = np.std([np.mean(vectors[..., 0]) for vectors in expected])
    assert spread > 50 * close["atol"]  # witness: the texts are told apart


@pytest.mark.parametrize("norm", Norm)
def test_an_encoder_ends_after_a_layer(tiny_encoder: EncoderConfig, norm: Norm) -> None:
    config = dataclasses.replace(tiny_encoder, layers=3, norm=norm)
    batch = make_batch(config)
    params = random_params(Encoder(config), batch)
    tokenizer: Any = None
    whole = TrainedEncoder(config, tokenizer, params)

    def run(encoder: TrainedEncoder, layers: int) -> Any:
        model = Encoder(encoder.config)
        return model.apply({"params": encoder.params}, batch, deterministic=True, layers=layers)

    every = np.split(np.asarray(run(whole, 3)), 3, axis=-1)
    for layer in (1, 2, 3):
        for name in (layer, layer - 4):
            np.testing.assert_allclose(
                run(lowest_layers(whole, name), 1), every[layer - 1], **close
            )
    for layer in (0, 4, -4):
        with pytest.raises(UserError, match=f"layer={layer} does not exist: choose 1 to 3, or -1"):
            lowest_layers(whole, layer)


def write_features(drivers: Drivers, run: Run, output: pathlib.Path, *flags: str) -> Any:
    lines = output.parent / "lines.txt"
    lines.write_text("".join(f"{line}\n" for line in LINES))
    flags = (f"--checkpoint={run[0]}", f"--input={lines}", f"--output={output}", *flags)
    result = drivers.run("predict", *flags)
    assert result.status == 0 and not result.err, result
    return np.load(output) if output.suffix == ".npy" else pq.read_table(output).to_pydict()


@pytest.mark.parametrize("which", ["pretrained", "finetuned"])
def test_vectors_in_files(which, request, drivers: Drivers, tmp_path: pathlib.Path) -> None:
    run = request.getfixturevalue(which)
    whole = open_checkpoint(run[0]).restore_encoder()
    alone = [text_internals(whole, *pair) for pair in INPUTS]
    means = [taken(inside, "mean", 1) for inside in alone]
    array = write_features(drivers, run, tmp_path / "v.npy", "--features=mean", "--layer=1")
    assert array.shape == (7, 12) and array.dtype == np.float32
    np.testing.assert_allclose(array, means, **close)
    flags = ["--features=mean", "--layer=-2", "--batch_size=1"]
    table = write_features(drivers, run, tmp_path / "v.parquet", *flags)
    assert list(table) == ["line", "text", "vector"]
    assert table["line"] == [1, 2, 3, 4, 5, 6, 7] and table["text"] == LINES
    np.testing.assert_allclose(table["vector"], means, **close)

    tokens = [token for inside in alone for token in inside.tokens]
    lines = np.repeat(np.arange(1, 8), [len(inside.tokens) for inside in alone])
    vectors = np.concatenate([inside.hidden[2] for inside in alone])
    array = write_features(drivers, run, tmp_path / "t.npy", "--features=tokens")
    assert array.dtype.names == ("line", "token_id", "vector")
    np.testing.assert_array_equal(array["line"], lines)
    assert [whole.tokenizer.id_to_piece(int(id)) for id in array["token_id"]] == tokens
    np.testing.assert_allclose(array["vector"], vectors, **close)
    table = write_features(drivers, run, tmp_path / "t.parquet", "--features=tokens")
    assert table["token"] == tokens and table["line"] == lines.tolist()
    assert table["token_id"] == array["token_id"].tolist()
    np.testing.assert_allclose(table["vector"], vectors, **close)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("lines.txt", "v.npy", "v.parquet", "t.npy", "t.parquet")
    }


@pytest.mark.parametrize(
    ("features", "suffix"), [("mean", ".npy"), ("tokens", ".npy"), ("tokens", ".parquet")]
)
def test_a_full_disk_is_one_line(
    features: str, suffix: str, drivers: Drivers, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f"{line}\n" for line in LINES * 40))
    with small_disk(tmp_path / "disk", "4k") as disk:
        flags = [f"--features={features}", f"--input={lines}", f"--output={disk / 'v'}{suffix}"]
        result = drivers.run("predict", f"--checkpoint={pretrained[0]}", *flags)
        assert "no space left for the output: free some" in result.error()
        assert os.listdir(disk) == []


def test_blocks_are_written_one_after_another(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    sizes, pieces = [2, 4, 1, 3, 2], [f"p{id}" for id in range(9)]
    ids = [rng.integers(9, size=size).astype(np.int32) for size in sizes]
    vectors = [rng.standard_normal((size, 6)).astype(np.float32) for size in sizes]
    firsts, lines = [each[0] for each in vectors], [(name, "") for name in "abcde"]
    for suffix in (".npy", ".parquet"):
        for name, of_lines in (("lines", firsts), ("tokens", vectors)):
            cuts = (slice(0, 2), slice(2, 4), slice(4, 5))
            blocks = [LineBlock(lines[cut], ids[cut], of_lines[cut]) for cut in cuts]
            columns = line_columns(blocks) if name == "lines" else token_columns(blocks, pieces)
            shape = write_vectors(tmp_path / f"{name}{suffix}", columns)
            assert shape == (5 if name == "lines" else 12, 6)
    np.testing.assert_array_equal(np.load(tmp_path / "lines.npy", mmap_mode="r"), firsts)
    table = pq.read_table(tmp_path / "lines.parquet").to_pydict()
    assert table["line"] == [1, 2, 3, 4, 5] and table["text"] == list("abcde")
    np.testing.assert_array_equal(table["vector"], firsts)
    tokens, table = np.load(tmp_path / "tokens.npy"), pq.read_table(tmp_path / "tokens.parquet")
    table = table.to_pydict()
    assert table["line"] == tokens["line"].tolist() == np.repeat([1, 2, 3, 4, 5], sizes).tolist()
    assert table["token_id"] == tokens["token_id"].tolist() == np.concatenate(ids).tolist()
    assert table["token"] == [pieces[id] for id in np.concatenate(ids)]
    for made in (tokens["vector"], table["vector"]):
        np.testing.assert_array_equal(made, np.concatenate(vectors))


# --- scores


def test_scores_are_what_the_model_says_of_each_masked_token(pretrained: Run) -> None:
    lm = open_checkpoint(pretrained[0]).restore_masked_lm()
    expected = [
        np.log([row["probability"] for row in masked_in_turn(lm, *pair)]) for pair in INPUTS
    ]
    a, b = encode_lines(INPUTS, lm.tokenizer, 40, "line {}".format)
    for batch_size, packed in ((32, True), (32, False), (3, True)):
        score = PseudoLikelihood(lm, one_device(), batch_size=batch_size, packed=packed)
        for ours, alone in zip(score(a, b), expected, strict=True):
            np.testing.assert_allclose(ours, alone, **close)


def test_scores_from_the_driver(drivers: Drivers, pretrained: Run) -> None:
    lm = open_checkpoint(pretrained[0]).restore_masked_lm()
    stdin = "".join(f"{line}\n" for line in LINES)
    flags = [f"--checkpoint={pretrained[0]}", "--score"]
    told = drivers.run("predict", *flags, "--json", "--batch_size=4", stdin=stdin)
    assert told.status == 0 and not told.err, told
    predictions = [json.loads(line) for line in told.out.splitlines()]
    assert [each["text"] for each in predictions] == [a for a, _ in INPUTS]
    assert predictions[4]["text_pair"] == "red wind"
    for pair, each in zip(INPUTS, predictions, strict=True):
        rows = masked_in_turn(lm, *pair)
        assert [token["token"] for token in each["tokens"]] == [row["token"] for row in rows]
        logs = np.log([row["probability"] for row in rows])
        assert each["score"] == pytest.approx(logs.sum(), rel=1e-4)
    shown = drivers.run("predict", *flags, "--text=red stone")
    score, count = masked_in_turn(lm, "red stone"), len(lm.tokenizer.encode("red stone"))
    total = np.log([row["probability"] for row in score]).sum()
    first, second = shown.out.splitlines()
    assert first == "red stone" and f"of {count} tokens, pseudo-perplexity" in second
    assert float(second.split()[0]) == pytest.approx(total, abs=1e-3)


# --- what a user gets wrong


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--features=mean"], "--output is not set"),
        (["--features=mean", "--output=v.txt"], "--output=v.txt must end in .npy or .parquet"),
        (["--features=mean", "--output=HERE.npy"], "HERE.npy exists: name a new file"),
        (["--features=max", "--output=v.npy"], "flag --features=max"),
        (
            ["--features=cls", "--output=OUT.npy", "--layer=3"],
            "--layer=3 does not exist: choose 1 to",
        ),
        (["--features=cls", "--output=OUT.npy", "--text= "], "--text is empty"),
        (
            ["--features=of_checkpoint", "--output=OUT.npy", "--queries"],
            "is of kind pretraining and has none: leave it out",
        ),
        (["--features=cls", "--output=OUT.npy", "--input=GAP"], "GAP, line 2 is empty: give it"),
        (["--score", "--input=GAP"], "GAP, line 2 is empty: give it some text, or leave"),
        (
            ["--score", "--input=LONG"],
            "LONG, line 3 has 52 tokens, and the model has positions for 40: ",
        ),
        (["--features=cls", "--output=OUT.npy", "--input=NONE"], "NONE has no line: give it"),
        (["--score", "--features=cls"], "--score and --features=cls are two things"),
        (["--layer=2"], "--layer=2 is of vectors: add --features=mean"),
        (
            ["--score", "--checkpoint=TUNED", "--text=red"],
            "of kind classification and has no masked-LM head",
        ),
    ],
)
def test_a_wrong_wish_is_one_line(
    flags, message, drivers: Drivers, pretrained: Run, finetuned: Run, tmp_path: pathlib.Path
) -> None:
    names = {"HERE": "here", "OUT": "new/out", "GAP": "gap", "LONG": "long", "NONE": "none"}
    names = {name: str(tmp_path / file) for name, file in names.items()}
    (tmp_path / "gap").write_text("red\n \nsun\n")
    (tmp_path / "long").write_text(f"red\nwind\n{'red ' * 50}\n")
    (tmp_path / "none").touch()
    (tmp_path / "here.npy").touch()
    before = sorted(tmp_path.iterdir())
    flags = [f"--checkpoint={pretrained[0]}", *flags]
    for name, path in (names | {"TUNED": str(finetuned[0])}).items():
        flags = [flag.replace(name, path) for flag in flags]
    said = drivers.run("predict", *flags).error()
    for name, path in names.items():
        message = message.replace(name, path)
    assert message in said
    assert sorted(tmp_path.iterdir()) == before


def test_a_causal_model_has_no_masks(pretrained: Run) -> None:
    lm = open_checkpoint(pretrained[0]).restore_masked_lm()
    config = dataclasses.replace(lm.model.config, causal=True)
    causal = dataclasses.replace(lm, model=lm.model.clone(config=config))
    for wish in (
        lambda: PseudoLikelihood(causal, one_device(), batch_size=1),
        lambda: FillMask(causal, 1),
        lambda: masked_in_turn(causal, "red stone"),
    ):
        with pytest.raises(UserError, match="is causal, pretrained on next tokens, and knows no"):
            wish()


def test_an_archive_of_arrays_is_no_file_of_vectors(tmp_path: pathlib.Path) -> None:
    np.savez(tmp_path / "v.npz", vectors=np.zeros((2, 3), np.float32))
    whole = (tmp_path / "v.npz").read_bytes()
    for content in (whole, whole[:40]):
        (tmp_path / "v.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"v.npz is no .npy of numbers: write it by predict"):
            open_vectors(tmp_path / "v.npz")


def test_a_causal_encoder_is_read_at_its_last_token(pretrained: Run) -> None:
    whole = open_checkpoint(pretrained[0]).restore_encoder()
    causal = dataclasses.replace(whole, config=dataclasses.replace(whole.config, causal=True))
    a, b = encode_lines(INPUTS, whole.tokenizer, 40, "line {}".format)
    made = TextVectors(causal, one_device(), chosen_settings("cls", {}), batch_size=3)(a, b)
    for vector, pair in zip(made, INPUTS, strict=True):
        np.testing.assert_allclose(vector, text_internals(causal, *pair).hidden[-1][-1], **close)
    assert not np.allclose(*(jax.device_get(made[:2])))


def test_narrow_vectors_of_lines(pretrained: Run, drivers: Drivers, tmp_path: pathlib.Path) -> None:
    plain = write_features(drivers, pretrained, tmp_path / "v.npy", "--features=mean")
    half = write_features(
        drivers, pretrained, tmp_path / "h.npy", "--features=mean", "--dtype=float16"
    )
    np.testing.assert_array_equal(half, plain.astype(np.float16))
    sample = f"--range_sample={tmp_path / 'lines.txt'}"
    flags = ("--features=mean", "--dtype=int8", sample)
    codes = write_features(drivers, pretrained, tmp_path / "c.npy", *flags)
    assert codes.dtype == np.int8 and codes.shape == plain.shape
    stored = open_vectors(tmp_path / "c.npy")
    assert stored.ranges and stored.ranges.count == 7
    step = (stored.ranges.high - stored.ranges.low) / 255
    assert (np.abs(stored.values(slice(None)) - plain) <= 0.51 * step).all()
    # By the same ranges, a line alone has the codes that it has among the others.
    ranges = f"--ranges={tmp_path / 'c.npy.ranges.json'}"
    flags = (f"--checkpoint={pretrained[0]}", "--features=mean", "--dtype=int8", ranges)
    output = f"--output={tmp_path / 'one.parquet'}"
    assert drivers.run("predict", *flags, f"--text={LINES[2]}", output).status == 0
    alone = pq.read_table(tmp_path / "one.parquet")
    assert alone.schema.field("vector").type.value_type == "int8"
    assert np.abs(np.array(alone["vector"].to_pylist()[0]) - codes[2].astype(int)).max() <= 1
    assert load_ranges(tmp_path / "one.parquet.ranges.json").sample == str(tmp_path / "lines.txt")


def test_lines_are_not_held(pretrained: Run, monkeypatch) -> None:
    monkeypatch.setattr(line_vectors, "_BLOCK", 2)
    whole = open_checkpoint(pretrained[0]).restore_encoder()
    settings = VectorsConfig(normalised=False)
    vectors = LineVectors(whole, one_device(), settings, batch_size=2, prompt="the ", length=12)
    taken = []

    def endless():
        for number in itertools.count():
            taken.append(number)
            yield INPUTS[number % 7]

    blocks = vectors.blocks(endless(), "line {}".format)
    first, second = next(blocks), next(blocks)
    assert len(taken) == 8 and len(first.lines) == len(second.lines) == 4
    assert 0 < vectors.cut < 8
    expected = text_internals(whole, "the wind").hidden[-1].mean(axis=0)
    np.testing.assert_allclose(first.vectors[1], expected, **close)
    with pytest.raises(UserError, match="line 6 is empty"):
        vectors.check([*INPUTS[:5], ("", "")], "line {}".format)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dtype=int8"], "--dtype=int8 needs ranges that are fixed once: give --range_sample"),
        (["--range_sample=x"], "--range_sample=x is of --dtype=int8"),
        (["--length=41"], "--length=41: the model has positions for 40"),
        (["--queries"], "--queries is of prompts that were trained, and --features=mean has none"),
        (["--dtype=int8", "--ranges=RANGES"], "has 2 dimensions, and the vectors have 12"),
        (["--dtype=int8", "--range_sample=EMPTY"], "empty.txt has no line"),
    ],
)
def test_wrong_flags_of_vectors(
    flags: list[str], message: str, drivers: Drivers, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    ranges_of([np.ones((3, 2), np.float32)], "s").save(tmp_path / "r.json")
    (tmp_path / "empty.txt").touch()
    names = {"RANGES": tmp_path / "r.json", "EMPTY": tmp_path / "empty.txt"}
    for name, path in names.items():
        flags = [flag.replace(name, str(path)) for flag in flags]
    flags = [*flags, "--features=mean", "--text=red", f"--output={tmp_path / 'v.npy'}"]
    result = drivers.run("predict", f"--checkpoint={pretrained[0]}", *flags)
    assert message in result.error()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.txt", "r.json"]
