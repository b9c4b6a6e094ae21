"""Data sets as they are downloaded: small files of the same form, with the defects they have."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bert_jax.config import FinetuneConfig
from bert_jax.data.tasks.splits import Task
from bert_jax.errors import UserError
from bert_jax.tasks.kinds import KINDS, read_task
from configs import finetune_squad, finetune_tags, finetune_text, glue
from tests.fixtures.data import LETTER_TOKENIZER as TOKENIZER


@dataclasses.dataclass
class Archive:
    """A data set: its files, how docs/fine_tuning.md reads them, and what should be found."""

    recipe: Callable[[], FinetuneConfig]
    files: dict[str, str]  # name -> content
    examples: list[int]  # of train and of each dev file
    labels: list[str]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)  # of data
    notes: tuple[str, ...] = ("", "")  # of train and the first dev file
    refused: str = ""  # without skip_bad_rows
    unlabelled: str = ""  # a further file, which has no labels


def table(header: str, *rows: str) -> str:
    """Writes a tab-separated file from lines with | for tabs."""
    lines = [header, *rows] if header else list(rows)
    return "".join(line.replace("|", "\t") + "\n" for line in lines)


MNLI = "index|promptID|pairID|genre|sentence1_binary_parse|sentence2_binary_parse|sentence1_parse|"
MNLI += "sentence2_parse|sentence1|sentence2|label1|"
MRPC = "\ufeffQuality|#1 ID|#2 ID|#1 String|#2 String"
QQP = "id|qid1|qid2|question1|question2|is_duplicate"
STSB = "index|genre|filename|year|old_index|source1|source2|sentence1|sentence2|score"
PAIRS = "index|sentence1|sentence2|label"
SNLI = "gold_label|sentence1_binary_parse|sentence2_binary_parse|sentence1_parse|sentence2_parse|"
SNLI += "sentence1|sentence2|captionID|pairID|label1|label2|label3|label4|label5"


def mnli_row(labels: int, gold: str) -> str:
    return "|".join(["7", "7", "7n", "slate", *["( a ( b c ) )"] * 4, 'a "b', "c d"]
                    + ["neutral"] * labels + [gold])  # fmt: skip


def squad(*items: tuple[str, list[tuple[str, int]], bool | None]) -> str:
    """Writes questions about "a b c" in SQuAD's form; None leaves is_impossible out (1.1)."""
    qas = [
        {
            "id": name,
            "question": "which",
            "answers": [{"text": t, "answer_start": n} for t, n in found],
        }
        | ({} if impossible is None else {"is_impossible": impossible, "plausible_answers": []})
        for name, found, impossible in items
    ]
    return json.dumps(
        {"version": "1", "data": [{"title": "t", "paragraphs": [{"context": "a b c", "qas": qas}]}]}
    )


def snli(*labels: str) -> str:
    rows = [f"{label}|( a )|( b )|(R a)|(R b)|a b|c|1.jpg#0|1n||||" + "|" for label in labels]
    return table(SNLI, *rows)


def snli_json(*labels: str) -> str:
    row = {"annotator_labels": ["neutral"], "sentence1": "a b", "sentence2": "c", "pairID": "1"}
    return "\n".join(json.dumps(row | {"gold_label": label}) for label in labels)


