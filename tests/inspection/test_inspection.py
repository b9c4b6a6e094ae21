"""Looking into checkpoints: against the arrays themselves, and a NumPy forward pass."""

import dataclasses
import json
import math
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.checkpoints.checkpoint import FOLDER, Checkpoints
from bert_jax.checkpoints.fingerprint import leaf_name
from bert_jax.config import (
    EncoderConfig,
    MeshConfig,
    Norm,
    Optimizer,
    OptimizerConfig,
    to_dict,
)
from bert_jax.distributed.sharding import make_mesh
from bert_jax.errors import UserError
from bert_jax.inspection.changes import changes_by_step, only_in_one, parameter_changes
from bert_jax.inspection.internals import (
    Internals,
    encoder_internals,
    masked_in_turn,
    state_table,
    text_internals,
)
from bert_jax.inspection.plots import plot_attention, plot_attention_grid, plot_changes, plot_steps
from bert_jax.inspection.stored import open_checkpoint
from bert_jax.inspection.tables import (
    Table,
    group_table,
    layer_arrays,
    moment_table,
    neighbours,
    parameter_table,
)
from bert_jax.model.encoder import Encoder
from bert_jax.model.heads import PretrainingModel
from bert_jax.training.optimizer import make_optimizer
from bert_jax.training.state import TrainState, abstract_state, init_state
from tests.fixtures import reference
from tests.fixtures.batches import make_batch, random_params
from tests.fixtures.drivers import Drivers, Run, newest, state_of


def named(tree: Any) -> dict[str, np.ndarray]:
    paths = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {leaf_name(path): np.asarray(leaf) for path, leaf in paths}


@dataclasses.dataclass
class Saved:
    """A run on a mesh of eight devices, and what it saved at step 0."""

    workdir: pathlib.Path
    params: dict[str, np.ndarray]
    metadata: dict[str, Any]
    tree: Any

    @property
    def path(self) -> pathlib.Path:
        return self.workdir / FOLDER / "0"


def save(
    workdir: pathlib.Path, config: EncoderConfig, params: Any, metadata: dict, mesh: Any
) -> None:
    tx = make_optimizer(OptimizerConfig())
    abstract = abstract_state(PretrainingModel(config), tx, mesh)
    placed = jax.device_put(params, jax.tree.map(lambda leaf: leaf.sharding, abstract.params))
    checkpoints = Checkpoints(workdir, keep=3)
    checkpoints.save(init_state(placed, tx, abstract), metadata)
    checkpoints.close()


@pytest.fixture(scope="module")
def wide(tiny_encoder: EncoderConfig) -> EncoderConfig:
    """So large that its arrays are not written into the list of arrays itself."""
    return dataclasses.replace(tiny_encoder, vocab_size=300, width=64, mlp_width=160)


