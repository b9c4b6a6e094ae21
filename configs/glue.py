"""The nine tasks of GLUE (Wang et al., 2019): --config=configs/glue.py:mrpc and so on.

The files are those of GLUE's own archive or TFDS's: `--config.data.train=MRPC/train.tsv`, or
`--config.data.train=tfds:glue/mrpc:train --config.data.dev=tfds:glue/mrpc:validation`. Both have
other names for the same columns and labels, so each is named twice. MNLI has two held-out sets:
`--config.data.dev=dev_matched.tsv,dev_mismatched.tsv`. docs/fine_tuning.md has the files' names.
"""

import dataclasses

from bert_jax.config import FinetuneConfig, TaskDataConfig, TaskKind
from bert_jax.errors import UserError

_SENTENCES = {"text_column": "sentence1", "text_pair_column": "sentence2"}

# task -> the columns, and the score that GLUE reports
_TASKS: dict[str, tuple[dict[str, str], str]] = {
    "cola": ({"text_column": "3|sentence", "label_column": "1|label"}, "matthews"),
    "sst2": ({"text_column": "sentence"}, "accuracy"),
    "mrpc": (
        {
            "text_column": "#1 String|sentence1",
            "text_pair_column": "#2 String|sentence2",
            "label_column": "Quality|label",
            "positive_label": "1|equivalent",
        },
        "f1",
    ),
    "qqp": (
        {
            "text_column": "question1",
            "text_pair_column": "question2",
            "label_column": "is_duplicate|label",
            "positive_label": "1|duplicate",
        },
        "f1",
    ),
    "stsb": (_SENTENCES | {"label_column": "score|label"}, "pearson"),
    "mnli": (
        {
            "text_column": "sentence1|premise",
            "text_pair_column": "sentence2|hypothesis",
            "label_column": "gold_label|label",
        },
        "accuracy",
    ),
    "qnli": ({"text_column": "question", "text_pair_column": "sentence"}, "accuracy"),
    "rte": (_SENTENCES, "accuracy"),
    "wnli": (_SENTENCES, "accuracy"),
}


def get_config(task: str = "") -> FinetuneConfig:
    """BERT's settings (section 4.1): 3 epochs of batches of 32; the rate is for you to choose."""
    if task not in _TASKS:
        raise UserError(
            f"configs/glue.py has no task {task!r}: choose one of {', '.join(_TASKS)}, as in"
            " --config=configs/glue.py:mrpc"
        )
    columns, metric = _TASKS[task]
    data = dataclasses.replace(TaskDataConfig(), **columns)  # pyright: ignore[reportArgumentType]
    data.header = task != "cola"
    kind = TaskKind.REGRESSION if task == "stsb" else TaskKind.CLASSIFICATION
    return FinetuneConfig(task=kind, metric=metric, data=data)
