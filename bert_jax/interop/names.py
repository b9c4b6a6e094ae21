"""Moves parameters between our tree and the tensors of transformers, by a family's table of names.

Their layers are separate, ours are stacked; their matrices are [outputs, inputs], ours are
[inputs, outputs] with axes for heads. Values are only moved, never computed.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from bert_jax.checkpoints.fingerprint import leaf_name
from bert_jax.config import (
    EncoderConfig,
    MlpKind,
    Norm,
    NormKind,
    PoolerKind,
    PositionEncoding,
)
from bert_jax.errors import UserError
from bert_jax.interop.families.family import Family, Part
from bert_jax.objectives.losses import Params

# The axes of our arrays, by the letters of docs/architecture.md. G are the heads of keys and
# values, E is the width of the tables, P are the rows of the position table, S those of the segment
# table, U are the units before the activation (F, or 2 F), C the outputs of a task, X is what the
# output matrix reads. Of kernels: inputs and outputs.
_KERNELS = {
    "encoder/embeddings/projection": ("E", "D"),
    "encoder/layers/attention/query": ("D", "HK"),
    "encoder/layers/attention/key": ("D", "GK"),
    "encoder/layers/attention/value": ("D", "GK"),
    "encoder/layers/attention/out": ("HK", "D"),
    "encoder/layers/mlp/up": ("D", "U"),
    "encoder/layers/mlp/down": ("F", "D"),
    "pooler/dense": ("D", "D"),
    "mlm_head/transform": ("D", "E"),
    "nsp_head/dense": ("D", "2"),
    "sop_head/dense": ("D", "2"),
    "classifier/dense": ("D", "C"),
    "tagger/dense": ("D", "C"),
    "span/dense": ("D", "C"),
}
_NORMS = {
    "encoder/embeddings/norm": "E",
    "encoder/layers/attention_norm": "D",
    "encoder/layers/mlp_norm": "D",
    "encoder/layers/attention/query_norm": "K",
    "encoder/layers/attention/key_norm": "K",
    "encoder/final_norm": "D",
    "pooler/norm": "D",
    "mlm_head/norm": "E",
}
_TABLES = {
    "encoder/embeddings/tokens": "VE",
    "encoder/embeddings/positions": "PE",
    "encoder/embeddings/segments": "SE",
    "mlm_head/output": "VX",
    "mlm_head/bias": "V",
}
_STACKED = "encoder/layers/"
_POSITIONS = "encoder/embeddings/positions"
_FIRST_NORM = "encoder/layers/attention_norm"  # which layer 0 may have and not use
_GATED = "encoder/layers/mlp/up"
_ALIGNMENT = 64  # bytes, of JAX's arrays on a CPU
POSITION_IDS = "embeddings.position_ids"  # 0, 1, 2, ...: a buffer in files of old versions


class Tensor(NamedTuple):
    """A tensor of the other library, which is read when it is used."""

    shape: tuple[int, ...]
    dtype: str  # NumPy's name: 'float32'
    read: Callable[[], np.ndarray]


class TensorMapping(NamedTuple):
    """One of their tensors, or some rows of it, and its place in our tree."""

    name: str  # theirs
    shape: tuple[int, ...]  # of all of theirs
    rows: tuple[int, int]  # of theirs, begin and end
    path: str  # ours: 'encoder/layers/attention/query/kernel'
    place: tuple[Any, ...]  # into our array: the layer, and of a gated pair the side
    transposed: bool


def _sizes(encoder: EncoderConfig, outputs: int) -> dict[str, int]:
    width, gated = encoder.width, encoder.mlp is MlpKind.GATED
    table_width = encoder.embedding_width or width
    return {
        "V": encoder.vocab_size,
        "D": width,
        "E": table_width,
        "X": table_width if encoder.mlm_transform else width,
        "P": encoder.max_length,
        "S": encoder.segments,
        "H": encoder.heads,
        "G": encoder.kv_heads or encoder.heads,
        "K": width // encoder.heads,
        "F": encoder.mlp_width,
        "U": encoder.mlp_width * (2 if gated else 1),
        "C": outputs,
        "2": 2,
    }


def _missing(encoder: EncoderConfig) -> set[str]:
    """Returns the modules and arrays that an encoder, or a head on it, lacks."""
    has = {
        _POSITIONS: encoder.position_encoding is PositionEncoding.LEARNED,
        "encoder/embeddings/segments": encoder.segments > 0,
        "encoder/embeddings/norm": encoder.embedding_norm,
        "encoder/embeddings/projection": encoder.embedding_width not in (0, encoder.width),
        "encoder/layers/attention/query_norm": encoder.qk_norm,
        "encoder/layers/attention/key_norm": encoder.qk_norm,
        "encoder/final_norm": encoder.norm is Norm.PRE and encoder.final_norm,
        "pooler/dense": encoder.pooler is not PoolerKind.NONE,
        "pooler/norm": encoder.pooler is PoolerKind.TRANSFORM,
        "mlm_head/transform": encoder.mlm_transform,
        "mlm_head/norm": encoder.mlm_transform,
        "mlm_head/output": not encoder.mlm_tied,
        "mlm_head/bias": encoder.mlm_bias,
    }
    return {path for path, there in has.items() if not there}


def _has_bias(encoder: EncoderConfig, module: str) -> bool:
    """Returns True if the kernel of a module has a bias."""
    if module == "pooler/dense" and encoder.pooler in (PoolerKind.RELU, PoolerKind.GELU):
        return True
    is_output = module.partition("/")[0] in ("nsp_head", "sop_head", "classifier", "tagger", "span")
    return is_output or encoder.biases


def make_shapes(
    encoder: EncoderConfig, groups: Collection[str], outputs: int
) -> dict[str, tuple[int, ...]]:
    """Returns path -> shape of the arrays of some groups.

    Args:
      encoder: its shape.
      groups: of parameters, such as "encoder" and "pooler".
      outputs: C, of a task's head.
    """
    sizes, missing = _sizes(encoder, outputs), _missing(encoder)
    axes: dict[str, str] = {}
    for module, (inputs, out) in _KERNELS.items():
        axes[f"{module}/kernel"] = inputs + out
        if _has_bias(encoder, module):
            axes[f"{module}/bias"] = out
    for module, axis in _NORMS.items():
        axes[f"{module}/scale"] = axis
        if encoder.norm_kind is NormKind.LAYER_NORM:
            axes[f"{module}/bias"] = axis
    axes |= _TABLES
    shapes = {}
    for path, letters in axes.items():
        module = path if path in _TABLES else path.rpartition("/")[0]
        if path.partition("/")[0] in groups and module not in missing:
            shape = tuple(sizes[letter] for letter in letters)
            if module == _GATED and encoder.mlp is MlpKind.GATED:
                shape = (*shape[:-1], 2, encoder.mlp_width)
            shapes[path] = (encoder.layers, *shape) if path.startswith(_STACKED) else shape
    return shapes


def tensor_mappings(family: Family, abstract: Params, pad_id: int = 0) -> list[TensorMapping]:
    """Lists the tensors of transformers that hold a tree of parameters.

    Args:
      family: of the model.
      abstract: the tree, of arrays or abstract arrays.
      pad_id: of the padding piece, from which some families count places.
    """
    return [
        mapping
        for path, leaf in jax.tree_util.tree_leaves_with_path(abstract)
        for mapping in _mappings_of_leaf(family, leaf_name(path), tuple(leaf.shape), pad_id)
    ]


def _mappings_of_leaf(
    family: Family, path: str, shape: tuple[int, ...], pad_id: int
) -> Iterator[TensorMapping]:
    module, suffix = path, ""
    if path not in _TABLES:
        module, _, kind = path.rpartition("/")
        suffix = ".bias" if kind == "bias" else ".weight"
    name = family.names[module]
    inputs = len(_KERNELS[module][0]) if path.endswith("/kernel") else 0
    layers: list[tuple[int, ...]] = [()]
    if path.startswith(_STACKED):
        unused = module == _FIRST_NORM and not family.fixed.get("first_norm", True)
        layers = [(number,) for number in range(int(unused), shape[0])]
        shape = shape[1:]
    sides: list[tuple[str, tuple[Any, ...]]] = [(name if isinstance(name, str) else name[0], ())]
    if isinstance(name, tuple) and not isinstance(name, Part):
        sides = [(side, (slice(None),) * inputs + (n,)) for n, side in enumerate(name)]
        shape = (*shape[:-2], shape[-1])
    if inputs:
        shape = (math.prod(shape[inputs:]), math.prod(shape[:inputs]))
    elif suffix == ".bias":
        shape = (math.prod(shape),)
    first, total = 0, shape[0]
    if isinstance(name, Part):
        first, total = name.number * shape[0], name.parts * shape[0]
    elif path == _POSITIONS:
        first = family.first_position(pad_id)
        total = first + shape[0]
    for layer in layers:
        for side, index in sides:
            yield TensorMapping(
                side.format(layer=layer[0] if layer else "") + suffix,
                (total, *shape[1:]),
                (first, first + shape[0]),
                path,
                layer + index,
                inputs > 0,
            )


def to_theirs(family: Family, params: Params, pad_id: int = 0) -> dict[str, np.ndarray]:
    """Returns their tensors, by name, as views of our arrays where possible.

    Args:
      family: of the model.
      params: NumPy arrays.
      pad_id: of the padding piece.
    """
    leaves = _by_path(params)
    parts: dict[str, list[TensorMapping]] = defaultdict(list)
    for mapping in tensor_mappings(family, params, pad_id):
        parts[mapping.name].append(mapping)
    return {name: _joined(leaves, mappings) for name, mappings in parts.items()}


def _joined(leaves: Mapping[str, np.ndarray], parts: list[TensorMapping]) -> np.ndarray:
    """Returns one of their tensors; rows that are no part are zeros, as of the padding piece."""
    views = [_as_theirs(leaves[part.path], part) for part in parts]
    if views[0].shape == parts[0].shape:
        return views[0]
    whole = np.zeros(parts[0].shape, views[0].dtype)
    for part, view in zip(parts, views, strict=True):
        whole[slice(*part.rows)] = view
    return whole


def from_theirs(
    family: Family, abstract: Params, read: Callable[[str], np.ndarray], pad_id: int = 0
) -> Params:
    """Builds our tree from their tensors.

    Args:
      family: of the model.
      abstract: the tree, with shapes and dtypes.
      read: name -> tensor, of the shape in `tensor_mappings`.
      pad_id: of the padding piece.

    Returns:
      NumPy arrays, aligned so that JAX's CPU device can use them without a copy.
    """
    params = jax.tree.map(lambda leaf: _empty_aligned(leaf.shape, leaf.dtype), abstract)
    leaves = _by_path(params)
    if f"{_FIRST_NORM}/scale" in leaves:  # layer 0 may have none: as it would begin
        leaves[f"{_FIRST_NORM}/scale"][0] = 1
    if f"{_FIRST_NORM}/bias" in leaves:
        leaves[f"{_FIRST_NORM}/bias"][0] = 0

    def copy(mapping: TensorMapping) -> None:
        _as_theirs(leaves[mapping.path], mapping)[...] = read(mapping.name)[slice(*mapping.rows)]

    with ThreadPoolExecutor() as threads:  # NumPy copies without holding the lock of Python
        list(threads.map(copy, tensor_mappings(family, abstract, pad_id)))
    return params


def _empty_aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(size + _ALIGNMENT, np.uint8)
    begin = -room.ctypes.data % _ALIGNMENT
    return room[begin : begin + size].view(dtype).reshape(shape)


def _as_theirs(leaf: np.ndarray, mapping: TensorMapping) -> np.ndarray:
    """Returns a parameter, or a part of it, in their layout: a view."""
    one = leaf[mapping.place]
    begin, end = mapping.rows
    shape = (end - begin, *mapping.shape[1:])
    wanted = shape[::-1] if mapping.transposed else shape
    if one.shape != wanted:
        assert one.flags.c_contiguous  # a copy would be written to and lost
        one = one.reshape(wanted)
    return one.T if mapping.transposed else one


def _by_path(params: Params) -> dict[str, Any]:
    return {leaf_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


class Misfit(UserError):
    """The tensors of a file do not fit its config; `table` lists each one that does not."""

    def __init__(self, where: str, rows: list[tuple[str, str, str]]) -> None:
        """Takes rows (name, found, needed), with shapes and dtypes."""
        kinds = [
            ("missing", sum(found == _NOTHING for _, found, _ in rows)),
            ("unexpected", sum(wanted == _NOTHING for _, _, wanted in rows)),
        ]
        kinds.append(("of another shape or type", len(rows) - sum(count for _, count in kinds)))
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds if count)
        super().__init__(
            f"the tensors of {where} do not fit its config ({counts}; the first is {rows[0][0]}):"
            " give the files of one model"
        )
        width = max(len(name) for name, _, _ in rows)
        head = ("tensor", "found", "needed")
        self.table = "\n".join(
            f"{name:{width}}  {found:22}  {wanted}".rstrip()
            for name, found, wanted in [head, *rows]
        )


_NOTHING = "-"


def check_tensors(
    where: str, family: Family, tensors: Mapping[str, Tensor], abstract: Params, pad_id: int = 0
) -> list[str]:
    """Checks that tensors are exactly those of a tree, except for copies, buffers and unread ones.

    Args:
      where: the file or directory, for errors.
      family: of the model.
      tensors: by canonical name.
      abstract: the tree, with shapes.
      pad_id: of the padding piece.

    Returns:
      The names of those that nothing here reads.

    Raises:
      Misfit: if any are missing, unexpected, or of another shape or type.
      UserError: if a copy differs from its original.
    """
    wanted = {m.name: m.shape for m in tensor_mappings(family, abstract, pad_id)}
    rows = [
        (name, _format(tensors.get(name)), f"float{list(shape)}")
        for name, shape in wanted.items()
        if name not in tensors
        or tensors[name].shape != shape
        or tensors[name].dtype not in ("float32", "float16", "bfloat16")
    ]
    copies = {
        copy for copy, other in family.copies.items() if other in wanted and copy not in wanted
    }
    buffers = {f"{family.base}{POSITION_IDS}"}
    unread = [name for name in tensors if name.startswith(family.unread) and name not in wanted]
    known = {*wanted, *copies, *buffers, *unread}
    rows += [
        (name, _format(tensor), _NOTHING) for name, tensor in tensors.items() if name not in known
    ]
    if rows:
        raise Misfit(where, rows)
    for name in sorted(tensors.keys() & (copies | buffers)):
        _check_redundant(where, name, family.copies.get(name), tensors)
    return unread


def _format(tensor: Tensor | None) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}" if tensor else _NOTHING


def _check_redundant(
    where: str, name: str, original: str | None, tensors: Mapping[str, Tensor]
) -> None:
    found = tensors[name].read()
    if original is None:
        needed, expected = np.arange(found.size), "positions that count from 0"
        remedy = "the model cannot be converted"
    else:
        needed, expected = tensors[original].read(), f"a copy of {original}"
        remedy = "set tie_word_embeddings to false in config.json if they are two matrices"
    if found.size != needed.size or not np.array_equal(found.reshape(needed.shape), needed):
        raise UserError(f"{where}: {name} is not {expected}, as the config has it: {remedy}")
