"""Muon: the rule of each parameter, its updates against a loop over matrices, and its sharing."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax.config import EncoderConfig, MeshConfig, MlpKind, NormKind, Optimizer, OptimizerConfig
from bert_jax.distributed import sharding
from bert_jax.errors import UserError
from bert_jax.model.heads import PretrainingModel
from bert_jax.training.muon import Matrix, orthogonalization_flops, orthogonalized
from bert_jax.training.optimizer import make_optimizer
from bert_jax.training.parameter_rules import describe_rules, matrices_of, rules_of
from bert_jax.training.state import abstract_params, abstract_state, init_params, init_state
from tests.fixtures.batches import make_batch, random_params, with_targets

MUON = OptimizerConfig(
    rule=Optimizer.MUON, clip_norm=0.0, weight_decay=0.1, momentum=0.9, update_rms=0.3
)

# Every switch that adds a parameter, and a feed-forward layer that is narrower than the encoder.
FULL = {
    "mlp": MlpKind.GATED,
    "mlp_width": 20,
    "norm_kind": NormKind.RMS_NORM,
    "qk_norm": True,
    "kv_heads": 2,
    "embedding_width": 16,
    "mlm_tied": False,
}


def names(tree: Any) -> dict[str, Any]:
    """Returns path -> leaf, with slashes between the names."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(key.key for key in path): leaf for path, leaf in leaves}


def params_of(config: EncoderConfig) -> Any:
    """Returns random parameters of a pretraining model."""
    return random_params(PretrainingModel(config), with_targets(make_batch(config)))


@pytest.fixture(scope="module", params=["bert", "full"])
def encoder(request: pytest.FixtureRequest, tiny_encoder: EncoderConfig) -> EncoderConfig:
    """The tiny encoder, and one with every switch."""
    return dataclasses.replace(tiny_encoder, **FULL) if request.param == "full" else tiny_encoder


def test_the_layers_kernels_alone_are_muons(encoder: EncoderConfig) -> None:
    rules = names(rules_of(MUON, params_of(encoder)))
    assert {name for name, rule in rules.items() if rule == "muon"} == {
        *(f"encoder/layers/attention/{part}/kernel" for part in ("query", "key", "value", "out")),
        "encoder/layers/mlp/up/kernel",
        "encoder/layers/mlp/down/kernel",
    }
    assert set(rules.values()) == {"muon", "adamw"}
    adamw = names(rules_of(OptimizerConfig(), params_of(encoder)))
    assert set(adamw.values()) == {"adamw"}


def test_the_rules_are_told_with_their_matrices(tiny_encoder: EncoderConfig) -> None:
    config = dataclasses.replace(tiny_encoder, layers=3, width=64, heads=4, mlp_width=256)
    lines = describe_rules(MUON, params_of(config))
    factor = MUON.update_rms * 64**0.5
    [square] = [line for line in lines if "3 matrices of 64 x 64" in line]
    assert square.startswith(f"muon, decay 0.1, 3 matrices of 64 x 64 times {factor:.3g}: ")
    parts = ("key", "out", "query", "value")
    assert square.endswith(": " + ", ".join(f"layers/attention/{part}/kernel" for part in parts))
    assert "muon, decay 0.1, 3 matrices of 64 x 256 times 4.8: layers/mlp/up/kernel" in lines
    assert "muon, decay 0.1, 3 matrices of 256 x 64 times 4.8: layers/mlp/down/kernel" in lines
    assert lines[-1].startswith("orthogonal matrices take 0.2 GFLOP a step")  # 3 x 300 x 64^3
    assert any(line.startswith("adamw, no decay: ") and "mlp_norm/scale" in line for line in lines)
    assert any(line.startswith("adamw, decay 0.1: embeddings/positions") for line in lines)


def test_a_kernel_of_no_known_role_is_refused() -> None:
    odd = {"encoder": {"layers": {"router": {"gate": {"kernel": jnp.ones((2, 3, 4))}}}}}
    with pytest.raises(UserError, match="encoder/layers/router/gate/kernel is no matrix"):
        matrices_of(odd)


