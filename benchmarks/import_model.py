"""Time and memory of importing a model of 110 M parameters, beside reading its file.

    python -m benchmarks.import_model --vocab=vocab.txt

Every run is a process of its own, which has imported a tiny model before, so that the libraries are
loaded. `read` is `safetensors.numpy.load_file`, what anybody does with the file; `parameters` is
the same file as our tree; `checkpoint` is its writing, compressed and with fingerprints. `cpu` are
the seconds of all cores. Memory is the peak of the process above what it held before, as a multiple
of the file's size, with the pages of the mapped file.
"""

import json
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
from absl import app, flags
from safetensors.numpy import load_file

from bert_jax import convert, sharding
from bert_jax.config import MeshConfig
from bert_jax.interop import huggingface
from bert_jax.interop.weights import SAFETENSORS_FILE

_VOCAB = flags.DEFINE_string("vocab", None, "vocab.txt of 30,522 pieces")
_RUNS = flags.DEFINE_integer("runs", 5, "of which medians are told")
_MEASURE = flags.DEFINE_string("measure", "", "a directory to import, in this process")


def resident_bytes() -> int:
    """Returns what this process holds in memory."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def measure(directory: pathlib.Path) -> dict[str, float]:
    """Reads, imports and writes once."""
    mesh = sharding.make_mesh(MeshConfig(data=1), devices=jax.local_devices()[:1])
    tiny = huggingface.read_directory(directory / "tiny", mesh)
    with tempfile.TemporaryDirectory() as target:
        convert.write_checkpoint(tiny, pathlib.Path(target, "run"))
    before = resident_bytes()
    begin, cpu = time.perf_counter(), time.process_time()
    model = huggingface.read_directory(directory, mesh)
    made, cpu = time.perf_counter(), time.process_time() - cpu
    with tempfile.TemporaryDirectory() as target:
        convert.write_checkpoint(model, pathlib.Path(target, "run"))
        written = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kibibytes on Linux
    del model
    again, read_cpu = time.perf_counter(), time.process_time()
    load_file(directory / SAFETENSORS_FILE)
    read, read_cpu = time.perf_counter() - again, time.process_time() - read_cpu
    size = (directory / SAFETENSORS_FILE).stat().st_size
    return {
        "read_seconds": read,
        "read_cpu": read_cpu,
        "parameters_seconds": made - begin,
        "parameters_cpu": cpu,
        "checkpoint_seconds": written - made,
        "memory": (peak - before) / size,
    }


def main(_: list[str]) -> None:
    """Makes the model, measures in fresh processes, and prints the medians."""
    if _MEASURE.value:
        print(json.dumps(measure(pathlib.Path(_MEASURE.value))))
        return
    import transformers

    with tempfile.TemporaryDirectory() as made:
        tiny: dict[str, Any] = dict(hidden_size=12, intermediate_size=12, num_hidden_layers=1)
        for directory, shape in ((made, {}), (f"{made}/tiny", tiny)):
            model = transformers.BertForPreTraining(transformers.BertConfig(**shape))
            model.save_pretrained(directory)
            shutil.copyfile(_VOCAB.value or "", pathlib.Path(directory, "vocab.txt"))
            del model
        size = pathlib.Path(made, SAFETENSORS_FILE).stat().st_size
        command = [sys.executable, "-m", "benchmarks.import_model", f"--measure={made}"]
        runs = [
            json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            for _ in range(_RUNS.value)
        ]
    print(f"{size:,} bytes, {len(runs)} runs, medians (least):")
    for name in runs[0]:
        values = [run[name] for run in runs]
        print(f"{name:20} {statistics.median(values):.2f} ({min(values):.2f})")


if __name__ == "__main__":
    app.run(main)
