"""Every part that costs time or memory, beside its peer and its limit, in one run: `make bench`.

    python -m benchmarks.bench --output=runs/bench
    python -m benchmarks.bench --gpu --output=runs/bench

Without --text, --train and --dev the texts are the docstrings of installed packages, as in the
quickstart. A table is printed and written to OUTPUT/bench.md, all figures to OUTPUT/bench.json.
Their ratios are appended to benchmarks/history.jsonl, and those that have become worse by more
than a tenth since the last run on such a machine are named at the end.

A section that fails is told, and the others go on; the exit status is then 1.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import app, flags

from benchmarks.report import Row, slower, table
from benchmarks.turns import Facts
from bert_jax.config import ExampleFormat
from bert_jax.data.corpus.documents import Layout
from bert_jax.data.corpus.python_docs import python_docstrings
from launch.quickstart import write_labels

_OUTPUT = flags.DEFINE_string("output", "runs/bench", "where tables go, and what is prepared")
_TEXT = flags.DEFINE_string("text", "", "a glob of text files; '': docstrings")
_LAYOUT = flags.DEFINE_enum_class("layout", Layout.LINES, Layout, "of the text")
_TRAIN = flags.DEFINE_string("train", "", "lines `sentence TAB label`; '': docstrings")
_DEV = flags.DEFINE_string("dev", "", "the same, held out")
_VOCAB = flags.DEFINE_string("vocab", "", "vocab.txt of a WordPiece tokenizer; '': trained")
_GPU = flags.DEFINE_bool("gpu", False, "the rows of a GPU: bfloat16, larger models")
_ONLY = flags.DEFINE_list("only", [], "sections; none: all")
_HISTORY = flags.DEFINE_string("history", "benchmarks/history.jsonl", "is appended to; '': nothing")

_VOCABULARY = 8000  # of the tokenizer that is trained on the docstrings


class Places:
    """The texts that are measured on; prepared when they are first asked for."""

    def __init__(self, folder: pathlib.Path) -> None:
        """Takes the folder for what has to be made."""
        self._folder = folder

    @property
    def text(self) -> str:
        """A glob of text, a sentence a line."""
        path = self._folder / "docstrings.txt"
        if not _TEXT.value and not path.exists():
            documents = ("\n".join(each.sentences) for each in python_docstrings())
            path.write_text("\n\n".join(documents))
        return _TEXT.value or str(path)

    @property
    def corpus(self) -> str:
        """A directory that `prepare` made of it."""
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
        """A vocab.txt."""
        return _VOCAB.value or str(pathlib.Path(self.corpus) / "tokenizer" / "vocab.txt")

    @property
    def labels(self) -> tuple[str, str]:
        """Training and held-out lines `sentence TAB label`, labels 0 and 1."""
        if _TRAIN.value:
            return _TRAIN.value, _DEV.value
        folder = self._folder / "labels"
        if not folder.exists():
            write_labels(folder)
        return tuple(str(_two_classes(folder / f"{split}.tsv")) for split in ("train", "dev"))  # pyright: ignore[reportReturnType]


def _two_classes(path: pathlib.Path) -> pathlib.Path:
    """Writes the lines of a file with a header and named labels as `finetune` has them."""
    _, *rows = [line.split("\t") for line in path.read_text().splitlines()]
    first = min(label for _, label in rows)
    target = path.with_suffix(".lines.tsv")
    target.write_text("\n".join(f"{text}\t{int(label != first)}" for text, label in rows))
    return target


def run(module: str, *arguments: str) -> Facts:
    """Runs a module; returns its last line, where that is JSON."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{module}: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    last = (done.stdout.strip().splitlines() or ["{}"])[-1]
    return json.loads(last) if last.startswith("{") else {}


# size, rows, tokens in a row, type, turns
_CPU_STEPS = (
    ("mini", 16, 128, "float32", 10),
    ("mini", 16, 128, "bfloat16", 5),
    ("base", 8, 128, "float32", 7),
    ("base", 2, 512, "float32", 7),
)
_GPU_STEPS = (
    ("base", 256, 128, "bfloat16", 20),
    ("base", 64, 512, "bfloat16", 20),
    ("large", 32, 512, "bfloat16", 20),
)