@pytest.fixture(scope="module")
def split(wide: EncoderConfig, pretrained: Run, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Parameters that eight devices hold in parts: fsdp=2, tensor=4."""
    stored = open_checkpoint(pretrained[0]).metadata
    metadata = {name: stored[name] for name in ("kind", "config", "tokenizer")}
    metadata["encoder"] = to_dict(wide)
    workdir = tmp_path_factory.mktemp("split")
    params = random_params(PretrainingModel(wide), with_slots(wide))
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=4))
    save(workdir, wide, params, metadata, mesh)
    return Saved(workdir, named(params), metadata, params)


def with_slots(config: EncoderConfig) -> dict[str, Any]:
    batch = make_batch(config)
    return batch | {"mlm_positions": batch["position_ids"][:, :5]}


# --- what is stored


@pytest.mark.parametrize("item", ["params", "opt_state"])
def test_every_array_is_read_by_its_name(pretrained: Run, item: str) -> None:
    checkpoint = newest(pretrained[0])
    arrays = getattr(open_checkpoint(checkpoint), item)
    expected = named(getattr(state_of(checkpoint), item))
    assert list(arrays) == list(expected) and len(arrays) == len(expected)
    for name, array in expected.items():
        assert arrays[name].tobytes() == array.tobytes()
        assert arrays.shapes[name] == (array.shape, str(array.dtype))
    with pytest.raises(KeyError):
        arrays["encoder"]


def test_what_eight_devices_wrote_one_reads(split: Saved, drivers: Drivers) -> None:
    assert '\\"tensor\\"' in (split.path / "params/_sharding").read_text()
    flags = ["--json", "--match=encoder"]
    shown = drivers.run("inspection", str(split.workdir), *flags)  # a process with one device
    assert shown.status == 0, shown
    rows = [json.loads(line) for line in shown.out.splitlines()]
    assert [row["name"] for row in rows] == [n for n in split.params if n.startswith("encoder")]
    for row in rows:
        norm = np.linalg.norm(split.params[row["name"]].astype(np.float64))
        assert row["norm"] == pytest.approx(norm, rel=1e-12)


# What Orbax's tasks leave behind when another of them has failed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damage_elsewhere_does_not_matter(split: Saved, tmp_path: pathlib.Path) -> None:
    copy = tmp_path / "0"
    shutil.copytree(split.path, copy)
    shutil.rmtree(copy / "opt_state")
    # The largest may be one whose content was merged into others: then nothing reads it.
    files = sorted(copy.glob("params/**/d/*"), key=lambda path: path.stat().st_size, reverse=True)
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])  # all that is behind is gone
        arrays, lost = open_checkpoint(copy).params, []
        for name, array in split.params.items():
            try:
                assert arrays[name].tobytes() == array.tobytes()
            except UserError as error:
                assert f"{copy}/params is damaged ({name}: " in str(error)
                lost.append(name)
        if lost:
            break
    assert 1 <= len(lost) < len(split.params) - 1
    file.unlink()
    with pytest.raises(UserError, match="is damaged"):
        parameter_table(arrays)
    names = [row["name"] for row in parameter_table(arrays, values=False)]
    assert names == list(split.params)


def test_an_array_that_is_not_what_was_saved(
    split: Saved, wide: EncoderConfig, tmp_path: pathlib.Path
) -> None:
    changed = jax.tree.map(np.copy, split.tree)
    changed["mlm_head"]["bias"][3] += 1
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    save(tmp_path, wide, changed, split.metadata, mesh)
    copy = tmp_path / "copy"
    shutil.copytree(split.path, copy)
    shutil.rmtree(copy / "params")
    shutil.copytree(tmp_path / FOLDER / "0" / "params", copy / "params")
    arrays = open_checkpoint(copy).params
    arrays["mlm_head/transform/bias"]
    with pytest.raises(UserError, match="the bits of mlm_head/bias differ from those saved"):
        arrays["mlm_head/bias"]


# --- tables


def test_parameter_table(split: Saved) -> None:
    params = open_checkpoint(split.path).params
    table = {row["name"]: row for row in parameter_table(params)}
    for name, array in split.params.items():
        wide = array.astype(np.float64)
        assert table[name] == {
            "name": name,
            "shape": array.shape,
            "type": "float32",
            "count": array.size,
            "bytes": 4 * array.size,
            "mean": pytest.approx(wide.mean()),
            "spread": pytest.approx(wide.std()),
            "norm": pytest.approx(np.sqrt((wide**2).sum())),
        }
    counts = [row["count"] for row in parameter_table(params, sort="count")]
    assert counts == sorted(counts, reverse=True)
    queries = parameter_table(params, match="query/k", by_layer=True)
    kernel = split.params["encoder/layers/attention/query/kernel"]
    assert [(row["layer"], row["shape"]) for row in queries] == [(1, (64, 4, 16)), (2, (64, 4, 16))]
    assert queries[1]["norm"] == pytest.approx(np.linalg.norm(kernel[1]))
    groups = group_table(params)
    assert [row["group"] for row in groups] == [
        *("encoder/embeddings", "encoder/layers", "mlm_head", "nsp_head", "pooler")
    ]
    assert sum(row["count"] for row in groups) == sum(a.size for a in split.params.values())
    assert sum(row["share"] for row in groups) == pytest.approx(1)
    second = layer_arrays(params, 2)
    assert second["attention/query/kernel"].tobytes() == kernel[1].tobytes()
    assert params.tree()["pooler"]["dense"]["bias"] == jax.ShapeDtypeStruct((64,), jnp.float32)


def test_a_table_is_shown_in_columns() -> None:
    rows = [{"name": "a", "n": 1234, "x": 0.5, "s": (2, 3), "none": None, "best": [("b", 0.25)]}]
    table = Table(rows + [rows[0] | {"name": "longer", "n": 7, "none": 1}])
    assert repr(table).splitlines() == [
        "name        n    x  s    none  best",
        "a       1,234  0.5  2x3        b 0.250",
        "longer      7  0.5  2x3     1  b 0.250",
    ]
    assert repr(Table()) == "(no rows)"


def test_moment_table(pretrained: Run) -> None:
    checkpoint = open_checkpoint(newest(pretrained[0]))
    state = named(state_of(newest(pretrained[0])).opt_state)
    whole = {row["name"]: row for row in moment_table(checkpoint)}
    assert list(whole) == list(checkpoint.params)
    name = "encoder/layers/mlp/up/kernel"
    mean, square = (state[f"1/{moment}/{name}"] for moment in ("mu", "nu"))
    # Of twelve updates, by the betas of the recipe.
    first = np.sqrt((mean**2).mean()) / (1 - 0.9**12)
    second = np.sqrt(square.mean() / (1 - 0.999**12))
    expected = {"first": first, "second": second, "ratio": first / second}
    assert whole[name] == {"name": name} | {k: pytest.approx(v) for k, v in expected.items()}
    layers = moment_table(checkpoint, match="up/kernel", by_layer=True)
    assert [row["layer"] for row in layers] == [1, 2]
    assert layers[1]["second"] == pytest.approx(np.sqrt(square[1].mean() / (1 - 0.999**12)))


@pytest.mark.parametrize(
    ("rule", "bias_correction", "frozen"),
    [
        (Optimizer.ADAMW, True, "pooler"),
        (Optimizer.ADAMW, False, ""),
        (Optimizer.STABLE_ADAMW, True, ""),
        (Optimizer.MUON, True, ""),
    ],
)
def test_steps_that_pull_the_same_way(
    rule: Optimizer,
    bias_correction: bool,
    frozen: str,
    tiny_encoder: EncoderConfig,
    pretrained: Run,
    tmp_path: pathlib.Path,
) -> None:
    stored = open_checkpoint(pretrained[0]).metadata
    optimizer = OptimizerConfig(rule=rule, beta1=0.8, beta2=0.95, momentum=0.7, clip_norm=0)
    optimizer.bias_correction = bias_correction
    metadata = {name: stored[name] for name in ("kind", "tokenizer")}
    metadata |= {"encoder": to_dict(tiny_encoder), "config": {"optimizer": to_dict(optimizer)}}
    params = random_params(PretrainingModel(tiny_encoder), with_slots(tiny_encoder))
    steady = jax.tree.map(lambda leaf: 1 + leaf, params)
    tx = make_optimizer(optimizer, frozen=frozenset([frozen]) if frozen else frozenset())
    update, state = jax.jit(tx.update), tx.init(params)
    checkpoints = Checkpoints(tmp_path, keep=3)
    for count in range(1, 61):
        _, state = update(steady, state, params, weight_decay=0.0)
        if count in (1, 4, 60):
            # Five steps before the first update were skipped.
            checkpoints.save(TrainState(np.int32(count + 5), params, state), metadata)
    checkpoints.close()
    for count in (1, 4, 60):
        checkpoint = open_checkpoint(tmp_path / FOLDER / str(count + 5))
        rows, means = moment_table(checkpoint), named(steady)
        assert len(rows) == sum(name.partition("/")[0] != frozen for name in means)
        summed = 0
        for row in rows:
            mean = np.sqrt(np.square(means[row["name"]].astype(np.float64)).mean())
            if row["second"] is None:  # Muon's sum, as it is
                mean, summed = mean * (1 - 0.7**count) / (1 - 0.7), summed + 1
            else:
                assert row["ratio"] == pytest.approx(1, rel=1e-4)
            assert row["first"] == pytest.approx(mean, rel=1e-4)
        assert (summed > 0) == (rule is Optimizer.MUON)


def test_moments_of_muon(
    drivers: Drivers, pretrain_flags: list[str], tmp_path: pathlib.Path
) -> None:
    flags = [*pretrain_flags, "--config.optimizer.rule=muon", "--config.steps=3"]
    flags += ["--config.eval_steps=0", f"--workdir={tmp_path / 'run'}"]
    result = drivers.run("pretrain", *flags)
    assert result.status == 0, result
    checkpoint = open_checkpoint(tmp_path / "run")
    rows = {row["name"]: row for row in moment_table(checkpoint)}
    assert list(rows) == list(checkpoint.params)
    kernel = rows["encoder/layers/mlp/up/kernel"]
    assert kernel["first"] > 0 and kernel["second"] is kernel["ratio"] is None
    assert rows["encoder/embeddings/tokens"]["ratio"] > 0  # Adam's
    layers = moment_table(checkpoint, match="up/kernel", by_layer=True)
    assert [row["layer"] for row in layers] == [1, 2]


def test_changes_without_a_layer_are_no_picture() -> None:
    with pytest.raises(UserError, match="a picture is of arrays of layers, and --match has none"):
        plot_changes(Table([{"name": "encoder/embeddings/tokens", "layer": None}]))


def test_neighbours(pretrained: Run) -> None:
    checkpoint = open_checkpoint(newest(pretrained[0]))
    tokenizer = checkpoint.tokenizer
    word = next(
        p for p in map(tokenizer.id_to_piece, range(40)) if p.startswith("▁") and len(p) > 1
    )
    id = int(tokenizer.encode(word.removeprefix("▁"))[0])
    table = checkpoint.params["encoder/embeddings/tokens"]
    cosines = {
        other: table[id] @ table[other] / np.linalg.norm(table[id]) / np.linalg.norm(table[other])
        for other in range(40)
        if other != id
    }
    expected = sorted(cosines, key=lambda other: -cosines[other])[:7]
    for asked in (word, word.removeprefix("▁")):
        found = neighbours(checkpoint, asked, count=7)
        assert [row["id"] for row in found] == expected
        assert found[0]["cosine"] == pytest.approx(cosines[expected[0]], rel=1e-5)
        assert found[0]["token"] == tokenizer.id_to_piece(expected[0])
    pieces = [tokenizer.id_to_piece(id) for id in range(40)]
    inner = next(id for id in range(5, 40) if len(tokenizer.encode(pieces[id])) == 2)
    found = neighbours(checkpoint, pieces[inner], count=39)  # of no word alone
    assert sorted([inner, *(row["id"] for row in found)]) == list(range(40))
    assert len(neighbours(checkpoint, "[MASK]")) == 10
    with pytest.raises(UserError, match="'☃' is not in the vocabulary|'☃' is 2 tokens"):
        neighbours(checkpoint, "☃")
    with pytest.raises(UserError, match=r"'red stone' is \d+ tokens .*▁.*: choose one of them"):
        neighbours(checkpoint, "red stone")


# --- what moved


@pytest.fixture(scope="module")
def moved(
    split: Saved, wide: EncoderConfig, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """The same parameters after layer 2's kernel `up` grew by a tenth and the pooler turned."""
    params = jax.tree.map(np.copy, split.tree)
    params["encoder"]["layers"]["mlp"]["up"]["kernel"][1] *= np.float32(1.1)
    params["pooler"] = jax.tree.map(np.negative, params["pooler"])
    workdir = tmp_path_factory.mktemp("moved")
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    save(workdir, wide, params, split.metadata, mesh)
    return workdir


def test_changes(split: Saved, moved: pathlib.Path) -> None:
    before, after = map(open_checkpoint, (split.path, moved))
    parts = {row["part"]: row for row in parameter_changes(before, after)}
    assert list(parts) == ["embeddings", "layer 1", "layer 2", "mlm_head", "nsp_head", "pooler"]
    for still in ("embeddings", "layer 1", "mlm_head", "nsp_head"):
        assert parts[still]["relative_change"] == 0
        assert parts[still]["cosine"] == pytest.approx(1, abs=1e-12)
    assert parts["pooler"]["relative_change"] == 2
    assert parts["pooler"]["cosine"] == pytest.approx(-1, abs=1e-12)
    layers = [array for name, array in split.params.items() if "/layers/" in name]
    squares = [float(np.square(array[1].astype(np.float64)).sum()) for array in layers]
    up = split.params["encoder/layers/mlp/up/kernel"][1]
    share = np.linalg.norm(up.astype(np.float64)) / math.sqrt(sum(squares))
    assert parts["layer 2"]["relative_change"] == pytest.approx(0.1 * share, rel=1e-5)
    assert parts["layer 2"]["count"] == sum(array[1].size for array in layers)

    arrays = parameter_changes(before, after, match="mlp/up", by_array=True)
    kernels = [row for row in arrays if row["name"].endswith("kernel")]
    assert [row["layer"] for row in kernels] == [1, 2]
    assert kernels[1]["relative_change"] == pytest.approx(0.1, rel=1e-5)
    assert kernels[1]["cosine"] == pytest.approx(1)
    picture = plot_changes(arrays)
    texts = [text.get_text() for text in picture.axes[0].texts]
    assert texts == ["0", "0", "0", "0.1"]


def test_what_finetuning_moved(pretrained: Run, finetuned: Run) -> None:
    before, after = map(open_checkpoint, (pretrained[0], finetuned[0]))
    parts = [row["part"] for row in parameter_changes(before, after)]
    assert parts == ["embeddings", "layer 1", "layer 2", "pooler"]
    assert only_in_one(before, after) == (["mlm_head", "nsp_head"], ["classifier"])


def test_changes_by_step(pretrained: Run) -> None:
    table = changes_by_step(pretrained[0], match="encoder")
    pairs = list(dict.fromkeys((row["from"], row["to"]) for row in table))
    assert pairs == [(4, 8), (8, 12)]
    assert len(table) == 2 * 3 and all(0 < row["relative_change"] < 1 for row in table)
    folder = pretrained[0] / FOLDER
    one, other = (open_checkpoint(folder / step) for step in ("8", "12"))
    later = [{k: v for k, v in row.items() if k not in ("from", "to")} for row in table[3:]]
    assert later == parameter_changes(one, other, match="encoder")
    picture = plot_steps(table)
    labels = [label.get_text() for label in picture.axes[0].get_xticklabels()]
    assert labels == ["4 to 8", "8 to 12"]


def test_what_cannot_be_compared(split: Saved, moved: pathlib.Path, pretrained: Run) -> None:
    one, other = map(open_checkpoint, (split.path, pretrained[0]))
    with pytest.raises(UserError, match="differ in shape: encoder/.* is float32.*, not fl"):
        parameter_changes(one, other)
    with pytest.raises(UserError, match="has one checkpoint, but a comparison needs two"):
        changes_by_step(moved)


# --- what happens inside


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("norm", Norm)
def test_internals_agree_with_numpy_and_the_encoder(tiny_encoder, norm, causal):
    config = dataclasses.replace(tiny_encoder, layers=3, norm=norm, causal=causal)
    encoder, batch = Encoder(config), make_batch(config)
    params = random_params(encoder, batch)
    hidden, attention = jax.device_get(encoder_internals(config, params, batch))
    shape = reference.Shape(pre_norm=norm is Norm.PRE, causal=causal)
    oracle, examples = reference.to_float64(params), 0
    for row, example in zip(*np.nonzero(batch["weights"]), strict=True):
        own = np.nonzero(batch["example_ids"][row] == example + 1)[0]
        at = row, own
        ids, segments = batch["token_ids"][at], batch["segment_ids"][at]
        stream, readings = reference.trace(oracle, ids, segments, shape)
        np.testing.assert_allclose(hidden[:, row, own], stream, rtol=1e-5, atol=1e-5)
        ours = attention[:, row][:, :, own]
        np.testing.assert_allclose(ours[..., own], readings, rtol=1e-5, atol=1e-6)
        assert np.all(np.delete(ours, own, axis=-1) == 0)  # nothing of the other examples
        examples += 1
    assert examples > 20

    every = encoder.apply({"params": params}, batch, deterministic=True, layers=3)
    ours = list(hidden[1:])
    if norm is Norm.PRE:
        ours = [reference.normalise(oracle["final_norm"], x, shape) for x in ours]
    np.testing.assert_allclose(np.concatenate(ours, axis=-1), every, rtol=1e-5, atol=1e-5)


def test_internals_of_a_text(pretrained: Run, finetuned: Run) -> None:
    for run in (pretrained, finetuned):
        encoder = open_checkpoint(run[0]).restore_encoder()
        inside = text_internals(encoder, "red stone", "old wind")
        tokenizer, special = encoder.tokenizer, encoder.tokenizer.special
        sides = [tokenizer.encode(text) for text in ("red stone", "old wind")]
        ids = [special.cls, *sides[0], special.sep, *sides[1], special.sep]
        assert inside.tokens == [tokenizer.id_to_piece(int(id)) for id in ids]
        n = len(ids)
        assert inside.hidden.shape == (3, n, 12) and inside.attention.shape == (2, 2, n, n)
        np.testing.assert_allclose(inside.attention.sum(axis=-1), 1, rtol=1e-5)
        oracle = reference.to_float64(jax.device_get(encoder.params))
        segments = np.arange(n) > len(sides[0]) + 1
        shape = reference.Shape()
        stream, readings = reference.trace(oracle, np.array(ids), segments.astype(int), shape)
        np.testing.assert_allclose(inside.hidden, stream, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(inside.attention, readings, rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match="has 122 tokens, and the model has positions for 40"):
        text_internals(encoder, "red", "red " * 118)
    with pytest.raises(UserError, match="the text is empty"):
        text_internals(encoder, " ")


def test_state_table() -> None:
    x, y = [3.0, 0.0, 0.0], [0.0, 4.0, 0.0]
    hidden = np.array([[x, y], [y, y]], np.float32)
    attention = np.array([[[[1, 0], [0.5, 0.5]]]], np.float32)
    inside = Internals(["a", "b"], hidden, attention)
    assert state_table(inside) == [
        {"layer": 0, "norm": 3.5, "kept": None, "alike": 0.0, "spread": None},
        {"layer": 1, "norm": 4, "kept": 0.5, "alike": 1, "spread": pytest.approx(math.log(2) / 2)},
    ]
    assert len(plot_attention_grid(inside).axes) == 1
    one = plot_attention(inside, 1, 1).axes[0]
    assert [label.get_text() for label in one.get_yticklabels()] == ["a", "b"]
    np.testing.assert_array_equal(one.images[0].get_array(), attention[0, 0])


def test_masked_in_turn(pretrained: Run) -> None:
    lm = open_checkpoint(pretrained[0]).restore_masked_lm()
    special, text = lm.tokenizer.special, "red stone house"
    ids = np.array([special.cls, *lm.tokenizer.encode(text), special.sep], np.int32)
    table = masked_in_turn(lm, text, count=3)
    assert [row["token"] for row in table] == [lm.tokenizer.id_to_piece(int(i)) for i in ids[1:-1]]
    for place, row in enumerate(table, start=1):
        hidden = np.where(np.arange(len(ids)) == place, special.mask, ids)[None]
        zeros = np.zeros_like(hidden)
        batch = {"token_ids": hidden, "example_ids": zeros + 1, "segment_ids": zeros}
        batch["position_ids"] = np.arange(len(ids), dtype=np.int32)[None]
        batch["pool_positions"], batch["mlm_positions"] = zeros[:, :1], zeros[:, :1] + place
        logits: Any = lm.model.apply({"params": lm.params}, batch, deterministic=True)
        expected = np.asarray(jax.nn.softmax(logits.mlm[0, 0]))
        assert row["probability"] == pytest.approx(expected[ids[place]], rel=1e-4)
        assert row["rank"] == 1 + (expected > expected[ids[place]]).sum()
        assert [p for _, p in row["likeliest"]] == pytest.approx(
            sorted(expected, reverse=True)[:3], rel=1e-4
        )
        assert row["likeliest"][0][0] == lm.tokenizer.id_to_piece(int(expected.argmax()))
    diverged = dataclasses.replace(lm, params=jax.tree.map(lambda leaf: leaf * np.nan, lm.params))
    with pytest.raises(UserError, match="the model's outputs are not finite"):
        masked_in_turn(diverged, text)


# --- from the terminal


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        ([], "encoder/layers/attention/query/kernel"),
        (["--show=groups"], "nsp_head"),
        (["--show=layers", "--match=up/kernel"], "encoder/layers/mlp/up/kernel"),
        (["--show=moments", "--match=pooler"], "pooler/dense/kernel"),
        (["--show=changes", "--output=PICTURE"], "layer 2"),
        (["TUNED", "--output=PICTURE"], "only in TUNED: classifier"),
        (["--show=tokens", "--text=red stone"], "likeliest"),
        (["--show=attention", "--text=red stone", "--output=PICTURE"], "alike"),
    ],
)
def test_the_views_of_the_driver(
    flags, shown, drivers: Drivers, pretrained: Run, finetuned: Run, tmp_path: pathlib.Path
) -> None:
    picture = tmp_path / "picture.png"
    names = {"PICTURE": str(picture), "TUNED": str(finetuned[0])}
    for name, path in names.items():
        flags, shown = [flag.replace(name, path) for flag in flags], shown.replace(name, path)
    result = drivers.run("inspection", str(pretrained[0]), *flags)
    assert result.status == 0 and not result.err, result
    assert shown in result.out
    assert picture.exists() == any("--output" in flag for flag in flags)