@pytest.mark.parametrize(
    ("matrix", "shape", "sizes"),
    [
        (Matrix((1,), (2, 3)), (5, 8, 2, 4), (5, 8, 8)),
        (Matrix((1, 2), (3,)), (5, 2, 4, 6), (5, 8, 6)),
        (Matrix((1,), (3,)), (5, 8, 2, 3), (10, 8, 3)),
    ],
)
def test_cutting_is_undone_by_joining(matrix: Matrix, shape: tuple, sizes: tuple) -> None:
    kernel = jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
    cut = matrix.cut(kernel)
    assert matrix.sizes(shape) == cut.shape == sizes
    np.testing.assert_array_equal(matrix.join(cut, shape), kernel)
    # A matrix has the map of its kernel.
    x = np.random.default_rng(0).standard_normal(sizes[1]).astype(np.float32)
    inputs = x.reshape([shape[axis] for axis in matrix.inputs])
    axes = list(range(inputs.ndim)), [axis - 1 for axis in matrix.inputs]
    of_kernel = np.tensordot(inputs, kernel[0], axes)
    np.testing.assert_allclose(of_kernel.ravel(), (x @ cut[: sizes[0] // 5]).ravel(), rtol=1e-4)


def test_orthogonalized_matrices_have_singular_values_near_1() -> None:
    matrices = jax.random.normal(jax.random.key(0), (4, 24, 40))
    values = np.linalg.svd(orthogonalized(matrices), compute_uv=False)
    assert 0.6 < values.min() and values.max() < 1.25
    assert np.linalg.svd(matrices, compute_uv=False).max() > 8


def torch_muon(params: Any, gradients: list[Any], config: OptimizerConfig, rate: float) -> Any:
    """Moves each matrix by itself, [out, in] as torch has it, in float32 (Jordan et al., 2024)."""
    torch = pytest.importorskip("torch")

    def orthogonal(g: Any) -> Any:
        x = g.T if g.shape[0] > g.shape[1] else g
        x = x / (x.norm() + 1e-7)
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        return x.T if g.shape[0] > g.shape[1] else x

    weights = {name: torch.tensor(value) for name, value in params.items()}
    sums = {name: torch.zeros_like(value) for name, value in weights.items()}
    for gradient in gradients:
        for name, weight in weights.items():
            g = torch.tensor(gradient[name])
            sums[name] = config.momentum * sums[name] + g
            update = orthogonal(g + config.momentum * sums[name])
            update = config.update_rms * max(weight.shape) ** 0.5 * update
            weights[name] = weight - rate * (update + config.weight_decay * weight)
    return {name: value.numpy() for name, value in weights.items()}


def torch_matrices(params: Any) -> dict[str, np.ndarray]:
    """Returns every matrix of Muon's kernels, written out by hand as torch has it: [out, in]."""
    found = {}
    for name, leaf in names(params).items():
        for layer, kernel in enumerate(np.asarray(leaf) if "layers" in name else []):
            part = name.split("/")[-2]
            if not name.endswith("kernel"):
                continue
            if part in ("query", "key", "value"):
                found[f"{layer} {part}"] = kernel.reshape(len(kernel), -1).T
            elif part == "out":
                found[f"{layer} {part}"] = kernel.reshape(-1, kernel.shape[-1]).T
            elif kernel.ndim == 3:
                for side, half in enumerate(("up", "gate")):
                    found[f"{layer} {half}"] = kernel[:, side].T
            else:
                found[f"{layer} {part}"] = kernel.T
    return found


def descend(
    tx: optax.GradientTransformationExtraArgs, params: Any, gradients: list[Any], decay: float
) -> Any:
    """Takes a step of rate 0.01 for each gradient."""
    state = tx.init(params)
    for gradient in gradients:
        updates, state = tx.update(gradient, state, params, weight_decay=decay)
        params = jax.tree.map(lambda p, u: p - 0.01 * u, params, updates)
    return params


def random_gradients(params: Any, count: int) -> list[Any]:
    """Returns trees of normal numbers, shaped as the parameters."""
    rng = np.random.default_rng(0)

    def draw(leaf: Any) -> np.ndarray:
        return rng.standard_normal(leaf.shape).astype(np.float32)

    return [jax.tree.map(draw, params) for _ in range(count)]


@pytest.mark.hf
def test_20_steps_agree_with_a_torch_loop_over_matrices(encoder: EncoderConfig) -> None:
    params = params_of(encoder)
    gradients = random_gradients(params, 20)
    ours = descend(make_optimizer(MUON), params, gradients, 0.1)
    start, *steps = map(torch_matrices, (params, *gradients))
    theirs = torch_muon(start, steps, MUON, 0.01)
    moved = torch_matrices(ours)
    assert moved.keys() == theirs.keys() and len(theirs) == (14 if "gate" in str(theirs) else 12)
    for name, value in theirs.items():
        np.testing.assert_allclose(moved[name], value, rtol=0, atol=2e-5, err_msg=name)
    # The others move as by AdamW.
    adamw = descend(
        make_optimizer(dataclasses.replace(MUON, rule=Optimizer.ADAMW)), params, gradients, 0.1
    )
    rules = names(rules_of(MUON, params))
    for name, leaf in names(ours).items():
        same = np.allclose(leaf, names(adamw)[name], rtol=1e-6, atol=1e-7)
        assert same is (rules[name] == "adamw"), name


@pytest.mark.hf
def test_updates_are_those_of_torchs_muon_to_its_bfloat16() -> None:
    torch = pytest.importorskip("torch")
    kernel = np.random.default_rng(0).standard_normal((2, 24, 40)).astype(np.float32)
    params = {"layers": {"mlp": {"down": {"kernel": kernel}}}}
    gradients = random_gradients(params, 5)
    as_theirs = dataclasses.replace(MUON, update_rms=0.2)
    ours = descend(make_optimizer(as_theirs), params, gradients, 0.1)
    moved = ours["layers"]["mlp"]["down"]["kernel"]
    weights = [torch.nn.Parameter(torch.tensor(matrix.T)) for matrix in kernel]
    peer = torch.optim.Muon(
        weights, lr=0.01, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"
    )
    for gradient in gradients:
        for weight, g in zip(weights, gradient["layers"]["mlp"]["down"]["kernel"], strict=True):
            weight.grad = torch.tensor(g.T)
        peer.step()
    for ours_, theirs in zip(moved, weights, strict=True):
        # Five updates of size 0.01 x 0.2; bfloat16 has 3 digits.
        np.testing.assert_allclose(ours_, theirs.detach().numpy().T, rtol=0, atol=4e-4)


@pytest.mark.parametrize("axes", [{}, {"fsdp": 2, "tensor": 2}, {"fsdp": 8}])
def test_devices_share_the_matrices(tiny_encoder: EncoderConfig, axes: dict[str, int]) -> None:
    config = dataclasses.replace(tiny_encoder, layers=3, width=64, heads=4, mlp_width=96)
    mesh = sharding.make_mesh(MeshConfig(**axes))
    model = PretrainingModel(config)
    tx, alone = make_optimizer(MUON, mesh=mesh), make_optimizer(MUON)
    abstract = abstract_state(model, tx, mesh)
    params = init_params(model, 0, abstract_params(model, mesh))
    state = init_state(params, tx, abstract)
    placed = jax.tree.map(lambda leaf: leaf.sharding, abstract.params)

    def move(tx: Any) -> Any:
        return jax.jit(
            lambda grads, state, params: tx.update(grads, state, params, weight_decay=0.1)[0],
            out_shardings=placed,
        )

    grads = jax.device_put(random_gradients(params, 1)[0], placed)
    shared = move(tx).lower(grads, state.opt_state, params).compile()
    # 12 matrices of 64 x 64 and 6 of 64 x 96 are 2 and 1 on each of 8 devices.
    dots = re.findall(r"f32\[(\d+),64,(?:64|96)\][^=]* dot\(", shared.as_text())
    assert dots and set(dots) <= {"1", "2"}, dots
    everything = move(alone).lower(grads, state.opt_state, params).compile()
    ours, theirs = (
        jax.device_get(each(grads, state.opt_state, params)) for each in (shared, everything)
    )
    for name, leaf in names(ours).items():
        np.testing.assert_allclose(leaf, names(theirs)[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_flops_are_those_of_the_products() -> None:
    count, inputs, outputs = 3, 16, 40

    def steps(matrices: jax.Array) -> jax.Array:
        return orthogonalized(matrices)

    shape = jax.ShapeDtypeStruct((count, inputs, outputs), jnp.float32)
    text = jax.jit(steps).lower(shape).as_text()
    products = re.findall(r"dot_general.*\(tensor<(.*?)xf32>, tensor<(.*?)xf32>\)", text)
    assert len(products) == 15
    total = orthogonalization_flops([(count, inputs, outputs)])
    assert total == count * 5 * (2 * 16 * 40 * 16 + 2 * 16**3 + 2 * 16 * 16 * 40)
    assert orthogonalization_flops([(count, outputs, inputs)]) == total