def steps(_: Places) -> Iterator[Row]:
    """The train step on full rows, its memory, and the machine's matrix rate."""
    if _GPU.value:
        run("benchmarks.device_parity")  # what is wrong need not be timed
    shapes = [(*shape, False) for shape in (_GPU_STEPS if _GPU.value else _CPU_STEPS)]
    if _GPU.value:  # its kernel, and the peer's, have no dropout of attention
        shapes += [(*shape, True) for shape in _GPU_STEPS]
    for size, rows, length, dtype, turns, is_fused in shapes:
        shared = [f"--size={size}", f"--batch={rows}", f"--length={length}", f"--dtype={dtype}"]
        name = f"{size} {rows} x {length} {dtype}"
        if _GPU.value:
            shared.append("--theirs=--compile")
        if is_fused:
            shared += ["--noattention_dropout", "--ours=--attention=fused"]
            name += ", fused attention"
        facts = run("benchmarks.pretrain_step", f"--turns={turns}", *shared)
        yield Row(
            f"step, {name}",
            facts["tokens_per_second"],
            "tokens/s",
            facts["ratio"],
            facts["of_matrix_rate"],
            "transformers; products of the step's shapes",
        )
        yield Row(
            f"matrix rate, {name}",
            facts["matrix_rate"] / 1e9,
            "GFLOP/s",
            None,
            facts["matrix_rate"] / facts["large_matrix_rate"],
            "one large product",
        )
        yield _memory_row(name, facts)
    if not _GPU.value:
        frugal = ["--turns=3", "--ours=--remat=inputs"]
        facts = run("benchmarks.pretrain_step", "--size=base", *frugal)
        yield _memory_row("base 8 x 128 float32, remat=inputs", facts)


def _memory_row(name: str, facts: Facts) -> Row:
    return Row(
        f"memory, {name}",
        facts["peak_bytes"] / 1e9,
        "GB",
        1 / facts["memory_ratio"],
        None,
        "transformers' peak over ours",
    )


def text(places: Places) -> Iterator[Row]:
    """The train step on real text: packed here, padded there."""
    # As many examples as peers take in a batch: padding grows with their number.
    size, rows = ("base", 64) if _GPU.value else ("mini", 16)
    for form in (ExampleFormat.SEGMENT_PAIR, ExampleFormat.SENTENCE_PAIR):
        facts = run(
            "benchmarks.real_text",
            f"--corpus={places.corpus}",
            f"--format={form.name}",
            f"--size={size}",
            f"--rows={rows}",
        )
        yield Row(
            f"packed text, {form.value}, {size} {rows} x 512",
            facts["tokens_per_second"],
            "real tokens/s",
            facts["ratio"],
            facts["of_matrix_rate"],
            f"transformers, {facts['peer_fill']:.0%} full against {facts['fill']:.0%}",
        )


def tuning(places: Places) -> Iterator[Row]:
    """Fine-tuning on sentences."""
    train, dev = places.labels
    facts = run(
        "benchmarks.finetune",
        f"--vocab={places.vocab}",
        f"--train={train}",
        f"--dev={dev}",
        "--examples=800",
    )["real_tokens_per_second"]
    for part, name in (("train", "training"), ("all", "with evaluation")):
        yield Row(
            f"fine-tuning, {name}",
            facts[f"ours_{part}"],
            "real tokens/s",
            facts[f"ratio_{part}"],
            None,
            "transformers, padded to the longest of 32",
        )


