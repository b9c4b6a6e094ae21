"""GLUE's tasks, from files as its archive has them and from TFDS: the same either way."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bert_jax.config import TaskKind
from bert_jax.data.tasks.splits import Task
from bert_jax.errors import UserError
from bert_jax.tasks.kinds import chosen_metric, read_task
from configs import glue
from tests.fixtures.data import LETTER_TOKENIZER as TOKENIZER
from tests.fixtures.data import LETTERS
from tests.fixtures.tfds import build_dataset

# As in GLUE's archive: the header of the file (CoLA has none) and where texts and label are.
# As in TFDS: names of texts, and of the labels 0, 1, ...
TASKS: dict[str, tuple[str, tuple[str, ...], str, tuple[str, ...], list[str]]] = {
    "cola": ("source label mark text", ("text",), "label", ("sentence",), ["un", "acceptable"]),
    "sst2": ("sentence label", ("sentence",), "label", ("sentence",), ["negative", "positive"]),
    "mrpc": (
        "Quality,#1 ID,#2 ID,#1 String,#2 String",
        ("#1 String", "#2 String"),
        "Quality",
        ("sentence1", "sentence2"),
        ["not_equivalent", "equivalent"],
    ),
    "qqp": (
        "id qid1 qid2 question1 question2 is_duplicate",
        ("question1", "question2"),
        "is_duplicate",
        ("question1", "question2"),
        ["not_duplicate", "duplicate"],
    ),
    "stsb": (
        "index genre sentence1 sentence2 score",
        ("sentence1", "sentence2"),
        "score",
        ("sentence1", "sentence2"),
        [],
    ),
    "mnli": (
        "index genre sentence1 sentence2 label1 gold_label",
        ("sentence1", "sentence2"),
        "gold_label",
        ("premise", "hypothesis"),
        ["entailment", "neutral", "contradiction"],
    ),
    "qnli": (
        "index question sentence label",
        ("question", "sentence"),
        "label",
        ("question", "sentence"),
        ["entailment", "not_entailment"],
    ),
    "rte": (
        "index sentence1 sentence2 label",
        ("sentence1", "sentence2"),
        "label",
        ("sentence1", "sentence2"),
        ["entailment", "not_entailment"],
    ),
    "wnli": (
        "index sentence1 sentence2 label",
        ("sentence1", "sentence2"),
        "label",
        ("sentence1", "sentence2"),
        ["not_entailment", "entailment"],
    ),
}
NUMBERED = ("cola", "sst2", "mrpc", "qqp", "wnli")  # whose files have 0 and 1 for labels


def examples(task: str) -> list[tuple[list[str], float]]:
    """Makes texts and a label each."""
    rng = np.random.default_rng(0)
    texts, labels = len(TASKS[task][1]), TASKS[task][4]
    return [
        (
            [" ".join(rng.choice(list(LETTERS), 4)) + ' "q' for _ in range(texts)],
            float(rng.integers(len(labels))) if labels else float(rng.integers(0, 21)) / 4,
        )
        for _ in range(12)
    ]


def write_file(task: str, path: Path) -> None:
    header, texts, label, _, labels = TASKS[task]
    columns = header.split("," if "," in header else " ")
    lines = [] if task == "cola" else ["\t".join(columns)]
    for values, number in examples(task):
        cells = dict.fromkeys(columns, "x") | dict(zip(texts, values, strict=True))
        named = bool(labels) and task not in NUMBERED
        cells[label] = labels[int(number)] if named else f"{number:g}"
        lines.append("\t".join(cells.values()))
    path.write_text("\n".join(lines) + "\n")


class Glue(tfds.core.GeneratorBasedBuilder):
    """GLUE as TFDS has it, with the examples above."""

    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name=name, description="of the test") for name in TASKS
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        _, _, _, texts, labels = TASKS[self.builder_config.name]
        label = tfds.features.ClassLabel(names=labels) if labels else np.float32
        features: dict[str, Any] = {name: tfds.features.Text() for name in texts}
        features |= {"label": label, "idx": np.int32}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict:
        return {name: self._generate_examples() for name in ("train", "validation")}

    def _generate_examples(self) -> Any:
        _, _, _, texts, labels = TASKS[self.builder_config.name]
        for number, (values, label) in enumerate(examples(self.builder_config.name)):
            row = dict(zip(texts, values, strict=True))
            yield number, row | {"label": int(label) if labels else label, "idx": number}


def read(task: str, train: str, dev: str) -> Task:
    config = glue.get_config(task)
    config.data.train, config.data.dev = train, dev
    read = read_task(config, TOKENIZER)
    dev_split = read.dev["dev"]
    metric = chosen_metric(config, list(dev_split.scores(dev_split.constant_outputs())))
    assert metric == config.metric
    return read


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_the_same_from_files_and_from_tfds(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(task, tmp_path / "train.tsv")
    build_dataset(Glue, tmp_path / "tfds", monkeypatch, config=task)
    path = str(tmp_path / "train.tsv")
    ours = read(task, path, f"{path},{path}")
    theirs = read(task, f"tfds:glue/{task}:train", f"tfds:glue/{task}:validation")
    assert list(ours.dev) == ["dev", "dev2"]
    regression = glue.get_config(task).task is TaskKind.REGRESSION
    kinds = []
    for each in (ours, theirs):
        inputs = each.train.inputs
        texts = [(a.tolist(), b.tolist()) for a, b in zip(inputs.a, inputs.b, strict=True)]
        labels = np.asarray(inputs.labels).tolist()
        # The classes of TFDS have other names, and so other numbers.
        kinds.append(dict(zip(map(str, texts), labels, strict=True)))
    assert kinds[0].keys() == kinds[1].keys() and len(kinds[0]) == 12
    pairs = {(kinds[0][text], kinds[1][text]) for text in kinds[0]}
    assert len(pairs) == len(dict(pairs)) and (not regression or all(a == b for a, b in pairs))
    if positive := glue.get_config(task).data.positive_label:
        # F1 is that of the paraphrases, though their name is the first or the last of the labels.
        share = np.mean([label == 1 for _, label in examples(task)])
        for each, name in zip((ours, theirs), positive.split("|"), strict=True):
            always = np.eye(2)[each.labels.index(name)]
            f1 = each.dev["dev"].scores([always] * 12)["f1"]
            assert f1 == pytest.approx(2 * share / (1 + share)) and 0.2 < share < 0.8


def test_another_task_is_refused_with_the_list() -> None:
    with pytest.raises(UserError, match="no task 'mprc': choose one of cola, sst2, mrpc"):
        glue.get_config("mprc")
