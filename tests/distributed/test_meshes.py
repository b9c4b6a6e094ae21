"""One loss and one gradient, however devices are arranged and however a batch is cut."""

import dataclasses
import itertools
import pathlib
from typing import Any

import jax
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding

from bert_jax.checkpoints.fingerprint import leaf_name
from bert_jax.config import (
    EncoderConfig,
    InputPooling,
    MeshConfig,
    MlpKind,
    Norm,
    NormKind,
    OptimizerConfig,
    PositionEncoding,
    Remat,
)
from bert_jax.distributed import sharding
from bert_jax.model.heads import PretrainingModel, TaskModel
from bert_jax.objectives.losses import (
    Loss,
    class_totals,
    make_pretraining_loss,
    make_task_loss,
    mean,
)
from bert_jax.planning.hlo import parse_program
from bert_jax.planning.hlo_costs import program_costs
from bert_jax.training import step as training
from bert_jax.training.optimizer import make_optimizer
from bert_jax.training.state import (
    TrainState,
    abstract_params,
    abstract_state,
    init_params,
    init_state,
    run_key,
)
from tests.fixtures.batches import Batch, make_batch, random_params, run_inputs, with_targets

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "partition_specs.txt"

# All ways to arrange eight devices that divide the tiny encoder's heads, width and rows.
MESHES = [
    (data, fsdp, tensor)
    for data, fsdp, tensor in itertools.product((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4))
    if data * fsdp * tensor == 8
]
FAST = {(8, 1, 1), (2, 2, 2), (1, 2, 4)}


def cases() -> list[Any]:
    """Every mesh with every kind of batch; `make test` has some of them."""
    kinds = ("packed", "unpacked", "classes", "tags", "switches")
    chosen = {(mesh, "packed") for mesh in FAST} | {((2, 2, 2), kind) for kind in kinds[2:]}
    return [
        pytest.param(case, marks=[] if case in chosen else pytest.mark.slow, id=f"{case}")
        for case in itertools.product(MESHES, kinds)
    ]


@pytest.fixture(scope="module")
def still(tiny_encoder: EncoderConfig) -> EncoderConfig:
    """The tiny encoder without dropout."""
    return dataclasses.replace(tiny_encoder, dropout_rate=0.0, attention_dropout_rate=0.0)


def unevenly_weighted(batch: Batch) -> Batch:
    """Leaves many targets out of the later rows, so that no two parts of a batch weigh the same."""
    rng = np.random.default_rng(3)
    for name in ("mlm_weights", "weights"):
        keep = rng.random(batch[name].shape) > np.linspace(0, 0.8, 16)[:, None]
        batch[name] = batch[name] * keep
    return batch


def switched(config: EncoderConfig) -> EncoderConfig:
    """Returns an encoder with every switch that has arrays or axes of its own."""
    return dataclasses.replace(
        config,
        layers=5,
        max_length=104,
        window=3,
        global_every=3,
        norm=Norm.PRE,
        norm_kind=NormKind.LAYER_NORM_NO_BIAS,
        first_norm=False,
        qk_norm=True,
        biases=False,
        position_encoding=PositionEncoding.ROTARY,
        segments=0,
        mlp=MlpKind.GATED,
        embedding_width=16,
        mlm_tied=False,
        pooling=InputPooling.MEAN,
    )


def problem(kind: str, config: EncoderConfig) -> tuple[PretrainingModel | TaskModel, Loss, Batch]:
    """Returns a model, its loss and a batch of 16 rows."""
    length = 14
    if kind == "switches":
        config, length = switched(config), 104  # three blocks of a windowed layer, and a rest
    batch = with_targets(make_batch(config, length=length, examples=1 if kind == "unpacked" else 2))
    if kind in ("packed", "unpacked", "switches"):
        model = PretrainingModel(config)
        return model, make_pretraining_loss(model, sentence_weight=0.7), unevenly_weighted(batch)
    task = TaskModel(config, "tagger" if kind == "tags" else "classifier", 3, kind == "classes")
    if kind == "tags":
        rng = np.random.default_rng(1)
        batch["labels"] = rng.integers(0, 3, (16, 14)).astype(np.int32)
        batch["weights"] = (batch["example_ids"] > 0).astype(np.float32)
    class_weights = (0.5, 2.0, 1.0)
    totals = lambda outputs, batch: class_totals(outputs, batch, class_weights=class_weights)  # noqa: E731
    return task, make_task_loss(task, totals, class_weights), unevenly_weighted(batch)


