"""Times and memory of every part, compared with transformers and with the machine's limits.

    python -m benchmarks.bench --output=runs/bench
    python -m benchmarks.bench --small --output=runs/bench
    python -m benchmarks.bench --gpu --output=runs/bench

`make bench` runs it. Without --text, --train and --dev it measures on the docstrings of installed
packages, as the quickstart does. It prints a table and writes it to OUTPUT/bench.md, with all
figures in OUTPUT/bench.json. It appends the ratios to benchmarks/history.jsonl, and lists those
that are more than a tenth worse than their median in the last five runs of the same scale on the
same kind of machine. --small measures small models and little text, and tells ratios alone.

If a section fails, the others still run, what was measured is written, and the exit status is 1;
OUTPUT/SECTION.log has what the failed program printed.
"""

import dataclasses
import datetime
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import app, flags

from benchmarks.report import FailedProgram, Row, measure, slower, table
from benchmarks.turns import Figures
from bert_jax.config import ExampleFormat
from bert_jax.data.corpus.documents import Layout
from bert_jax.data.corpus.python_docs import python_docstrings
from launch.quickstart import write_labels

_OUTPUT = flags.DEFINE_string("output", "runs/bench", "directory for tables and prepared texts")
_TEXT = flags.DEFINE_string("text", "", "a glob of text files; '': docstrings")
_LAYOUT = flags.DEFINE_enum_class("layout", Layout.LINES, Layout, "of the text")
_TRAIN = flags.DEFINE_string("train", "", "lines `sentence TAB label`; '': docstrings")
_DEV = flags.DEFINE_string("dev", "", "the same, held out")
_VOCAB = flags.DEFINE_string("vocab", "", "vocab.txt of a WordPiece tokenizer; '': trained")
_GPU = flags.DEFINE_bool("gpu", False, "measure on a GPU: bfloat16, larger models")
_SMALL = flags.DEFINE_bool("small", False, "measure small models, in about three minutes")
_ONLY = flags.DEFINE_list("only", [], "sections to run; none: all")
_HISTORY = flags.DEFINE_string("history", "benchmarks/history.jsonl", "file to append to; '': none")

_VOCABULARY = 8000  # pieces of the tokenizer that is trained on the docstrings


class Texts:
    """The texts to measure on, prepared at first use."""

    def __init__(self, folder: pathlib.Path) -> None:
        """Takes the folder for prepared files."""
        self._folder = folder

    @property
    def text(self) -> str:
        """Glob of text files, one sentence per line."""
        path = self._folder / "docstrings.txt"
        if not _TEXT.value and not path.exists():
            documents = ("\n".join(each.sentences) for each in python_docstrings())
            path.write_text("\n\n".join(documents))
        return _TEXT.value or str(path)

    @property
    def corpus(self) -> str:
        """Directory of the corpus that `prepare` makes of the text."""
        corpus = self._folder / "corpus"
        if not corpus.exists():
            tokenizer = _VOCAB.value or f"train:wordpiece:{_VOCABULARY}"
            run(
                "bert_jax.prepare",
                f"--source=text:{self.text}",
                f"--layout={_LAYOUT.value.value}",
                f"--tokenizer={tokenizer}",
                f"--output={corpus}",
            )
        return str(corpus)

    @property
    def vocab(self) -> str:
        """Path of a vocab.txt."""
        return _VOCAB.value or str(pathlib.Path(self.corpus) / "tokenizer" / "vocab.txt")

    @property
    def labels(self) -> tuple[str, str]:
        """Paths of the training and held-out splits: lines `sentence TAB label`, label 0 or 1."""
        if _TRAIN.value:
            return _TRAIN.value, _DEV.value
        folder = self._folder / "labels"
        if not folder.exists():
            write_labels(folder)
        return tuple(str(_two_classes(folder / f"{split}.tsv")) for split in ("train", "dev"))  # pyright: ignore[reportReturnType]


def _two_classes(path: pathlib.Path) -> pathlib.Path:
    """Writes a copy of a file without its header line, with labels 0 and 1 for its two classes."""
    _, *rows = [line.split("\t") for line in path.read_text().splitlines()]
    first = min(label for _, label in rows)
    target = path.with_suffix(".lines.tsv")
    target.write_text("\n".join(f"{text}\t{int(label != first)}" for text, label in rows))
    return target


