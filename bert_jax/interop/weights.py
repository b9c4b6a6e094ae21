"""Tensors of a directory of transformers: safetensors, or a pickle, loaded without its code."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from bert_jax.errors import UserError
from bert_jax.interop.families.family import Family
from bert_jax.interop.names import Tensor

SAFETENSORS_FILE = "model.safetensors"
SHARD_INDEX_FILE = "model.safetensors.index.json"  # for weights in several files
PICKLE_FILE = "pytorch_model.bin"

_DTYPES = {
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F64": "float64",
    "I32": "int32",
    "I64": "int64",
}


def open_weights(directory: pathlib.Path, family: Family) -> dict[str, Tensor]:
    """Returns the tensors of a directory, by the family's name; safetensors come before a pickle.

    Of safetensors files only the headers are read at first, and each tensor when it is used.

    Raises:
      UserError: if there are no weights, or a file is damaged or has more than tensors.
    """
    if (directory / SAFETENSORS_FILE).is_file():
        tensors = _open_safetensors(directory / SAFETENSORS_FILE)
    elif (directory / SHARD_INDEX_FILE).is_file():
        tensors = _open_shards(directory)
    elif (directory / PICKLE_FILE).is_file():
        tensors = _open_pickle(directory / PICKLE_FILE)
    else:
        raise UserError(
            f"{directory} has no weights: copy {SAFETENSORS_FILE}, or {SHARD_INDEX_FILE} with its"
            f" files, or {PICKLE_FILE} there"
        )
    found: dict[str, Tensor] = {}
    for old, tensor in tensors.items():
        name = family.canonical(old)
        if name in found:
            raise UserError(f"{directory} has two tensors for {name}: remove one")
        found[name] = tensor
    return found


def _open_safetensors(path: pathlib.Path) -> dict[str, Tensor]:
    """Checks a file with the safetensors library, and returns views of its memory-mapped tensors.

    The library would copy each tensor, which takes longer than the rest of an import.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            found = {name: (part.get_dtype(), part.get_shape()) for name, part in parts.items()}
        mapped = np.memmap(path, np.uint8, mode="r")
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a complete safetensors file ({error}): copy or download it again"
        ) from None
    data = 8 + int.from_bytes(mapped[:8].tobytes(), "little")  # after the header and its size
    header = json.loads(mapped[8:data].tobytes())
    tensors = {}
    for name, (dtype, shape) in found.items():
        begin, end = header[name]["data_offsets"]
        content = mapped[data + begin : data + end]
        dtype = _DTYPES.get(str(dtype), str(dtype))
        tensors[name] = Tensor(tuple(shape), dtype, _reader(content, tuple(shape), dtype))
    return tensors


def _reader(content: np.ndarray, shape: tuple[int, ...], dtype: str) -> Callable[[], np.ndarray]:
    return lambda: content.view(jnp.dtype(dtype)).reshape(shape)


def _open_shards(directory: pathlib.Path) -> dict[str, Tensor]:
    path = directory / SHARD_INDEX_FILE
    try:
        file_of = json.loads(path.read_bytes())["weight_map"]
        files = sorted(set(file_of.values()))
        if any(pathlib.PurePath(file).name != file for file in files):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path} is damaged: it needs a weight_map of tensors to files in the same directory;"
            " copy or download it again"
        ) from None
    absent = [file for file in files if not (directory / file).is_file()]
    if absent:
        raise UserError(f"{path} names {', '.join(absent)}, missing: copy them to {directory}")
    shards = {file: _open_safetensors(directory / file) for file in files}
    astray = [name for name, file in file_of.items() if name not in shards[file]]
    if astray:
        raise UserError(
            f"{path}: {astray[0]} is not in {file_of[astray[0]]}: copy or download both again"
        )
    return {name: shards[file][name] for name, file in file_of.items()}


def _open_pickle(path: pathlib.Path) -> dict[str, Tensor]:
    """Reads a PyTorch file with `weights_only`: tensors and plain containers, no code."""
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} needs PyTorch: install it with pip install -e '.[hf]', or convert the file to"
            f" {SAFETENSORS_FILE}"
        ) from None
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch does not document what damaged or hostile files raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} is refused: it is damaged, or has more than tensors, which could be code"
            f" ({type(error).__name__}: {reason}); save its state_dict alone, as"
            f" {SAFETENSORS_FILE}"
        ) from None
    if not isinstance(values, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in values.items()
    ):
        raise UserError(
            f"{path} is refused: it is not a dict of tensors by name; save the model's state_dict"
            " alone"
        )
    return {name: _of_torch(value) for name, value in values.items()}


def _of_torch(value: Any) -> Tensor:
    dtype = str(value.dtype).removeprefix("torch.")

    def read() -> np.ndarray:
        # NumPy has no bfloat16; float32 represents all of its values.
        return (value.float() if dtype == "bfloat16" else value).numpy()

    return Tensor(tuple(value.shape), dtype, read)