NLI = ["contradiction", "entailment", "neutral"]
SNLI_COLUMNS = {
    "text_column": "sentence1",
    "text_pair_column": "sentence2",
    "label_column": "gold_label",
}
ARCHIVES = {
    "cola": Archive(
        lambda: glue.get_config("cola"),
        {
            "train.tsv": table("", "gj04|1||a b.", 'gj04|0|*|"a c', "gj04|1||b"),
            "dev.tsv": table("", "gj04|1||a.", "gj04|0|*|b c"),
        },
        [3, 2],
        ["0", "1"],
        unlabelled=table("index|sentence", "0|a b"),
    ),
    "sst2": Archive(
        lambda: glue.get_config("sst2"),
        {
            "train.tsv": table("sentence|label", "a b |0", "c |1"),
            "dev.tsv": table("sentence|label", "b |1"),
        },
        [2, 1],
        ["0", "1"],
        notes=("", "no example of '0'"),
        unlabelled=table("index|sentence", "0|a b"),
    ),
    "mrpc": Archive(
        lambda: glue.get_config("mrpc"),
        {
            "msr_paraphrase_train.txt": table(MRPC, '1|1|2|a "b|"c"', "0|3|4|b|c").replace(
                "\n", "\r\n"
            ),
            "msr_paraphrase_test.txt": table(MRPC, '1|5|6|" a|c', "0|7|8|b|a"),
        },
        [2, 2],
        ["0", "1"],
        unlabelled=table("index|#1 ID|#2 ID|#1 String|#2 String", "0|1|2|a|b"),
    ),
    "qqp": Archive(
        lambda: glue.get_config("qqp"),
        {
            "train.tsv": table(QQP, "1|2|3|a|b|0", "4|5|6|a", '"|b|1', "7|8|9|c||0", "8|1|2|a|c|1"),
            "dev.tsv": table(QQP, "1|2|3|a|b|0", "4|5|6|a b|c|1"),
        },
        [2, 2],
        ["0", "1"],
        notes=("left out: wrong number of columns (2), empty 'question2' (1)", ""),
        refused="train.tsv:3 has 4 columns, but the first line has 6",
        unlabelled=table("id|question1|question2", "0|a|b"),
    ),
    "stsb": Archive(
        lambda: glue.get_config("stsb"),
        {
            "train.tsv": table(
                STSB, "0|main|MSRvid|2012|1|none|none|a|b|5.000", "1|m|x|2|1|n|n|a|c|3.80"
            ),
            "dev.tsv": table(
                STSB, "0|main|MSRvid|2012|1|none|none|a|b|0.000", "1|m|x|2|1|n|n|a|c|1.2"
            ),
        },
        [2, 2],
        [],
        unlabelled=table(STSB.removesuffix("|score"), "0|main|x|2012|1|none|none|a|b"),
    ),
    "mnli": Archive(
        lambda: glue.get_config("mnli"),
        {
            "train.tsv": table(MNLI + "gold_label", *(mnli_row(1, label) for label in NLI)),
            "dev_matched.tsv": table(
                MNLI + "label2|label3|label4|label5|gold_label",
                *(mnli_row(5, label) for label in NLI),
            ),
            "dev_mismatched.tsv": table(
                MNLI + "label2|label3|label4|label5|gold_label",
                *(mnli_row(5, label) for label in NLI[::-1]),
            ),
        },
        [3, 3, 3],
        NLI,
        unlabelled=table(MNLI.removesuffix("label1|").removesuffix("|"), mnli_row(0, "")[:-1]),
    ),
    "qnli": Archive(
        lambda: glue.get_config("qnli"),
        {
            "train.tsv": table(
                "index|question|sentence|label", '0|"a|b|entailment', "1|a|c|not_entailment"
            ),
            "dev.tsv": table(
                "index|question|sentence|label", "0|a|b|entailment", "1|a|c|not_entailment"
            ),
        },
        [2, 2],
        ["entailment", "not_entailment"],
        unlabelled=table("index|question|sentence", "0|a|b"),
    ),
    "rte": Archive(
        lambda: glue.get_config("rte"),
        {
            "train.tsv": table(PAIRS, "0|a|b|entailment", "1|a|c|not_entailment"),
            "dev.tsv": table(PAIRS, "0|a|b|entailment", "1|a|c|not_entailment"),
        },
        [2, 2],
        ["entailment", "not_entailment"],
        unlabelled=table(PAIRS.removesuffix("|label"), "0|a|b"),
    ),
    "wnli": Archive(
        lambda: glue.get_config("wnli"),
        {
            "train.tsv": table(PAIRS, "0|a|b|1", "1|a|c|0"),
            "dev.tsv": table(PAIRS, "0|a|b|1", "1|a|c|0"),
        },
        [2, 2],
        ["0", "1"],
        unlabelled=table(PAIRS.removesuffix("|label"), "0|a|b"),
    ),
    "snli": Archive(
        finetune_text.get_config,
        {
            "snli_1.0_train.jsonl": snli_json(*NLI, "-"),
            "snli_1.0_dev.jsonl": snli_json("-", *NLI, "-"),
        },
        [3, 3],
        NLI,
        SNLI_COLUMNS,
        ("left out: no gold label (1)", "left out: no gold label (2)"),
        "snli_1.0_train.jsonl:4 has no gold label ('-' in 'gold_label')",
    ),
    "snli_txt": Archive(
        finetune_text.get_config,
        {"snli_1.0_train.txt": snli(*NLI, "-"), "snli_1.0_dev.txt": snli("-", *NLI, "-")},
        [3, 3],
        NLI,
        SNLI_COLUMNS,
        ("left out: no gold label (1)", "left out: no gold label (2)"),
        "snli_1.0_train.txt:5 has no gold label ('-' in 'gold_label')",
    ),
    "squad_1.1": Archive(
        finetune_squad.get_config,
        {
            "train-v1.1.json": squad(("1", [("b", 2)], None), ("2", [("c", 4)], None)),
            "dev-v1.1.json": squad(("3", [("b", 2), ("b", 2), ("b c", 2)], None)),
        },
        [2, 1],
        [],
    ),
    "squad_2.0": Archive(
        finetune_squad.get_config,
        {
            "train-v2.0.json": squad(("1", [("b", 2)], False), ("2", [], True)),
            "dev-v2.0.json": squad(("3", [("b", 2)], False), ("4", [], True), ("5", [], True)),
        },
        [2, 3],
        [],
        notes=("1 without an answer", "2 without an answer"),
    ),
    "conll_2003": Archive(
        finetune_tags.get_config,
        {
            "eng.train": "-DOCSTART- -X- O O\n\nA NNP I-NP I-ORG\nb VBZ I-VP O\n\n"
            "C NNP I-NP I-PER\nD NNP B-NP B-PER\n\n"
            "-DOCSTART- -X- O O\n\na NN I-NP I-ORG\nb NN I-NP I-PER\n\n",
            "eng.testa": "-DOCSTART- -X- O O\n\na NNP I-NP I-ORG\nb VBZ I-VP O\n\n",
        },
        [3, 1],
        ["B-ORG", "B-PER", "O"],
        notes=("IOB1 entities, read as IOB2", "IO entities, read as IOB2"),
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_is_read_as_it_is_downloaded(name: str, tmp_path: Path) -> None:
    archive = ARCHIVES[name]
    for file, content in archive.files.items():
        (tmp_path / file).write_text(content, newline="")
    train, *dev = [str(tmp_path / file) for file in archive.files]
    config = archive.recipe()
    fields = {"train": train, "dev": ",".join(dev)} | archive.settings
    config.data = dataclasses.replace(config.data, **fields)
    if archive.refused:
        with pytest.raises(UserError) as caught:
            read_task(config, TOKENIZER)
        assert archive.refused in str(caught.value)
        assert "--config.data.skip_bad_rows leaves these out" in str(caught.value)
        config.data.skip_bad_rows = True
    task: Task = read_task(config, TOKENIZER)
    splits = [task.train, *task.dev.values()]
    assert [split.examples for split in splits] == archive.examples
    assert task.labels == archive.labels
    assert tuple(split.notes for split in splits[:2]) == archive.notes
    if archive.unlabelled:
        (tmp_path / "test.tsv").write_text(archive.unlabelled)
        with pytest.raises(UserError, match=r"test.tsv:\d has no column"):
            KINDS[config.task].read_split(
                str(tmp_path / "test.tsv"), config, TOKENIZER, task.labels
            )
