"""Time and memory of importing a model of 110 M parameters, compared with reading its file.

    python -m docs.performance.import_model --vocab=vocab.txt

`read` is `safetensors.numpy.load_file`, and `write` writes as many bytes to a plain file;
`parameters` reads the file into our tree, and `checkpoint` writes it, with fingerprints. The two of
a library take turns, each in a new process that has first imported a tiny model, so that libraries
are loaded. `cpu` is in seconds of all cores. Memory is the growth of the process's peak, as a
multiple of the file's size, including the pages of the mapped file.
"""

import collections
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import IO, Any

import jax
import numpy as np
from absl import app, flags
from jax.sharding import Mesh
from safetensors.numpy import load_file

from bert_jax.checkpoints.checkpoint import write_parameters
from bert_jax.config import MeshConfig
from bert_jax.distributed import sharding
from bert_jax.interop import huggingface
from bert_jax.interop.weights import SAFETENSORS_FILE

_VOCAB = flags.DEFINE_string("vocab", None, "vocab.txt of 30,522 pieces")
_RUNS = flags.DEFINE_integer("runs", 5, "runs of each; medians and minima are printed")
_MEASURE = flags.DEFINE_list("measure", [], "read or import, and a directory: for subprocesses")


def resident_bytes() -> int:
    """Returns the resident memory of this process."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def timed(make: Callable[[], Any]) -> tuple[Any, float, float]:
    """Returns the result of a call, its wall seconds, and those of all cores."""
    begin, cpu = time.perf_counter(), time.process_time()
    made = make()
    return made, time.perf_counter() - begin, time.process_time() - cpu


def write_and_sync(raw: IO[bytes], path: pathlib.Path) -> None:
    """Writes the bytes of a file, which are in memory already, to another one."""
    raw.write(np.memmap(path, np.uint8, mode="r").data)
    raw.flush()
    os.fsync(raw.fileno())


def import_tiny(directory: pathlib.Path, mesh: Mesh) -> None:
    """Imports a tiny model, which loads the libraries and compiles shared programs."""
    tiny = huggingface.read_directory(directory / "tiny", mesh)
    with tempfile.TemporaryDirectory() as target:
        write_parameters(pathlib.Path(target, "run"), tiny.params, tiny.metadata)


def measure(what: str, directory: pathlib.Path) -> dict[str, float]:
    """Reads a model, or imports and writes it, once; returns seconds and memory."""
    mesh = sharding.make_mesh(MeshConfig(data=1), devices=jax.local_devices()[:1])
    import_tiny(directory, mesh)
    before = resident_bytes()
    if what == "read":
        _, seconds, cpu = timed(lambda: load_file(directory / SAFETENSORS_FILE))
        with tempfile.TemporaryFile() as raw:
            _, writing, _ = timed(lambda: write_and_sync(raw, directory / SAFETENSORS_FILE))
        return {"read": seconds, "read cpu": cpu, "write": writing}
    model, seconds, cpu = timed(lambda: huggingface.read_directory(directory, mesh))
    figures = {"parameters": seconds, "parameters cpu": cpu}
    with tempfile.TemporaryDirectory() as target:
        run = pathlib.Path(target, "run")
        _, seconds, cpu = timed(lambda: write_parameters(run, model.params, model.metadata))
    figures |= {"checkpoint": seconds, "checkpoint cpu": cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kibibytes on Linux
    return figures | {"memory": (peak - before) / (directory / SAFETENSORS_FILE).stat().st_size}


def main(argv: list[str]) -> None:
    """Makes the models, measures in fresh processes, and prints the medians."""
    del argv
    if _MEASURE.value:
        what, directory = _MEASURE.value
        print(json.dumps(measure(what, pathlib.Path(directory))))
        return
    import transformers

    runs: dict[str, list[float]] = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as made:
        tiny: dict[str, Any] = dict(hidden_size=12, intermediate_size=12, num_hidden_layers=1)
        models: list[tuple[str, Any]] = [(made, {}), (f"{made}/tiny", tiny)]
        for directory, shape in models:
            model = transformers.BertForPreTraining(transformers.BertConfig(**shape))
            model.save_pretrained(directory)
            shutil.copyfile(_VOCAB.value or "", pathlib.Path(directory, "vocab.txt"))
            del model
        for _ in range(_RUNS.value):
            for what in ("read", "import"):
                flag = f"--measure={what},{made}"
                command = [sys.executable, "-m", "docs.performance.import_model", flag]
                output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
                for name, value in json.loads(output).items():
                    runs[name].append(value)
    medians = {name: statistics.median(values) for name, values in runs.items()}
    for name, values in runs.items():
        print(f"{name:16} {medians[name]:.2f} ({min(values):.2f})")
    print(f"parameters of read: {medians['parameters'] / medians['read']:.2f}")
    print(f"checkpoint of write: {medians['checkpoint'] / medians['write']:.2f}")


if __name__ == "__main__":
    app.run(main)