def step_on(mesh: Mesh, kind: str, config: EncoderConfig, parts: int = 1) -> tuple[TrainState, Any]:
    """Takes one step of descent with momentum, whose trace is then the gradient itself."""
    (model, loss, batch), tx = problem(kind, config), optax.trace(0.9)
    abstract = abstract_state(model, tx, mesh)
    step = training.make_train_step(loss, lambda batch, key, step: batch, tx, abstract, parts)
    params = random_params(model, batch)
    placed = jax.device_put(params, jax.tree.map(lambda leaf: leaf.sharding, abstract.params))
    rows = sharding.host_rows(16, mesh)
    return step(
        init_state(placed, tx, abstract),
        sharding.global_batch(batch, rows, 16, mesh),
        run_inputs(learning_rate=0.1),
    )


_REFERENCES: dict[tuple[str, float], Any] = {}


def reference(kind: str, config: EncoderConfig) -> tuple[TrainState, Any]:
    """Returns the step of one device and a whole batch."""
    which = kind, config.dropout_rate
    if which not in _REFERENCES:
        mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
        _REFERENCES[which] = jax.device_get(step_on(mesh, kind, config))
    return _REFERENCES[which]


def assert_same_step(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> None:
    (state, totals), (expected, expected_totals) = jax.device_get((ours, theirs))
    assert totals.keys() == expected_totals.keys()
    scale = float(mean(expected_totals["grad_norm"]))
    for (path, leaf), other in zip(
        jax.tree_util.tree_leaves_with_path((totals, state.params, state.opt_state.trace)),
        jax.tree.leaves((expected_totals, expected.params, expected.opt_state.trace)),
        strict=True,
    ):
        np.testing.assert_allclose(
            leaf, other, rtol=1e-4, atol=1e-6 * scale, err_msg=jax.tree_util.keystr(path)
        )
    np.testing.assert_allclose(mean(totals["loss"]), mean(expected_totals["loss"]), rtol=2e-6)


@pytest.mark.parametrize("case", cases())
def test_every_mesh_gives_the_step_of_one_device(tiny_encoder, case):
    """With dropout, which zeroes the same elements everywhere."""
    (data, fsdp, tensor), kind = case
    assert tiny_encoder.dropout_rate > 0 and tiny_encoder.attention_dropout_rate > 0
    mesh = sharding.make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))
    state, totals = step_on(mesh, kind, tiny_encoder)
    assert_same_step((state, totals), reference(kind, tiny_encoder))

    # Witness: each device holds its share of the parameters and of their moments, no more.
    config = switched(tiny_encoder) if kind == "switches" else tiny_encoder
    depth, table_width = config.layers, config.embedding_width or config.width
    for tree in (state.params, state.opt_state.trace):
        layers = tree["encoder"]["layers"]
        for leaf, piece in (
            (layers["attention"]["query"]["kernel"], (depth, 24 // fsdp, 4 // tensor, 6)),
            (layers["mlp"]["down"]["kernel"], (depth, 40 // tensor, 24 // fsdp)),
            (tree["encoder"]["embeddings"]["tokens"], (60, table_width // fsdp)),
        ):
            assert leaf.addressable_shards[0].data.shape == piece


def all_cuts() -> list[Any]:
    """Parts of a batch, on meshes whose groups' rows they divide."""
    cuts = [("packed", (2, 2, 2), 2), ("packed", (1, 1, 1), 4), ("classes", (4, 1, 2), 2)]
    cuts += [("packed", (8, 1, 1), 2), ("tags", (1, 2, 4), 8), ("unpacked", (1, 1, 1), 16)]
    return [
        pytest.param(*cut, marks=[] if number < 3 else pytest.mark.slow)
        for number, cut in enumerate(cuts)
    ]


@pytest.mark.parametrize(("kind", "sizes", "parts"), all_cuts())
def test_parts_of_a_batch_give_the_step_of_the_whole(still, kind, sizes, parts):
    data, fsdp, tensor = sizes
    devices = jax.devices()[: data * fsdp * tensor]
    mesh = sharding.make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor), devices)
    assert_same_step(step_on(mesh, kind, still, parts), reference(kind, still))

    # Witness: the parts weigh so differently that a mean of their means is another number.
    _, loss, batch = problem(kind, still)
    cut = jax.tree.map(lambda field: field.reshape(parts, -1, *field.shape[1:]), batch)
    weights = jax.vmap(loss.weights)(cut)
    assert all(np.ptp(weight) > 0.1 * np.mean(weight) for weight in weights.values())


def test_parts_are_cut_inside_each_devices_rows():
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    rows = np.arange(24)
    batch = sharding.global_batch({"row": rows}, sharding.host_rows(24, mesh), 24, mesh)
    split = jax.jit(lambda batch: sharding.split_micro_batches(batch, 3, mesh))
    cut = split(batch)["row"]
    for device, (part,) in batch["row"].sharding.devices_indices_map((24,)).items():
        held = next(s.data for s in cut.addressable_shards if s.device == device)
        np.testing.assert_array_equal(held, rows[part].reshape(3, 2))
    compiled = (
        jax.jit(lambda batch: sharding.split_micro_batches(batch, 3, mesh)).lower(batch).compile()
    )
    assert "all-" not in compiled.as_text() and "permute" not in compiled.as_text()


def test_the_weights_of_a_loss_need_no_forward_pass(still):
    for kind in ("packed", "classes", "tags"):
        model, loss, batch = problem(kind, still)
        totals = loss.totals(random_params(model, batch), batch, None)
        weights = loss.weights(batch)
        assert weights.keys() == loss.factors.keys()
        for name, weight in weights.items():
            assert weight == totals[name].weight > 0


@pytest.mark.parametrize("remat", [Remat.PRODUCTS, Remat.INPUTS])
def test_rematerialisation_saves_memory_and_changes_no_value(tiny_encoder, remat):
    config = dataclasses.replace(tiny_encoder, layers=5)
    model, loss, batch = problem("packed", config)
    params, key = random_params(model, batch), run_key(7)

    def gradient(remat: Remat) -> tuple[Any, int]:
        other = PretrainingModel(dataclasses.replace(config, remat=remat))
        other_loss = make_pretraining_loss(other, sentence_weight=0.7)
        step = jax.jit(jax.value_and_grad(other_loss, has_aux=True))
        compiled = step.lower(params, batch, key).compile()
        memory = compiled.memory_analysis()
        return compiled(params, batch, key), memory.temp_size_in_bytes

    (expected, whole), (ours, saved) = gradient(Remat.NONE), gradient(remat)
    assert saved < whole
    for leaf, other in zip(*map(jax.tree.leaves, (ours, expected)), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-4, atol=1e-6)


def compile_gradient(remat: Remat) -> Any:
    """Compiles the gradient of four layers, 64 wide, on 16 rows of 32 tokens."""
    config = EncoderConfig(vocab_size=60, width=64, heads=4, mlp_width=256, max_length=32)
    config.layers, config.remat = 4, remat
    model, batch = PretrainingModel(config), with_targets(make_batch(config, length=32))
    step = jax.jit(jax.value_and_grad(make_pretraining_loss(model), has_aux=True))
    return step.lower(random_params(model, batch), batch, run_key(0)).compile()


def test_products_that_are_kept_are_not_done_again():
    def operations(remat: Remat) -> float:
        return program_costs(parse_program(compile_gradient(remat).as_text()), 1).flops

    none, products, inputs = map(operations, (Remat.NONE, Remat.PRODUCTS, Remat.INPUTS))
    assert products < 1.05 * none  # attention's own products are
    assert inputs > 1.2 * none


def table_of_specs(config: EncoderConfig) -> str:
    """Words how each parameter and each field of a batch is split, and its piece by mesh."""
    shapes = {"8x1x1": (8, 1, 1), "1x8x1": (1, 8, 1), "2x2x2": (2, 2, 2), "1x2x4": (1, 2, 4)}
    meshes = {
        name: sharding.make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))
        for name, (data, fsdp, tensor) in shapes.items()
    }
    model, lines = PretrainingModel(config), [f"array shape axes pieces on {' '.join(meshes)}"]
    by_mesh = [abstract_params(model, mesh) for mesh in meshes.values()]
    for path, *leaves in zip(
        (path for path, _ in jax.tree_util.tree_leaves_with_path(by_mesh[0])),
        *map(jax.tree.leaves, by_mesh),
        strict=True,
    ):
        spec = leaves[0].sharding.spec
        assert all(leaf.sharding.spec == spec for leaf in leaves)
        pieces = [leaf.sharding.shard_shape(leaf.shape) for leaf in leaves]
        lines.append(_words(leaf_name(path), leaves[0].shape, spec, pieces))
    for name, field in make_batch(config).items():
        shardings = [NamedSharding(mesh, sharding.BATCH_SPEC) for mesh in meshes.values()]
        pieces = [each.shard_shape(field.shape) for each in shardings]
        lines.append(_words(f"batch/{name}", field.shape, sharding.BATCH_SPEC, pieces))
    return "\n".join(lines) + "\n"


def _words(name: str, shape: Any, spec: Any, pieces: list[Any]) -> str:
    axes = ["+".join(axis) if isinstance(axis, tuple) else axis or "-" for axis in spec]
    sizes = [",".join(map(str, each)) for each in (shape, *pieces)]
    return f"{name} {sizes[0]} {' '.join(axes) or 'whole'} | {' '.join(sizes[1:])}"


def test_the_table_of_partition_specs(tiny_encoder):
    assert table_of_specs(tiny_encoder) == GOLDEN.read_text()


def test_moments_are_split_as_their_parameters(tiny_encoder):
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    tx = make_optimizer(OptimizerConfig())
    state = abstract_state(PretrainingModel(tiny_encoder), tx, mesh)
    for moments in (state.opt_state[1].mu, state.opt_state[1].nu):
        same = jax.tree.map(lambda m, p: m.sharding == p.sharding, moments, state.params)
        assert all(jax.tree.leaves(same))


@pytest.mark.parametrize("axis", ["fsdp", "tensor"])
def test_bytes_on_a_device_fall_as_an_axis_grows(tiny_encoder, axis):
    config = dataclasses.replace(tiny_encoder, width=64, heads=8, mlp_width=128)
    model, tx = PretrainingModel(config), make_optimizer(OptimizerConfig())
    held = []
    for size in (1, 2, 4, 8):
        mesh = sharding.make_mesh(MeshConfig(**{axis: size}))
        abstract = abstract_state(model, tx, mesh)
        state = init_state(init_params(model, 0, abstract.params), tx, abstract)
        first = jax.devices()[0]
        shards = [leaf.addressable_shards for leaf in jax.tree.leaves(state)]
        held.append(sum(s.data.nbytes for each in shards for s in each if s.device == first))
    # The embedding tables and what reads them are split by fsdp alone.
    at_most = (0.56, 0.34, 0.23) if axis == "fsdp" else (0.75, 0.62, 0.55)
    for bytes_held, part in zip(held[1:], at_most, strict=True):
        assert bytes_held < part * held[0]
