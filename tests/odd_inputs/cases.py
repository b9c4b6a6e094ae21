"""A case: one odd input for one driver, and what may come of it."""

import dataclasses
import json
import math
import os
import pathlib
import random
import re
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from tests.fixtures.drivers import (
    FINETUNE_RECIPE,
    PRETRAIN_RECIPE,
    Drivers,
    Result,
    python_m,
    write_task,
    write_text,
)

WORDS = "red blue old new stone river house tree wind light".split()


class Fault(Exception):
    """A driver ended in a way that no input may cause."""


def expect(is_right: object, what: str) -> None:
    """Raises Fault unless something is right."""
    if not is_right:
        raise Fault(what)


@dataclasses.dataclass(frozen=True)
class Case:
    """An input.

    Attributes:
      driver: name of the driver.
      flags: of its command line.
      confirm: raises Fault if the result of status 0 is not what the oracle says.
      output: what a refusal must leave as it was, with all that is beside it.
      stdin: standard input.
      environment: if given, the driver starts as a process of its own with these variables.
    """

    driver: str
    flags: tuple[str, ...]
    confirm: Callable[[Result], None]
    output: pathlib.Path | None = None
    stdin: bytes = b""
    environment: Mapping[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class Material:
    """What is valid, to be mutated: made once, and never written again."""

    folder: pathlib.Path
    drivers: Drivers

    @property
    def text(self) -> pathlib.Path:
        """The text of the corpus."""
        return self.folder / "text.txt"

    @property
    def vocabulary(self) -> pathlib.Path:
        """The WordPiece tokenizer of the corpus."""
        return self.folder / "corpus/tokenizer"

    def run(self, task: str) -> pathlib.Path:
        """Returns a trained run: `pretraining`, `classification`, `tags` or `spans`."""
        return self.folder / task

    def answers(self, task: str) -> str:
        """Returns what `predict --text='red light sun' --json` prints for a run."""
        return (self.folder / f"{task}.answers").read_text()


Kind = Callable[[random.Random, Material, pathlib.Path], Case]  # the path: an empty folder


def make_material(folder: pathlib.Path, drivers: Drivers) -> Material:
    """Trains a small model of each kind."""
    made = Material(folder, drivers)
    write_text(made.text, 60)
    (folder / "pretrain.py").write_text(PRETRAIN_RECIPE)
    (folder / "finetune.py").write_text(FINETUNE_RECIPE)
    flags = f"--source=text:{made.text}", "--tokenizer=train:wordpiece:80", "--heldout_rate=0.1"
    _run(drivers, "prepare", *flags, f"--output={folder / 'corpus'}")
    corpus = f"--config.data.corpus={folder / 'corpus'}"
    workdir = f"--workdir={made.run('pretraining')}"
    _run(drivers, "pretrain", f"--config={folder / 'pretrain.py'}", corpus, workdir)
    write_task(folder / "task.tsv", 40, seed=0)
    (folder / "tags.conll").write_text(tagged_text(random.Random(0), 40))
    (folder / "questions.json").write_text(json.dumps(questions(random.Random(0), 30)))
    tasks = {
        "classification": ("task.tsv", "data.text_column=words", "data.label_column=feel"),
        "tags": ("tags.conll", "data.length=20", "data.stride=8"),
        "spans": ("questions.json", "data.length=32", "data.stride=8"),
    }
    for task, (name, *config) in tasks.items():
        config += [f"task={task}", f"data.train={folder / name}", f"data.dev={folder / name}"]
        _run(
            drivers,
            "finetune",
            f"--config={folder / 'finetune.py'}",
            f"--checkpoint={made.run('pretraining')}",
            f"--workdir={made.run(task)}",
            *(f"--config.{each}" for each in config),
        )
    text = "--text=red light sun", "--json"
    result = drivers.run("predict", f"--checkpoint={made.run('classification')}", *text)
    (folder / "classification.answers").write_text(result.out)
    for task in ("pretraining", *tasks):
        source, target = f"--from={made.run(task)}", f"--to=hf:{folder / 'hf' / task}"
        _run(drivers, "convert", source, target, "--noverify")
    return made


def _run(drivers: Drivers, *words: str) -> None:
    result = drivers.run(*words)
    assert result.status == 0, result


def tagged_text(rng: random.Random, sentences: int) -> str:
    """Returns sentences in CoNLL's columns; colours are entities."""
    tags = {"red": "B-HUE", "blue": "I-HUE"}
    blocks = []
    for _ in range(sentences):
        words = rng.choices(WORDS, k=rng.randint(1, 9))
        blocks.append("".join(f"{word}\t{tags.get(word, 'O')}\n" for word in words))
    return "\n".join(blocks)


def questions(rng: random.Random, count: int) -> dict[str, Any]:
    """Returns questions in SQuAD's form, a third of them unanswerable."""
    items = []
    for number in range(count):
        words = rng.sample(WORDS, k=6)
        word, context = rng.choice(WORDS), " ".join(words)
        answers = [{"text": word, "answer_start": context.find(word)}] if word in words else []
        qa = {"id": f"{number}", "question": word, "answers": answers}
        items.append({"context": context, "qas": [qa | {"is_impossible": not answers}]})
    return {"version": "v2.0", "data": [{"title": "t", "paragraphs": items}]}


def try_case(case: Case, drivers: Drivers) -> str:
    """Runs a case; returns "confirmed" or "refused".

    Raises:
      Fault: if it is neither.
    """
    before = _beside(case.output)
    if case.environment is None:
        result = drivers.run(case.driver, *case.flags, stdin=case.stdin)
    else:
        result = python_m(case.driver, *case.flags, environment=case.environment)
    expect("Traceback" not in result.err, f"a traceback:\n{result.err[-3000:]}")
    if result.status == 0:
        case.confirm(result)
        return "confirmed"
    expect(result.status == 1, f"status {result.status}:\n{result.err[-2000:]}")
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    is_one = len(errors) == 1 and result.err.endswith(f"{errors[0]}\n")
    expect(is_one, f"not one line at the end:\n{result.err[-2000:]}")
    left = _beside(case.output) - before
    expect(not left, f"left behind {left} after {errors[0]}")
    return "refused"


def _beside(output: pathlib.Path | None) -> set[str]:
    """Returns the names in the folder of an output."""
    return set(os.listdir(output.parent)) if output and output.parent.is_dir() else set()


def check_finite(value: Any) -> None:
    """Raises Fault if a number in parsed JSON is not finite."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            check_finite(each)
    elif isinstance(value, float):
        expect(math.isfinite(value), f"{value} is written")


def read_lines_of_json(text: str) -> list[Any]:
    """Parses JSON lines, all of whose numbers must be finite."""
    found = [json.loads(line) for line in text.split("\n") if line]
    check_finite(found)
    return found


def copied(folder: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """Copies a folder to where it may be damaged."""
    return pathlib.Path(shutil.copytree(folder, target))


def shown(case: Case) -> str:
    """Returns the command of a case, for a person to repeat."""
    variables = [f"{name}={value!r}" for name, value in (case.environment or {}).items()]
    flags = [re.sub(r"[^\x20-\x7e]", lambda c: repr(c[0])[1:-1], flag) for flag in case.flags]
    return " ".join([*variables, f"bert_jax.{case.driver}", *map(repr, flags)])
