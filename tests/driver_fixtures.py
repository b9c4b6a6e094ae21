"""The drivers as processes, and a small corpus and run that their tests share."""

import contextlib
import importlib
import json
import multiprocessing
import os
import pathlib
import random
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import forkserver
from typing import NamedTuple

import jax
import numpy as np
import pytest

from bert_jax.checkpoint import FOLDER, read_facts, restore_state, steps_in
from bert_jax.config import MeshConfig, PretrainConfig, from_dict
from bert_jax.heads import PretrainingModel
from bert_jax.optimizer import make_optimizer
from bert_jax.sharding import make_mesh
from bert_jax.training import TrainState, abstract_state

ROOT = pathlib.Path(__file__).parents[1]
PATIENCE_SECONDS = 240.0  # of a process on a loaded machine

PRETRAIN_RECIPE = """
from bert_jax.config import PretrainConfig

def get_config():
    config = PretrainConfig(batch_size=4, steps=12, log_steps=2, eval_batches=2)
    config.eval_steps, config.checkpoint_steps = 6, 4
    config.encoder.width, config.encoder.layers, config.encoder.heads = 12, 2, 2
    config.encoder.mlp_width, config.encoder.max_length = 20, 40
    config.data.length, config.data.max_examples_per_row, config.data.block_examples = 32, 2, 12
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 1e-3, 2
    return config
"""

FINETUNE_RECIPE = """
from bert_jax.config import FinetuneConfig

def get_config():
    config = FinetuneConfig(batch_size=4, epochs=3, log_steps=2, dropout_rate=0.0)
    config.data.length = 24
    config.optimizer.learning_rate = 3e-2
    return config
"""


class Result(NamedTuple):
    """What a process left."""

    status: int  # negative: the signal that killed it
    out: str
    err: str

    def error(self) -> str:
        """Returns the message of a process that ended as every user's error must."""
        lines = self.err.splitlines()
        assert self.status == 1 and len(lines) == 1 and not self.out, self
        assert lines[0].startswith("error: "), self
        return lines[0].removeprefix("error: ")


Run = tuple[pathlib.Path, Result]  # a workdir, and what the driver said


class Running:
    """A driver at work in a process of its own."""

    def __init__(self, process: multiprocessing.process.BaseProcess, prefix: pathlib.Path) -> None:
        self._process, self._prefix = process, prefix

    def wait(self) -> Result:
        self._process.join(PATIENCE_SECONDS)
        status = self._process.exitcode
        assert status is not None, f"no end:\n{self._read('err')}"
        return Result(status, self._read("out"), self._read("err"))

    def send(self, number: signal.Signals) -> None:
        assert self._process.pid
        os.kill(self._process.pid, number)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert self._process.is_alive() and time.monotonic() < end, self._read("err")
            time.sleep(0.002)

    @property
    def err(self) -> str:
        return self._read("err")

    def _read(self, name: str) -> str:
        path = self._prefix.with_suffix(f".{name}")
        return path.read_text() if path.exists() else ""


class Drivers:
    """Starts drivers as `python -m` does, from a process that has done the imports."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._directory, self._count = directory, 0
        self._processes: list[multiprocessing.process.BaseProcess] = []

    def start(
        self,
        driver: str,
        *flags: str,
        stdin: str | bytes = b"",
        environment: Mapping[str, str] | None = None,
        constants: Mapping[str, int] | None = None,
        patch: str = "",
    ) -> Running:
        """Starts a driver.

        `constants` of modules, such as "bert_jax.x.SIZE", may be set for it; `patch` is a module of
        the tests whose `install` is called first.
        """
        self._count += 1
        prefix = self._directory / f"{self._count}"
        content = stdin.encode() if isinstance(stdin, str) else stdin
        prefix.with_suffix(".in").write_bytes(content)
        arguments = (f"bert_jax.{driver}", flags, prefix, environment or {}, constants or {}, patch)
        # A daemon could have no processes of its own.
        process = self._context.Process(target=_become, args=arguments)
        process.start()
        self._processes.append(process)
        return Running(process, prefix)

    def run(
        self,
        driver: str,
        *flags: str,
        stdin: str | bytes = b"",
        environment: Mapping[str, str] | None = None,
        constants: Mapping[str, int] | None = None,
        patch: str = "",
    ) -> Result:
        running = self.start(
            driver,
            *flags,
            stdin=stdin,
            environment=environment,
            constants=constants,
            patch=patch,
        )
        return running.wait()

    def end(self) -> None:
        """Ends what is still running."""
        for process in self._processes:
            process.kill()


def _become(
    module: str,
    flags: tuple[str, ...],
    prefix: pathlib.Path,
    environment: Mapping[str, str],
    constants: Mapping[str, int],
    patch: str,
) -> None:
    for number, suffix, mode in ((0, ".in", os.O_RDONLY), (1, ".out", None), (2, ".err", None)):
        mode = os.O_WRONLY | os.O_CREAT | os.O_TRUNC if mode is None else mode
        os.dup2(os.open(prefix.with_suffix(suffix), mode, 0o644), number)
    sys.stdin = open(0, closefd=False)  # multiprocessing gave its children none
    os.environ |= environment
    for name, value in constants.items():
        where, _, constant = name.rpartition(".")
        setattr(importlib.import_module(where), constant, value)
    if patch:
        importlib.import_module(patch).install()
    os.chdir(ROOT)
    sys.argv = [module, *flags]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


@pytest.fixture(scope="session")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drivers]:
    directory = tmp_path_factory.mktemp("drivers")
    # Runs of one config share their compiled programs, which take longer than all else.
    variables = {
        "JAX_COMPILATION_CACHE_DIR": str(directory / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    result = Drivers(directory)
    multiprocessing.set_forkserver_preload(
        [
            "bert_jax.checkpoint",
            "bert_jax.data.loader",
            "bert_jax.data.report",
            "bert_jax.data.rows",
            "bert_jax.data.sampling",
            "bert_jax.data.sources",
            "bert_jax.heads",
            "bert_jax.masking",
            "bert_jax.task_kinds",
            "bert_jax.tokenizer_training",
            "ml_collections.config_flags",
        ]
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        forkserver.ensure_running()
    yield result
    result.end()


def python_m(driver: str, *flags: str) -> Result:
    """Runs a driver exactly as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", f"bert_jax.{driver}", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def write_text(path: pathlib.Path, documents: int, *, seed: int = 0, sentences: int = 6) -> None:
    """Writes documents of short sentences: one a line, an empty line between documents."""
    rng = random.Random(seed)
    words = (
        "red blue old new stone river house tree wind light runs sees holds makes and under".split()
    )

    def sentence() -> str:
        return " ".join(rng.choices(words, k=rng.randint(3, 8)))

    texts = [[sentence() for _ in range(rng.randint(1, sentences))] for _ in range(documents)]
    path.write_text("\n\n".join("\n".join(text) for text in texts) + "\n")


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    write_text(path, 60)
    return path


