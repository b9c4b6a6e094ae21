"""Seconds from the start of `pretrain` to the end of its first step, without and with its cache.

    python -m benchmarks.startup --corpus=data/wiki

The model is base on 8 rows of 128 tokens. The first start compiles; the others, each in a new
directory, find its programs in JAX_COMPILATION_CACHE_DIR.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict

from absl import app, flags

_CORPUS = flags.DEFINE_string("corpus", None, "a directory that prepare made", required=True)
_TURNS = flags.DEFINE_integer("turns", 3, "number of warm starts; the medians are printed")

_RECIPE = """
from bert_jax.config import PretrainConfig

def get_config():
    config = PretrainConfig(batch_size=8, steps=1, eval_steps=0)  # the encoder is base
    config.optimizer.warmup_steps = 0
    return config
"""


def start(corpus: str, workdir: pathlib.Path) -> dict[str, float]:
    """Runs one step; returns the seconds of each part of the start, and of all together."""
    recipe = workdir.with_name("recipe.py")
    recipe.write_text(_RECIPE)
    command = [sys.executable, "-m", "bert_jax.pretrain", f"--config={recipe}"]
    command += [f"--workdir={workdir}", f"--config.data.corpus={corpus}"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(workdir.with_name("compiled"))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    parts = json.loads((workdir / "starts.jsonl").read_text().splitlines()[-1])["seconds"]
    return parts | {"all": sum(parts.values())}


def measure(corpus: str, turns: int) -> dict[str, dict[str, float]]:
    """Returns the seconds of the parts of a cold start, and their medians over warm starts."""
    with tempfile.TemporaryDirectory() as folder:
        cold = start(corpus, pathlib.Path(folder, "cold"))
        parts = defaultdict(list)
        for turn in range(turns):
            for name, seconds in start(corpus, pathlib.Path(folder, f"warm-{turn}")).items():
                parts[name].append(seconds)
    return {"cold": cold, "warm": {name: statistics.median(each) for name, each in parts.items()}}


def main(_: list[str]) -> None:
    """Prints a line of JSON."""
    print(json.dumps(measure(_CORPUS.value, _TURNS.value)))


if __name__ == "__main__":
    app.run(main)
