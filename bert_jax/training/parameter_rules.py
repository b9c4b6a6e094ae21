"""The rules for each parameter, by its role: what moves it, and whether it decays.

A parameter's role is its name and that of its module, never its shape: a stacked kernel has as many
axes as some tables have not.
"""

from collections import defaultdict
from typing import Any

import jax

from bert_jax.config import Optimizer, OptimizerConfig
from bert_jax.errors import UserError
from bert_jax.model.stack import LAYERS
from bert_jax.training.muon import Matrix, orthogonalization_flops

_NOT_DECAYED = ("bias", "scale")  # of affine maps and of every norm

# (module, submodule) -> the axes of one layer's linear map, in the stacked kernel.
_HEADS = Matrix(inputs=(1,), outputs=(2, 3))  # [L, D, H, K]
_MATRICES = {
    ("attention", "query"): _HEADS,
    ("attention", "key"): _HEADS,
    ("attention", "value"): _HEADS,
    ("attention", "out"): Matrix(inputs=(1, 2), outputs=(3,)),  # [L, H, K, D]
    ("mlp", "up"): Matrix(inputs=(1,), outputs=(2,)),  # [L, D, F]
    ("mlp", "down"): Matrix(inputs=(1,), outputs=(2,)),  # [L, F, D]
}
_GATED = {("mlp", "up"): Matrix(inputs=(1,), outputs=(3,))}  # [L, D, 2, F], two maps a layer


def names_of(path: tuple) -> tuple[str, ...]:
    """Returns the names in the path of a parameter or of its moments."""
    return tuple(each.key for each in path if isinstance(each, jax.tree_util.DictKey))


def is_decayed(params: Any) -> Any:
    """Marks what weight decay applies to: all but the biases and scales, chosen by name."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: names_of(path)[-1] not in _NOT_DECAYED, params
    )


def matrices_of(params: Any) -> list[Matrix | None]:
    """Returns the matrix of each kernel of the layers, None for others, in the order of leaves.

    Raises:
      UserError: for a kernel of a layer whose axes have no known meaning.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [_matrix_of(names_of(path), leaf.ndim) for path, leaf in leaves]


def _matrix_of(names: tuple[str, ...], axes: int) -> Matrix | None:
    if LAYERS not in names or names[-1] != "kernel":
        return None
    table = _MATRICES | _GATED if axes == 4 else _MATRICES
    if (found := table.get((names[-3], names[-2]))) is None:
        raise UserError(
            f"--config.optimizer.rule=muon: {'/'.join(names)} is no matrix that it knows: choose"
            " another rule"
        )
    return found


def rules_of(config: OptimizerConfig, params: Any) -> Any:
    """Returns the rule of each parameter, a value of `Optimizer`; those of `params` may be shapes.

    With Muon all but the layers' kernels are AdamW's: tables, heads, biases, scales.
    """
    if config.rule is not Optimizer.MUON:
        return jax.tree.map(lambda _: config.rule.value, params)
    rules = [Optimizer.MUON if each else Optimizer.ADAMW for each in matrices_of(params)]
    return jax.tree.unflatten(jax.tree.structure(params), [rule.value for rule in rules])


def describe_rules(config: OptimizerConfig, params: Any) -> list[str]:
    """Returns a line for each rule: what it moves, whether that decays, and Muon's matrices.

    A last line tells what those cost.

    Args:
      config: of the run.
      params: of the model; may be shapes.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    rules, decayed = map(jax.tree.leaves, (rules_of(config, params), is_decayed(params)))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    sizes = []
    for (path, leaf), rule, decays, matrix in zip(
        leaves, rules, decayed, matrices_of(params), strict=True
    ):
        text = f"{rule}, {f'decay {config.weight_decay:g}' if decays else 'no decay'}"
        if rule == Optimizer.MUON.value and matrix:
            count, inputs, outputs = matrix.sizes(leaf.shape)
            factor = matrix.factor(leaf.shape, config.update_rms)
            text += f", {count} matrices of {inputs} x {outputs} times {factor:.3g}"
            sizes.append((count, inputs, outputs))
        groups[text].append("/".join(names_of(path)).removeprefix("encoder/"))
    lines = [f"{text}: {', '.join(names)}" for text, names in groups.items()]
    if sizes:
        cost = orthogonalization_flops(sizes) / 1e9
        lines.append(f"orthogonal matrices take {cost:,.1f} GFLOP a step, over all devices")
    return lines