@pytest.fixture(scope="session")
def corpus(text: pathlib.Path) -> pathlib.Path:
    output = text.parent / "corpus"
    result = python_m("prepare", *prepare_flags(text, output))
    assert result.status == 0, result
    return output


def prepare_flags(text: pathlib.Path, output: pathlib.Path) -> list[str]:
    return [
        f"--source=text:{text}",
        "--tokenizer=train:sentencepiece:40",
        "--heldout_rate=0.1",
        f"--output={output}",
    ]


@pytest.fixture(scope="session")
def pretrain_flags(corpus: pathlib.Path) -> list[str]:
    recipe = corpus.parent / "pretrain_tiny.py"
    recipe.write_text(PRETRAIN_RECIPE)
    return [f"--config={recipe}", f"--config.data.corpus={corpus}"]


@pytest.fixture(scope="session")
def pretrained(drivers: Drivers, pretrain_flags: list[str], corpus: pathlib.Path) -> Run:
    """A pretraining run that nothing disturbed."""
    workdir = corpus.parent / "pretrained"
    result = drivers.run("pretrain", *pretrain_flags, f"--workdir={workdir}")
    assert result.status == 0, result
    return workdir, result


WARM, COLD = ("red", "light", "sun"), ("blue", "wind", "stone")


def write_task(path: pathlib.Path, examples: int, *, seed: int) -> None:
    """Writes a task that the words alone decide."""
    rng = random.Random(seed)
    lines = ["id\tfeel\twords"]
    for number in range(examples):
        words, label = rng.choice([(WARM, "warm"), (COLD, "cold")])
        lines.append(f"{number}\t{label}\t{' '.join(rng.choices(words, k=rng.randint(2, 4)))}")
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("task")
    (directory / "recipe.py").write_text(FINETUNE_RECIPE)
    write_task(directory / "train.tsv", 42, seed=0)
    write_task(directory / "dev.tsv", 17, seed=1)
    return directory


def finetune_flags(task: pathlib.Path, pretrained: Run, workdir: pathlib.Path) -> list[str]:
    return [
        f"--config={task / 'recipe.py'}",
        f"--config.data.train={task / 'train.tsv'}",
        f"--config.data.dev={task / 'dev.tsv'}",
        "--config.data.text_column=words",
        "--config.data.label_column=feel",
        f"--checkpoint={pretrained[0]}",
        f"--workdir={workdir}",
    ]


@pytest.fixture(scope="session")
def finetuned(drivers: Drivers, task: pathlib.Path, pretrained: Run) -> Run:
    result = drivers.run("finetune", *finetune_flags(task, pretrained, task / "run"))
    assert result.status == 0, result
    return task / "run", result


def newest(workdir: pathlib.Path) -> pathlib.Path:
    return workdir / FOLDER / str(steps_in(workdir)[-1])


def abstract_of(checkpoint: pathlib.Path) -> TrainState:
    """Returns what a pretraining checkpoint must hold."""
    config = from_dict(PretrainConfig, read_facts(checkpoint)["config"])
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    tx = make_optimizer(config.optimizer, config.steps)
    return abstract_state(PretrainingModel(config.encoder, config.data.objective), tx, mesh)


def state_of(checkpoint: pathlib.Path) -> TrainState:
    return restore_state(checkpoint, abstract_of(checkpoint))


def assert_same_bits(ours: object, theirs: object) -> None:
    ours, theirs = jax.device_get((ours, theirs))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


# What depends on the clock.
_TIMINGS = {"tokens_per_second", "tokens_per_second_per_device", "model_flops_per_second"}
_TIMINGS |= {"memory_bytes", "data_wait_share", "evaluation_seconds", "checkpoint_seconds"}


def log_of(workdir: pathlib.Path) -> list[dict]:
    """Reads a run's log without what depends on the clock."""
    entries = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in entry.items() if k not in _TIMINGS} for entry in entries]


@contextlib.contextmanager
def small_disk(directory: pathlib.Path, size: str) -> Iterator[pathlib.Path]:
    """Mounts a disk that fills up soon; skips the test where that is not permitted."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)