def data(places: Places) -> Iterator[Row]:
    """The loader beside what a step of mini takes, and preparing a corpus beside the tokenizer."""
    loaded = run("benchmarks.data", f"--corpus={places.corpus}", "--batches=40")
    step = run("benchmarks.pretrain_step", "--size=mini", "--batch=16", "--turns=3", "--nopeer")
    yield Row(
        "input pipeline",
        loaded["tokens_per_second"],
        "tokens/s",
        None,
        loaded["tokens_per_second"] / step["tokens_per_second"],
        "what the step of mini takes",
    )
    facts = run(
        "benchmarks.prepare",
        f"--source=text:{places.text}",
        f"--layout={_LAYOUT.value.value}",
        f"--tokenizer={places.vocab}",
        f"--workers={os.cpu_count()}",
    )
    yield Row(
        "prepare",
        facts["tokens_per_second"],
        "tokens/s",
        None,
        facts["cpu_ratio"],
        "the tokenizer's library alone, CPU time",
    )


def checkpoints(_: Places) -> Iterator[Row]:
    """Saving and restoring."""
    facts = run("benchmarks.checkpoints", "--size=base")
    for name, limit in (("save", "write"), ("restore", "read")):
        yield Row(
            f"checkpoint, {name}",
            facts["bytes"] / facts[name] / 1e6,
            "MB/s",
            None,
            facts[limit] / facts[name],
            f"to {limit} as many bytes",
        )


def starting(places: Places) -> Iterator[Row]:
    """From the start of the process to the end of the first step."""
    facts = run("benchmarks.startup", f"--corpus={places.corpus}")
    for kind, parts in facts.items():
        told = ", ".join(f"{name} {value:.1f}" for name, value in parts.items() if name != "all")
        yield Row(f"start of base, {kind} cache", parts["all"], "s", None, None, told)


SECTIONS: dict[str, Callable[[Places], Iterator[Row]]] = {
    "steps": steps,
    "text": text,
    "tuning": tuning,
    "data": data,
    "checkpoints": checkpoints,
    "starting": starting,
}


def machine() -> str:
    """Names the machine, for comparing runs on such a one."""
    if _GPU.value:
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()
    info = pathlib.Path("/proc/cpuinfo")
    names = [n for n in info.read_text().splitlines() if "model name" in n] if info.exists() else []
    name = names[0].partition(":")[2].strip() if names else platform.processor()
    return f"{os.cpu_count()} cores of {name}"


def entry_of(rows: Sequence[Row]) -> dict[str, Any]:
    """Returns a line of the history."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True
    ).stdout.strip()
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit,
        "machine": machine(),
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")},
        "ratios": {
            f"{row.what}: {name}": round(value, 3)
            for row in rows
            for name, value in (("of the peer", row.of_peer), ("of the limit", row.of_limit))
            if value is not None
        },
    }


def main(_: list[str]) -> None:
    """Measures section after section, and tells."""
    folder = pathlib.Path(_OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    places, rows, failed = Places(folder), [], []
    for name in _ONLY.value or SECTIONS:
        begin = time.monotonic()
        try:
            for row in SECTIONS[name](places):
                rows.append(row)
                print(f"{row.what}: {row.value:,.4g} {row.unit}", file=sys.stderr, flush=True)
        except (RuntimeError, SystemExit) as error:
            failed.append(f"{name}: {error}")
        print(f"({name}: {time.monotonic() - begin:.0f} s)", file=sys.stderr, flush=True)
    entry = entry_of(rows)
    told = f"{entry['machine']}, {entry['date']}, {entry['commit']}\n\n{table(rows)}"
    print(told)
    (folder / "bench.md").write_text(told + "\n")
    details = entry | {"rows": [dataclasses.asdict(row) for row in rows]}
    (folder / "bench.json").write_text(json.dumps(details, indent=1) + "\n")
    if _HISTORY.value:
        history = pathlib.Path(_HISTORY.value)
        lines = history.read_text().splitlines() if history.exists() else []
        for line in slower(entry, list(map(json.loads, lines))):
            print(f"worse than before: {line}")
        with history.open("a") as file:
            file.write(json.dumps(entry) + "\n")
    if failed:
        raise SystemExit("failed: " + "; ".join(failed))


if __name__ == "__main__":
    app.run(main)
