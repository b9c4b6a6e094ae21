"""Importing the package changes nothing in the process; the drivers do that when they run."""

import pathlib
import signal
import subprocess
import sys
import time

from tests.fixtures.drivers import PATIENCE_SECONDS, ROOT
from tests.test_floors import imports, modules, wing_of

# What a process has that an import could change.
STATE = """
import json, logging, os, signal, sys, threading, warnings

def state():
    return {
        "signals": {n: str(signal.getsignal(n)) for n in sorted(signal.valid_signals())},
        "warnings": [str(each) for each in warnings.filters],
        "environment": dict(os.environ),
        "logging": [logging.getLogger().level, logging.root.manager.disable,
                    [str(handler) for handler in logging.getLogger().handlers]],
        "hooks": [str(hook) for hook in (sys.excepthook, threading.excepthook, sys.stdout)],
        "path": list(sys.path),
    }

def load(names):
    for name in names:
        __import__(name)
"""


def output_of(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", STATE + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr[-2000:]
    return done.stdout


def test_importing_the_package_imports_no_library() -> None:
    code = "before = state()\nimport bert_jax\nassert state() == before\nprint(list(sys.modules))"
    loaded = {name.partition(".")[0] for name in eval(output_of(code))}
    assert "bert_jax" in loaded
    assert not loaded & {"jax", "flax", "numpy", "absl", "ml_collections", "matplotlib"}


def test_importing_the_wings_changes_no_global_state() -> None:
    optional = {"apache_beam", "bm25s", "mteb", "sentence_transformers", "tensorflow", "torch"}
    optional |= {"transformers"}
    ours = [name for name in modules() if wing_of(name) and not name.endswith("__main__")]
    needed = {
        name: {each for each in imports(modules()[name]) if each.partition(".")[0] != "bert_jax"}
        for name in ours
    }
    ours = [n for n in ours if not optional & {each.partition(".")[0] for each in needed[n]}]
    libraries = {each.partition(".")[0] for name in ours for each in needed[name]}
    # Libraries may change something when they are imported: they come first.
    report = output_of(
        f"load({sorted(libraries - optional)!r})\n"
        "import jax.experimental.multihost_utils, tensorflow_datasets, matplotlib.figure\n"
        "import flax.linen, grain.python, orbax.checkpoint, scipy.special, scipy.stats\n"
        "import pyarrow.parquet\n"
        "before = state()\n"
        f"load({['bert_jax.' + name for name in ours]!r})\n"
        "after = state()\n"
        "changed = {k: [before[k], after[k]] for k in before if before[k] != after[k]}\n"
        "print(json.dumps(changed), 'bert_jax.training.step' in sys.modules)\n"
    )
    assert report.split(" ") == ["{}", "True\n"], report


def test_interrupted_in_its_imports_a_driver_ends_without_a_traceback(
    tmp_path: pathlib.Path,
) -> None:
    # A library that takes long: the driver is inside its imports when the signal comes.
    (tmp_path / "jax.py").write_text(
        "import pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(60)\n"
    )
    flags = ["--config=pretrain_tiny", "--config.data.corpus=c", "--workdir=w"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bert_jax.pretrain", *flags],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": ""},
        stderr=subprocess.PIPE,
    )
    end = time.monotonic() + PATIENCE_SECONDS
    while not (tmp_path / "begun").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=PATIENCE_SECONDS)[1] == b""
    assert process.returncode == -signal.SIGINT
