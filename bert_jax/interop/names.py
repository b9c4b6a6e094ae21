"""The one table of parameter names: each of our arrays, and its tensors in transformers.

Their layers are separate, ours are stacked; their matrices are [outputs, inputs], ours are
[inputs, outputs] with axes for heads. Values are only moved, never computed.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from bert_jax.checkpoints.fingerprint import leaf_name
from bert_jax.config import EncoderConfig
from bert_jax.errors import UserError
from bert_jax.objectives.losses import Params

PREFIX = "bert."  # of the encoder and the pooler in a model with a head

_LAYER = "bert.encoder.layer.{layer}"
# Ours: (theirs, input axes, output axes), by the letters of docs/architecture.md; P are the rows of
# the position table and S those of the segment table.
_DENSE = {
    "encoder/layers/attention/query": (f"{_LAYER}.attention.self.query", "D", "HK"),
    "encoder/layers/attention/key": (f"{_LAYER}.attention.self.key", "D", "HK"),
    "encoder/layers/attention/value": (f"{_LAYER}.attention.self.value", "D", "HK"),
    "encoder/layers/attention/out": (f"{_LAYER}.attention.output.dense", "HK", "D"),
    "encoder/layers/mlp/up": (f"{_LAYER}.intermediate.dense", "D", "F"),
    "encoder/layers/mlp/down": (f"{_LAYER}.output.dense", "F", "D"),
    "pooler/dense": ("bert.pooler.dense", "D", "D"),
    "mlm_head/transform": ("cls.predictions.transform.dense", "D", "D"),
    "nsp_head/dense": ("cls.seq_relationship", "D", "2"),
    "sop_head/dense": ("cls.seq_relationship", "D", "2"),  # same shape, other classes
    "classifier/dense": ("classifier", "D", "C"),
    "tagger/dense": ("classifier", "D", "C"),
    "span/dense": ("qa_outputs", "D", "C"),
}
_NORMS = {
    "encoder/embeddings/norm": "bert.embeddings.LayerNorm",
    "encoder/layers/attention_norm": f"{_LAYER}.attention.output.LayerNorm",
    "encoder/layers/mlp_norm": f"{_LAYER}.output.LayerNorm",
    "mlm_head/norm": "cls.predictions.transform.LayerNorm",
}
_TABLES = {
    "encoder/embeddings/tokens": ("bert.embeddings.word_embeddings.weight", "VD"),
    "encoder/embeddings/positions": ("bert.embeddings.position_embeddings.weight", "PD"),
    "encoder/embeddings/segments": ("bert.embeddings.token_type_embeddings.weight", "SD"),
    "mlm_head/bias": ("cls.predictions.bias", "V"),
}
_ALIGNMENT = 64  # bytes, of JAX's arrays on a CPU
_STACKED = "encoder/layers/"

# Copies that some files have: the MLM output matrix is the token table, and its bias is one array.
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
POSITION_IDS = "bert.embeddings.position_ids"  # 0, 1, 2, ...: a buffer in files of old versions


class Tensor(NamedTuple):
    """A tensor of the other library, which is read when it is used."""

    shape: tuple[int, ...]
    dtype: str  # NumPy's name: 'float32'
    read: Callable[[], np.ndarray]


class _Entry(NamedTuple):
    """A row of the table, for one array of ours."""

    name: str  # theirs
    inputs: str  # input axes of a matrix; '' for a vector or a table
    axes: str  # the other axes


def _entries() -> Iterator[tuple[str, _Entry]]:
    for path, (name, inputs, outputs) in _DENSE.items():
        yield f"{path}/kernel", _Entry(f"{name}.weight", inputs, outputs)
        yield f"{path}/bias", _Entry(f"{name}.bias", "", outputs)
    for path, name in _NORMS.items():
        yield f"{path}/scale", _Entry(f"{name}.weight", "", "D")
        yield f"{path}/bias", _Entry(f"{name}.bias", "", "D")
    for path, (name, axes) in _TABLES.items():
        yield path, _Entry(name, "", axes)


_ENTRIES = dict(_entries())


class TensorMapping(NamedTuple):
    """Position of one of their tensors in our tree."""

    name: str  # theirs
    path: str  # ours: 'encoder/layers/attention/query/kernel'
    layer: int | None  # on the stacked axis
    shape: tuple[int, ...]  # theirs
    transposed: bool


def make_shapes(
    encoder: EncoderConfig, groups: Collection[str], outputs: int
) -> dict[str, tuple[int, ...]]:
    """Returns path -> shape of the arrays of some groups, for a post-norm encoder.

    Args:
      encoder: its shape.
      groups: of parameters, such as "encoder" and "pooler".
      outputs: C, of a task's head.
    """
    sizes = {
        "V": encoder.vocab_size,
        "D": encoder.width,
        "P": encoder.max_length,
        "S": encoder.segments,
        "H": encoder.heads,
        "K": encoder.width // encoder.heads,
        "F": encoder.mlp_width,
        "C": outputs,
        "2": 2,
    }
    shapes = {}
    for path, entry in _ENTRIES.items():
        if path.partition("/")[0] in groups:
            shape = tuple(sizes[axis] for axis in entry.inputs + entry.axes)
            shapes[path] = (encoder.layers, *shape) if path.startswith(_STACKED) else shape
    return shapes


def tensor_mappings(abstract: Params) -> list[TensorMapping]:
    """Lists the tensors of transformers that hold a tree of parameters.

    Args:
      abstract: the tree, of arrays or abstract arrays.
    """
    return [
        mapping
        for path, leaf in jax.tree_util.tree_leaves_with_path(abstract)
        for mapping in _mappings_of_leaf(leaf_name(path), tuple(leaf.shape))
    ]


def _mappings_of_leaf(path: str, shape: tuple[int, ...]) -> list[TensorMapping]:
    entry = _ENTRIES[path]
    layers: Iterable[int | None] = [None]
    if path.startswith(_STACKED):
        layers, shape = range(shape[0]), shape[1:]
    inputs = len(entry.inputs)
    if inputs:
        shape = (math.prod(shape[inputs:]), math.prod(shape[:inputs]))
    elif path.endswith("/bias"):
        shape = (math.prod(shape),)
    return [TensorMapping(entry.name.format(layer=n), path, n, shape, inputs > 0) for n in layers]


def to_theirs(params: Params) -> dict[str, np.ndarray]:
    """Returns their tensors, by name, as views of our arrays where possible.

    Args:
      params: NumPy arrays.
    """
    leaves = _by_path(params)
    return {
        mapping.name: _as_theirs(leaves[mapping.path], mapping)
        for mapping in tensor_mappings(params)
    }


def from_theirs(abstract: Params, read: Callable[[str], np.ndarray]) -> Params:
    """Builds our tree from their tensors.

    Args:
      abstract: the tree, with shapes and dtypes.
      read: name -> tensor, of the shape in `tensor_mappings`.

    Returns:
      NumPy arrays, aligned so that JAX's CPU device can use them without a copy.
    """
    params = jax.tree.map(lambda leaf: _empty_aligned(leaf.shape, leaf.dtype), abstract)
    leaves = _by_path(params)
    for mapping in tensor_mappings(abstract):
        _as_theirs(leaves[mapping.path], mapping)[...] = read(mapping.name)
    return params


def _empty_aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(size + _ALIGNMENT, np.uint8)
    begin = -room.ctypes.data % _ALIGNMENT
    return room[begin : begin + size].view(dtype).reshape(shape)


def _as_theirs(leaf: np.ndarray, mapping: TensorMapping) -> np.ndarray:
    """Returns a parameter, or one layer of it, in their layout: a view if it is contiguous."""
    one = leaf if mapping.layer is None else leaf[mapping.layer]
    return one.reshape(mapping.shape[::-1]).T if mapping.transposed else one.reshape(mapping.shape)


def _by_path(params: Params) -> dict[str, Any]:
    return {leaf_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def canonical(name: str) -> str:
    """Returns the name in the table for any name that transformers has used.

    An encoder without a head has no prefix; the oldest files use gamma and beta for the scale and
    bias of a norm.
    """
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        name = name.removesuffix(old) + new if name.endswith(f"LayerNorm{old}") else name
    bare = name.split(".")[0] in ("embeddings", "encoder", "pooler")
    return f"{PREFIX}{name}" if bare else name


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


def check_tensors(where: str, tensors: Mapping[str, Tensor], abstract: Params) -> None:
    """Checks that tensors are exactly those of a tree, except for copies and old buffers.

    Args:
      where: the file or directory, for errors.
      tensors: by canonical name.
      abstract: the tree, with shapes.

    Raises:
      Misfit: if any are missing, unexpected, or of another shape or type.
      UserError: if a copy differs from its original.
    """
    wanted = {mapping.name: mapping.shape for mapping in tensor_mappings(abstract)}
    rows = [
        (name, _format(tensors.get(name)), f"float{list(shape)}")
        for name, shape in wanted.items()
        if name not in tensors
        or tensors[name].shape != shape
        or tensors[name].dtype not in ("float32", "float16", "bfloat16")
    ]
    allowed = {name for name, other in TIED.items() if other in wanted} | {POSITION_IDS}
    rows += [
        (name, _format(tensor), _NOTHING)
        for name, tensor in tensors.items()
        if name not in wanted.keys() | allowed
    ]
    if rows:
        raise Misfit(where, rows)
    for name in tensors.keys() & allowed:
        _check_redundant(where, name, tensors)


def _format(tensor: Tensor | None) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}" if tensor else _NOTHING


def _check_redundant(where: str, name: str, tensors: Mapping[str, Tensor]) -> None:
    found = tensors[name].read()
    if name == POSITION_IDS:
        needed, expected = np.arange(found.size), "positions that count from 0"
    else:
        needed, expected = tensors[TIED[name]].read(), f"a copy of {TIED[name]}"
    if found.size != needed.size or not np.array_equal(found.reshape(needed.shape), needed):
        raise UserError(
            f"{where}: {name} is not {expected}, which this project's BERT needs: the model cannot"
            " be converted"
        )