@pytest.mark.parametrize(("flags", "count"), [([], 5), (["--count=8"], 8)])
def test_the_count_of_likeliest_tokens(
    flags: list[str], count: int, drivers: Drivers, pretrained: Run
) -> None:
    flags = [str(pretrained[0]), "--show=tokens", "--text=red", *flags]
    rows = [
        json.loads(line)
        for line in drivers.run("inspection", *flags, "--json").out.split("\n")[:-1]
    ]
    assert rows and all(len(row["likeliest"]) == count for row in rows)
    shown = drivers.run("inspection", *flags).out.splitlines()[-1]
    assert shown.count(", ") == count - 1


def test_json_has_no_infinity(
    split: Saved, wide: EncoderConfig, drivers: Drivers, tmp_path: pathlib.Path
) -> None:
    params = jax.tree.map(np.copy, split.tree)
    params["pooler"] = jax.tree.map(np.zeros_like, params["pooler"])
    params["mlm_head"]["bias"][3] = np.nan
    save(tmp_path, wide, params, split.metadata, make_mesh(MeshConfig(), jax.devices()[:1]))
    result = drivers.run("inspection", str(tmp_path), str(split.workdir), "--json")
    assert result.status == 0 and not result.err, result
    rows = [json.loads(line, parse_constant=pytest.fail) for line in result.out.splitlines()]
    changes = {row["part"]: row["relative_change"] for row in rows}
    assert changes["pooler"] is changes["mlm_head"] is None and changes["layer 1"] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "no checkpoint is named: name a run, such as runs/base"),
        (["configs"], "configs has no checkpoint"),
        (["RUN", "RUN", "RUN"], "--show=parameters takes one checkpoint"),
        (["RUN", "--match=("], "match='(' is not a regular expression"),
        (["RUN", "--match=decoder"], "matches no name: choose from the groups encoder, mlm_head"),
        (["RUN", "--sort=size"], "sort=size is not a column: choose one of name, shape"),
        (["RUN", "--show=neighbours"], "--text is not set"),
        (
            ["RUN", "--output=x.png"],
            "--output=x.png is not of --show=parameters, but of changes or",
        ),
        (["RUN", "--show=layers", "--novalues"], "--values=False is not of --show=layers, but of"),
        (
            ["RUN", "--show=groups", "--sort=name"],
            "--sort=name is not of --show=groups, but of par",
        ),
        (["RUN", "--show=changes", "--output=x.pdf"], "--output=x.pdf is no picture: name a .png"),
        (
            ["TUNED", "--show=tokens", "--text=red"],
            "of kind classification and has no masked-LM head",
        ),
    ],
)
def test_a_wrong_question_is_one_line(
    flags, message, drivers: Drivers, pretrained: Run, finetuned: Run
) -> None:
    runs = {"RUN": str(pretrained[0]), "TUNED": str(finetuned[0])}
    assert message in drivers.run("inspection", *(runs.get(flag, flag) for flag in flags)).error()
