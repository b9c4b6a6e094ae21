"""A linear model on words, with the data and the scores of `finetune`: the baseline without layers.

    python -m experiments.linear --config=finetune_sst2 --checkpoint=runs/base --workdir=runs/linear

Texts are bags of words and pairs of words, weighted by tf-idf. A word to be tagged is described by
its letters and those of its neighbours. Both go into a logistic regression. The checkpoint gives
the tokenizer alone, by which the task is read as `finetune` reads it.
"""

import json
from collections.abc import Sequence

import numpy as np
from scipy import sparse
from sklearn.feature_extraction import FeatureHasher
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from bert_jax.checkpoints.checkpoint import find_checkpoint, read_metadata
from bert_jax.checkpoints.workdir import check_workdir, claim_workdir
from bert_jax.cli import app
from bert_jax.cli.flags import checked_config, checkpoint_flag, config_flag, workdir_flag
from bert_jax.config import FinetuneConfig
from bert_jax.data.tasks.classes import ClassSplit
from bert_jax.data.tasks.splits import Outputs, Split
from bert_jax.data.tasks.tags import TagSplit
from bert_jax.errors import UserError
from bert_jax.files import write_atomically
from bert_jax.runs.finetuning_setup import labelled_inputs
from bert_jax.tasks.kinds import chosen_metric, read_task
from bert_jax.text.tokenizer import tokenizer_from_dict
from bert_jax.training.logs import LOG_FILE
from experiments.study import LINEAR_TASKS

Sparse = sparse.csr_matrix | sparse.csr_array

_CONFIG = config_flag(FinetuneConfig)
_CHECKPOINT = checkpoint_flag("pretrained, whose tokenizer reads the task")
_WORKDIR = workdir_flag()

_INVERSE_DECAY = 10.0  # C of the regression: weak, as the features are many and small
_STEPS = 500  # of its solver, at most
_HASHED = 1 << 18  # features of words to be tagged
_NEIGHBOURS = (-1, 0, 1)
_NEVER = float(np.finfo(np.float32).min)  # log-probability of a class without examples


def linear_outputs(train: Split, drawn: np.ndarray, split: Split) -> Outputs:
    """Fits the model to some examples, and returns its outputs for another split.

    Args:
      train: of texts with classes, or of sentences with tags.
      drawn: [n] int64, the examples of it to learn from.
      split: of the same task.

    Returns:
      Log-probabilities, as `Split.scores` takes them.

    Raises:
      UserError: if the task has neither, or all examples are of one class.
    """
    if isinstance(train, ClassSplit) and isinstance(split, ClassSplit):
        return _classified(train, drawn, split)
    if isinstance(train, TagSplit) and isinstance(split, TagSplit):
        return _tagged(train, drawn, split)
    known = " and ".join(f"task={each.value}" for each in LINEAR_TASKS)
    raise UserError(f"a linear model knows {known}: choose one of them")


def _classified(train: ClassSplit, drawn: np.ndarray, split: ClassSplit) -> Outputs:
    columns = []
    for side in ("text", "text_pair"):
        texts = [each.get(side, "") for each in train.texts]
        if any(texts):
            bag = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|\S")
            fitted = bag.fit_transform([texts[number] for number in drawn])
            columns.append((fitted, bag.transform([each.get(side, "") for each in split.texts])))
    ours, theirs = (sparse.hstack(each).tocsr() for each in zip(*columns, strict=True))
    return list(_fitted(ours, train.gold[drawn], theirs, len(split.constant_outputs()[0])))


def _tagged(train: TagSplit, drawn: np.ndarray, split: TagSplit) -> Outputs:
    sentences = [train.sentences[number] for number in drawn]
    numbers = {label: number for number, label in enumerate(train.labels)}
    tags = np.array([numbers[tag] for each in sentences for tag in each.tags])
    hasher = FeatureHasher(_HASHED, input_type="string", alternate_sign=False)
    ours, theirs = (
        hasher.transform(features for each in some for features in _described(each.words))
        for some in (sentences, split.sentences)
    )
    words = _fitted(ours, tags, theirs, len(train.labels))
    outputs = [np.zeros((size, len(train.labels)), np.float32) for size in split.inputs.sizes]
    for of_word, number, token in zip(
        words, split.words.input_of, split.words.token_of, strict=True
    ):
        outputs[number][token] = of_word
    return outputs


def _described(words: Sequence[str]) -> list[list[str]]:
    """Returns the features of each word of a sentence."""
    own = [_letters(word) for word in words]
    return [
        [
            f"{by}:{feature}"
            for by in _NEIGHBOURS
            for feature in (own[at + by] if 0 <= at + by < len(own) else ["none"])
        ]
        for at in range(len(own))
    ]


def _letters(word: str) -> list[str]:
    shape = "".join(
        "A" if c.isupper() else "a" if c.islower() else "0" if c.isdigit() else c for c in word
    )
    ends = [f"starts {word[:n].lower()}" for n in (1, 2, 3)]
    ends += [f"ends {word[-n:].lower()}" for n in (1, 2, 3)]
    return [f"is {word.lower()}", f"shape {shape[:8]}", *ends]


def _fitted(features: Sparse, classes: np.ndarray, others: Sparse, count: int) -> np.ndarray:
    """Returns log-probabilities of other items, [n, count] float32."""
    found = np.unique(classes)
    if len(found) < 2:
        raise UserError("all drawn examples are of one class: draw more by data.examples")
    model = LogisticRegression(C=_INVERSE_DECAY, max_iter=_STEPS).fit(features, classes)
    known = model.predict_log_proba(others)
    logits = np.full((len(known), count), _NEVER, np.float32)
    logits[:, found] = known
    return logits


def main(_: Sequence[str]) -> None:
    """Fits the model and writes its scores as a log of fine-tuning."""
    config = checked_config(_CONFIG.value, FinetuneConfig)
    checkpoint = find_checkpoint(app.require_path("checkpoint", _CHECKPOINT.value, "runs/base"))
    workdir = app.require_path("workdir", _WORKDIR.value, "runs/linear")
    check_workdir(workdir, config)
    task = read_task(config, tokenizer_from_dict(read_metadata(checkpoint)["tokenizer"]))
    drawn = np.unique(labelled_inputs(config, task).example_of)
    dev = task.dev["dev"]
    floor = dev.scores(dev.constant_outputs())
    metric = chosen_metric(config, list(floor))
    scores = dev.scores(linear_outputs(task.train, drawn, dev))
    claim_workdir(workdir, config)
    entries = [
        {"step": 0, "metric": f"dev_{metric}", "floor": floor[metric], "examples": len(drawn)},
        {"step": 1} | {f"dev_{name}": score for name, score in scores.items()},
    ]
    lines = [json.dumps(entry, allow_nan=False) for entry in entries]
    write_atomically(workdir / LOG_FILE, "\n".join([*lines, ""]).encode())
    print(f"{len(drawn):,} examples: dev {metric} {scores[metric]:.4f}")


if __name__ == "__main__":
    app.run(main)
