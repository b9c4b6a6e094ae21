"""Muon: kernels of linear maps move by orthogonal matrices (Jordan et al., 2024)."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# A quintic iteration that takes the singular values of a matrix to about 1 (Jordan et al., 2024).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_EPSILON = 1e-7


class Matrix(NamedTuple):
    """The axes of a kernel that are the inputs and the outputs of a linear map.

    Its other axes count matrices: the layers of a stack, the two maps of a gated kernel.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Returns the number of matrices in a kernel, their inputs and their outputs."""
        inputs, outputs = (math.prod(shape[axis] for axis in axes) for axes in self)
        return math.prod(shape) // (inputs * outputs), inputs, outputs

    def cut(self, kernel: jax.Array) -> jax.Array:
        """Returns the matrices of a kernel, [count, inputs, outputs]."""
        return jnp.transpose(kernel, self._order(kernel.ndim)).reshape(self.sizes(kernel.shape))

    def join(self, matrices: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Returns the kernel of this shape that `cut` made the matrices of."""
        order = self._order(len(shape))
        kernel = matrices.reshape([shape[axis] for axis in order])
        return jnp.transpose(kernel, [order.index(axis) for axis in range(len(shape))])

    def factor(self, shape: tuple[int, ...], update_rms: float) -> float:
        """Returns what an orthogonal matrix is multiplied by to have this root mean square.

        As it is, one of I inputs and O outputs has 1 / sqrt(max(I, O)).
        """
        return update_rms * math.sqrt(max(self.sizes(shape)[1:]))

    def _order(self, axes: int) -> tuple[int, ...]:
        counted = set(range(axes)) - {*self.inputs, *self.outputs}
        return (*sorted(counted), *self.inputs, *self.outputs)


def scale_by_muon(
    matrices_of: Callable[[Any], list[Any]],
    *,
    update_rms: float,
    momentum: float,
    momentum_type: Any,
    mesh: Mesh | None,
) -> optax.GradientTransformation:
    """Returns updates that are orthogonal matrices of one root mean square, whatever their size.

    With that of AdamW's updates, one learning rate and one weight decay suit both. Momentum is
    Nesterov's.

    Args:
      matrices_of: kernels -> the matrix of each, in the order of the tree's leaves.
      update_rms: the root mean square.
      momentum: share of the sum of gradients that a step keeps.
      momentum_type: dtype of that sum.
      mesh: whose devices share the matrices, as many to each; None: each computes them all.
    """

    def orthogonal(updates: Any) -> Any:
        kernels, tree = jax.tree.flatten(updates)
        matrices = matrices_of(updates)
        stacks = [matrix.cut(leaf) for matrix, leaf in zip(matrices, kernels, strict=True)]
        # Matrices of one size, upright or not, are one stack.
        by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, stack in enumerate(stacks):
            by_size[tuple(sorted(stack.shape[1:]))].append(number)
        for numbers in by_size.values():
            done = _orthogonal_stacks([stacks[number] for number in numbers], mesh)
            for number, stack in zip(numbers, done, strict=True):
                stacks[number] = stack
        return tree.unflatten(
            matrix.join(stack, leaf.shape) * matrix.factor(leaf.shape, update_rms)
            for matrix, stack, leaf in zip(matrices, stacks, kernels, strict=True)
        )

    return optax.chain(
        optax.trace(momentum, nesterov=True, accumulator_dtype=momentum_type),
        optax.stateless(lambda updates, params: orthogonal(updates)),
    )


def _orthogonal_stacks(stacks: list[jax.Array], mesh: Mesh | None) -> list[jax.Array]:
    """Orthogonalises [n, I, O] stacks of matrices that have one size, or that turned over."""
    lying = [each if each.shape[1] <= each.shape[2] else each.swapaxes(1, 2) for each in stacks]
    counts = [len(each) for each in lying]
    joined = jnp.concatenate(lying)
    if mesh is not None and mesh.size > 1:
        # As many whole matrices on each device: split otherwise, each product would be a sum over
        # devices.
        filling = -len(joined) % mesh.size
        joined = jnp.pad(joined, [(0, filling), (0, 0), (0, 0)])
        split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        joined = jax.lax.with_sharding_constraint(joined, split)
        joined = jax.lax.with_sharding_constraint(orthogonalized(joined), split)
    else:
        joined = orthogonalized(joined)
    ends = [sum(counts[: n + 1]) for n in range(len(counts))]
    done = [joined[end - count : end] for count, end in zip(counts, ends, strict=True)]
    return [
        new.swapaxes(1, 2) if old.shape[1] > old.shape[2] else new
        for new, old in zip(done, stacks, strict=True)
    ]


def orthogonalized(matrices: jax.Array) -> jax.Array:
    """Brings the singular values of matrices to about 1: [n, I, O], I <= O, to the same."""
    first, second, third = _COEFFICIENTS
    norms = jnp.linalg.norm(matrices, axis=(1, 2), keepdims=True)
    x = matrices / (norms + _EPSILON)
    for _ in range(_ITERATIONS):
        product = x @ x.swapaxes(1, 2)
        x = first * x + (second * product + third * (product @ product)) @ x
    return x


def orthogonalization_flops(sizes: list[tuple[int, int, int]]) -> int:
    """Returns the floating-point operations of a step's orthogonalisation.

    Args:
      sizes: from `Matrix.sizes`, of all kernels.
    """

    def flops(count: int, inputs: int, outputs: int) -> int:
        least, most = sorted((inputs, outputs))
        return count * _ITERATIONS * (4 * least * least * most + 2 * least**3)

    return sum(flops(*each) for each in sizes)
