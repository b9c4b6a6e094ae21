"""Times saving and restoring a checkpoint, in turn with writing and reading a plain file.

    python -m benchmarks.checkpoints --size=base

The state is that of training: parameters and two moments, none of them zero. `save` ends when the
checkpoint is complete on disk; a training run continues in the meantime. The limit is to write the
bytes of the arrays to one file and sync it, and to read that file: with warm files from the page
cache, with cold ones from the disk.
"""

import collections
import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import app, flags

from benchmarks.sizes import SIZES, encoder_of
from bert_jax.checkpoints.checkpoint import FOLDER, Checkpoints, restore_state
from bert_jax.config import MeshConfig, OptimizerConfig
from bert_jax.distributed import sharding
from bert_jax.model.heads import PretrainingModel
from bert_jax.training.optimizer import make_optimizer
from bert_jax.training.state import abstract_state, init_params, init_state

_SIZE = flags.DEFINE_enum("size", "base", list(SIZES), "the model")
_TURNS = flags.DEFINE_integer("turns", 3, "number of turns; the medians are printed")


def timed(act: Callable[[], Any]) -> float:
    """Returns the seconds that a call takes."""
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def _filled(leaf: jax.Array) -> jax.Array:
    return jax.random.normal(jax.random.key(0), leaf.shape, leaf.dtype) if leaf.ndim else leaf


def _forget(path: pathlib.Path) -> None:
    """Drops a file, or the files of a folder, from the page cache."""
    for each in [path] if path.is_file() else path.rglob("*"):
        if each.is_file():
            with each.open("rb") as file:
                os.fsync(file.fileno())  # what is not written yet cannot be dropped
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(size: str, turns: int, folder: pathlib.Path) -> dict[str, float]:
    """Returns the bytes of the state, median seconds of each action, and ratios to the limit."""
    model, mesh = PretrainingModel(encoder_of(size)), sharding.make_mesh(MeshConfig())
    tx = make_optimizer(OptimizerConfig())
    abstract = abstract_state(model, tx, mesh)
    state = init_state(init_params(model, 0, abstract.params), tx, abstract)
    state = jax.tree.map(_filled, state)  # as after some steps, where moments are not zero
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.opt_state))]
    raw = folder / "raw"

    def write() -> None:
        with raw.open("wb") as file:
            for array in arrays:
                file.write(array.data)
            file.flush()
            os.fsync(file.fileno())

    def save(workdir: pathlib.Path) -> None:
        checkpoints = Checkpoints(workdir, keep=1)
        checkpoints.save(state, {"kind": "pretraining", "cursor": {}})
        checkpoints.close()

    def restore() -> None:
        jax.block_until_ready(restore_state(folder / "0" / FOLDER / "0", abstract))

    seconds: dict[str, list[float]] = collections.defaultdict(list)
    for turn in range(turns):
        seconds["save"].append(timed(lambda turn=turn: save(folder / str(turn))))
        seconds["write"].append(timed(write))
    os.sync()  # so that nothing is written while files are read
    for _ in range(turns):
        seconds["restore"].append(timed(restore))
        seconds["read"].append(timed(raw.read_bytes))
    for _ in range(turns):
        _forget(folder / "0")
        seconds["restore_cold"].append(timed(restore))
        _forget(raw)
        seconds["read_cold"].append(timed(raw.read_bytes))
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    return {
        "bytes": float(sum(array.nbytes for array in arrays)),
        **medians,
        "save_of_write": medians["save"] / medians["write"],
        "restore_of_read": medians["restore"] / medians["read"],
        "restore_of_read_cold": medians["restore_cold"] / medians["read_cold"],
    }


def main(_: list[str]) -> None:
    """Prints a line of JSON."""
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(_SIZE.value, _TURNS.value, pathlib.Path(folder))))


if __name__ == "__main__":
    app.run(main)
