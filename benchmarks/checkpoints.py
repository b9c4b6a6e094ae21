"""Times saving and restoring a checkpoint, in turn with writing and reading a plain file.

    python -m benchmarks.checkpoints --size=base

The state is that of training: parameters and two moments. `save` ends when the checkpoint is
complete on disk; a training run continues in the meantime. The limit is to write the bytes of the
arrays to one file and sync it.
"""

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


def measure(size: str, turns: int, folder: pathlib.Path) -> dict[str, float]:
    """Returns the bytes of the state, median seconds of each action, and ratios to the limit."""
    model, mesh = PretrainingModel(encoder_of(size)), sharding.make_mesh(MeshConfig())
    tx = make_optimizer(OptimizerConfig())
    abstract = abstract_state(model, tx, mesh)
    state = init_state(init_params(model, 0, abstract.params), tx, abstract)
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.opt_state))]
    raw = folder / "raw"

    def write() -> None:
        with raw.open("wb") as file:
            for array in arrays:
                file.write(array.data)
            file.flush()
            os.fsync(file.fileno())

    seconds: dict[str, list[float]] = {"save": [], "write": [], "restore": [], "read": []}
    for turn in range(turns):
        workdir = folder / str(turn)

        def save(workdir: pathlib.Path = workdir) -> None:
            checkpoints = Checkpoints(workdir, keep=1, keep_every_steps=0)
            checkpoints.save(state, {"kind": "pretraining", "cursor": {}})
            checkpoints.close()

        def restore(workdir: pathlib.Path = workdir) -> None:
            jax.block_until_ready(restore_state(workdir / FOLDER / "0", abstract))

        for name, act in (
            ("save", save),
            ("write", write),
            ("restore", restore),
            ("read", raw.read_bytes),
        ):
            seconds[name].append(timed(act))
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    return {
        "bytes": float(sum(array.nbytes for array in arrays)),
        **medians,
        "save_of_write": medians["save"] / medians["write"],
        "restore_of_read": medians["restore"] / medians["read"],
    }


def main(_: list[str]) -> None:
    """Prints a line of JSON."""
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(_SIZE.value, _TURNS.value, pathlib.Path(folder))))


if __name__ == "__main__":
    app.run(main)