def run(module: str, *arguments: str) -> Figures:
    """Runs a module and returns the JSON object on the last line of its output; {} for none.

    Raises:
      FailedProgram: if it fails.
    """
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        reason = f"{module}: exit status {done.returncode}" + (f": {lines[-1]}" if lines else "")
        raise FailedProgram(reason, "\n".join([" ".join(command), done.stdout, done.stderr]))
    last = (done.stdout.strip().splitlines() or ["{}"])[-1]
    return json.loads(last) if last.startswith("{") else {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes of a run.

    Attributes:
      name: in the history.
      sections: of `SECTIONS`.
      steps: size, rows, tokens in a row, type and turns of each model whose step is measured.
      remat: measure the memory of base without its activations, too.
      text_model: size and rows of the model that reads real text: common batch sizes, as padding
        grows with the number of examples.
      text_forms: formats of its examples.
      text_batches: of each form.
      tuning_examples: in an epoch of fine-tuning.
      saved: the model whose checkpoint is written and read.
    """

    name: str
    sections: tuple[str, ...]
    steps: tuple[tuple[str, int, int, str, int], ...]
    remat: bool
    text_model: tuple[str, int]
    text_forms: tuple[ExampleFormat, ...]
    text_batches: int
    tuning_examples: int
    saved: str


_PAIRS = (ExampleFormat.SEGMENT_PAIR, ExampleFormat.SENTENCE_PAIR)
_CPU = Scale(
    name="large",
    sections=("steps", "text", "tuning", "data", "checkpoints", "starting"),
    steps=(
        ("mini", 16, 128, "float32", 10),
        ("mini", 16, 128, "bfloat16", 5),
        ("base", 8, 128, "float32", 7),
        ("base", 2, 512, "float32", 7),
    ),
    remat=True,
    text_model=("mini", 16),
    text_forms=_PAIRS,
    text_batches=3,
    tuning_examples=800,
    saved="base",
)
_SMALL_CPU = Scale(
    name="small",
    sections=("steps", "text", "data", "checkpoints"),
    steps=(("mini", 8, 128, "float32", 7), ("small", 4, 128, "float32", 5)),
    remat=False,
    text_model=("tiny", 2),
    text_forms=_PAIRS[:1],
    text_batches=2,
    tuning_examples=160,
    saved="small",
)
_ON_GPU = dataclasses.replace(
    _CPU,
    steps=(
        ("base", 256, 128, "bfloat16", 20),
        ("base", 64, 512, "bfloat16", 20),
        ("large", 32, 512, "bfloat16", 20),
    ),
    remat=False,
    text_model=("base", 64),
)


def steps(scale: Scale, _: Texts) -> Iterator[Row]:
    """Yields the train step on full rows, its memory, and the machine's matrix rate."""
    if _GPU.value:
        run("benchmarks.device_parity")  # no timing of wrong results
    shapes = [(*shape, False) for shape in scale.steps]
    if _GPU.value:  # neither our kernel nor the peer's has attention dropout
        shapes += [(*shape, True) for shape in scale.steps]
    for size, rows, length, dtype, turns, is_fused in shapes:
        shared = [f"--size={size}", f"--batch={rows}", f"--length={length}", f"--dtype={dtype}"]
        name = f"{size} {rows} x {length} {dtype}"
        if _GPU.value:
            shared.append("--theirs=--compile")
        if is_fused:
            shared += ["--noattention_dropout", "--ours=--attention=fused"]
            name += ", fused attention"
        figures = run("benchmarks.pretrain_step", f"--turns={turns}", *shared)
        yield Row(
            f"step, {name}",
            figures["tokens_per_second"],
            "tokens/s",
            figures["ratio"],
            figures["of_matrix_rate"],
            "transformers; products of the step's shapes",
        )
        yield Row(
            f"matrix rate, {name}",
            figures["matrix_rate"] / 1e9,
            "GFLOP/s",
            None,
            figures["matrix_rate"] / figures["large_matrix_rate"],
            "one large product",
        )
        yield _memory_row(name, figures)
    if scale.remat:
        frugal = ["--turns=3", "--ours=--remat=inputs"]
        figures = run("benchmarks.pretrain_step", "--size=base", *frugal)
        yield _memory_row("base 8 x 128 float32, remat=inputs", figures)


def _memory_row(name: str, figures: Figures) -> Row:
    return Row(
        f"memory, {name}",
        figures["peak_bytes"] / 1e9,
        "GB",
        1 / figures["memory_ratio"],
        None,
        "transformers' peak over ours",
    )


def text(scale: Scale, texts: Texts) -> Iterator[Row]:
    """Yields the train step on real text: packed in this project, padded in transformers."""
    size, rows = scale.text_model
    for form in scale.text_forms:
        figures = run(
            "benchmarks.real_text",
            f"--corpus={texts.corpus}",
            f"--format={form.name}",
            f"--size={size}",
            f"--rows={rows}",
            f"--batches={scale.text_batches}",
        )
        yield Row(
            f"packed text, {form.value}, {size} {rows} x 512",
            figures["tokens_per_second"],
            "real tokens/s",
            figures["ratio"],
            figures["of_matrix_rate"],
            f"transformers, {figures['peer_fill']:.0%} full against {figures['fill']:.0%}",
        )


def tuning(scale: Scale, texts: Texts) -> Iterator[Row]:
    """Yields fine-tuning on sentences."""
    train, dev = texts.labels
    figures = run(
        "benchmarks.finetune",
        f"--vocab={texts.vocab}",
        f"--train={train}",
        f"--dev={dev}",
        f"--examples={scale.tuning_examples}",
    )["real_tokens_per_second"]
    for part, name in (("train", "training"), ("all", "with evaluation")):
        yield Row(
            f"fine-tuning, {name}",
            figures[f"ours_{part}"],
            "real tokens/s",
            figures[f"ratio_{part}"],
            None,
            "transformers, padded to the longest of 32",
        )


def data(_: Scale, texts: Texts) -> Iterator[Row]:
    """Yields the loader against the step of mini, and `prepare` against the tokenizer's library."""
    loaded = run("benchmarks.data", f"--corpus={texts.corpus}", "--batches=40")
    step = run("benchmarks.pretrain_step", "--size=mini", "--batch=8", "--turns=3", "--nopeer")
    yield Row(
        "input pipeline",
        loaded["tokens_per_second"],
        "tokens/s",
        None,
        loaded["tokens_per_second"] / step["tokens_per_second"],
        "the step of mini",
    )
    figures = run(
        "benchmarks.prepare",
        f"--source=text:{texts.text}",
        f"--layout={_LAYOUT.value.value}",
        f"--tokenizer={texts.vocab}",
        f"--workers={os.cpu_count()}",
    )
    yield Row(
        "prepare",
        figures["tokens_per_second"],
        "tokens/s",
        None,
        figures["cpu_ratio"],
        "the tokenizer's library alone, CPU time",
    )


def checkpoints(scale: Scale, _: Texts) -> Iterator[Row]:
    """Yields saving and restoring a checkpoint."""
    figures = run("benchmarks.checkpoints", f"--size={scale.saved}")
    for name, limit in (("save", "write"), ("restore", "read"), ("restore_cold", "read_cold")):
        yield Row(
            f"checkpoint, {name.replace('_', ', ')}",
            figures["bytes"] / figures[name] / 1e6,
            "MB/s",
            None,
            figures[limit] / figures[name],
            f"plain file: {limit.replace('_', ', ')}, as many bytes",
        )


def starting(_: Scale, texts: Texts) -> Iterator[Row]:
    """Yields the seconds from the start of the process to the end of the first step."""
    figures = run("benchmarks.startup", f"--corpus={texts.corpus}")
    for kind, parts in figures.items():
        shares = ", ".join(f"{name} {value:.1f}" for name, value in parts.items() if name != "all")
        yield Row(f"start of base, {kind} cache", parts["all"], "s", None, None, shares)


SECTIONS: dict[str, Callable[[Scale, Texts], Iterator[Row]]] = {
    "steps": steps,
    "text": text,
    "tuning": tuning,
    "data": data,
    "checkpoints": checkpoints,
    "starting": starting,
}


def machine() -> str:
    """Returns the kind of machine: its GPU, or the number and model of its CPU cores."""
    if _GPU.value:
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()
    info = pathlib.Path("/proc/cpuinfo")
    names = [n for n in info.read_text().splitlines() if "model name" in n] if info.exists() else []
    name = names[0].partition(":")[2].strip() if names else platform.processor()
    return f"{os.cpu_count()} cores of {name}"


def entry_of(scale: Scale, rows: Sequence[Row]) -> dict[str, Any]:
    """Returns the entry of this run in the history."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True
    ).stdout.strip()
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit,
        "machine": machine(),
        "scale": scale.name,
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")},
        "ratios": {
            f"{row.name}: {name}": round(value, 3)
            for row in rows
            for name, value in (("of the peer", row.of_peer), ("of the limit", row.of_limit))
            if value is not None
        },
    }


def main(_: list[str]) -> None:
    """Measures, then prints and writes the table."""
    if _GPU.value and _SMALL.value:
        raise SystemExit("--small is for CPUs: leave out --gpu, or --small")
    if unknown := set(_ONLY.value) - set(SECTIONS):
        names = ", ".join(SECTIONS)
        raise SystemExit(f"--only={','.join(sorted(unknown))} is no section: choose of {names}")
    scale = _ON_GPU if _GPU.value else _SMALL_CPU if _SMALL.value else _CPU
    folder = pathlib.Path(_OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    texts = Texts(folder)
    sections = {
        name: functools.partial(SECTIONS[name], scale, texts)
        for name in _ONLY.value or scale.sections
    }

    def page(rows: Sequence[Row]) -> str:
        entry = entry_of(scale, rows)
        head = f"{entry['machine']}, {entry['date']}, {entry['commit']}"
        return f"{head}\n\n{table(rows, ratios_alone=_SMALL.value)}"

    def write(rows: Sequence[Row], failed: Sequence[str]) -> None:
        (folder / "bench.md").write_text(page(rows) + "\n")
        details = {"rows": [dataclasses.asdict(row) for row in rows], "failed": failed}
        written = json.dumps(entry_of(scale, rows) | details, indent=1)
        (folder / "bench.json").write_text(written + "\n")

    rows, failed = measure(sections, folder, write)
    print(page(rows))
    entry = entry_of(scale, rows)
    if _HISTORY.value:
        history = pathlib.Path(_HISTORY.value)
        lines = history.read_text().splitlines() if history.exists() else []
        for line in slower(entry, list(map(json.loads, lines))):
            print(f"worse than in the last runs: {line}")
        with history.open("a") as file:
            file.write(json.dumps(entry) + "\n")
    if failed:
        raise SystemExit("\n".join(f"failed: {each}" for each in failed))


if __name__ == "__main__":
    app.run(main)
