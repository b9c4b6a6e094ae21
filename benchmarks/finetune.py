"""Times fine-tuning a classifier from random weights in this project and in transformers.

    python -m benchmarks.finetune --vocab=vocab.txt --train=train.tsv --dev=dev.tsv

The model has 6 layers, width 384 and 12 heads, and the shape of a family of transformers; the files
have lines `sentence TAB label`. Both libraries read the same sentences with the same WordPiece
vocabulary, take an epoch each in turn, and tokenise as their users do: transformers by the batch,
this project once, before the first epoch. It prints the medians in real tokens, those that are not
padding.
"""

import itertools
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from absl import app, flags
from tokenizers import BertWordPieceTokenizer, Tokenizer
from transformers import (
    CONFIG_MAPPING,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

from bert_jax.config import EncoderConfig, MeshConfig, OptimizerConfig, TaskDataConfig
from bert_jax.data.packing.loader import load_batches
from bert_jax.data.tasks.classes import read_class_task
from bert_jax.data.tasks.rows import BatchFormat, TaskStream
from bert_jax.distributed import sharding
from bert_jax.interop.families.registry import FAMILIES
from bert_jax.interop.huggingface_config import read_encoder_config
from bert_jax.model.by_platform import for_devices
from bert_jax.model.heads import TaskModel
from bert_jax.objectives.losses import class_totals, make_task_loss
from bert_jax.tasks.evaluation import InputBatches, make_outputs_step
from bert_jax.text.tokenizer import load_tokenizer
from bert_jax.training.optimizer import make_optimizer
from bert_jax.training.schedules import task_settings
from bert_jax.training.state import abstract_state, init_params, init_state, make_run_inputs
from bert_jax.training.step import make_train_step

_VOCAB = flags.DEFINE_string("vocab", None, "vocab.txt of a WordPiece tokenizer", required=True)
_TRAIN = flags.DEFINE_string("train", None, "sentences with labels", required=True)
_DEV = flags.DEFINE_string("dev", None, "the same, held out", required=True)
_FAMILY = flags.DEFINE_enum("family", "bert", list(FAMILIES), "of transformers")
_EXAMPLES = flags.DEFINE_integer("examples", 1600, "training examples in an epoch")
_EPOCHS = flags.DEFINE_integer("epochs", 3, "number of epochs of each library")

LENGTH, BATCH_SIZE = 64, 32  # 4 of the 6,920 training sentences of SST-2 are longer
RATE = 5e-5
_SIZES = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}
_OTHERS: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 384, "n_layers": 6, "n_heads": 12, "hidden_dim": 1536},
    "modernbert": _SIZES | {"intermediate_size": 576},  # gated: as wide as base for its width
    "eurobert": _SIZES | {"num_key_value_heads": 12},
}

# -> seconds of training and of evaluation, real tokens trained on
Epoch = Callable[[], tuple[float, float, int]]


def their_config() -> Any:
    """Returns the config of the family, with the special pieces of the vocabulary."""
    special = load_tokenizer(_VOCAB.value).special
    ids = {"cls_token_id": special.cls, "bos_token_id": special.cls}
    ids |= {"sep_token_id": special.sep, "eos_token_id": special.sep, "pad_token_id": special.pad}
    make: Any = CONFIG_MAPPING[_FAMILY.value]
    vocab_size = load_tokenizer(_VOCAB.value).vocab_size
    return make(vocab_size=vocab_size, **ids, **_OTHERS.get(_FAMILY.value, _SIZES))


def our_encoder() -> EncoderConfig:
    """Returns the encoder of the family, as an import would have it."""
    family, values = FAMILIES[_FAMILY.value], their_config().to_dict()
    return read_encoder_config(family, values, pathlib.Path("config.json"))


def our_epochs() -> Epoch:
    """Returns an epoch of this project: packed rows, one compiled step."""
    tokenizer = load_tokenizer(_VOCAB.value)
    data = TaskDataConfig(train=_TRAIN.value, dev=_DEV.value, header=False, length=LENGTH)
    data.text_column, data.label_column = "0", "1"
    task = read_class_task(data, tokenizer)
    inputs = task.train.inputs.of_examples(np.arange(_EXAMPLES.value))
    mesh = sharding.make_mesh(MeshConfig())
    encoder = for_devices(our_encoder(), mesh, [LENGTH])
    batch_format = BatchFormat(LENGTH, LENGTH // 8, tokenizer.special, False, BATCH_SIZE)
    batches = batch_format.deal(inputs, epochs=_EPOCHS.value + 1, seed=0, rows_multiple=1)
    stream = TaskStream(inputs, batches, batch_format)
    print(batches.describe(), flush=True)
    model = TaskModel(encoder, "classifier", len(task.labels), whole_inputs=True)
    steps = (_EPOCHS.value + 1) * batches.per_epoch
    optimizer = OptimizerConfig(learning_rate=RATE, warmup_steps=steps // 10)
    tx = make_optimizer(optimizer)
    abstract = abstract_state(model, tx, mesh)
    state = init_state(init_params(model, 0, abstract.params), tx, abstract)
    step = make_train_step(
        make_task_loss(model, class_totals), lambda batch, key, step: batch, tx, abstract
    )
    dev = InputBatches(task.dev["dev"].inputs, batch_format, mesh, whole_inputs=True)
    eval_step = make_outputs_step(model, class_totals, mesh)
    rows = np.arange(batches.rows)
    run = make_run_inputs(mesh, 0, task_settings(optimizer, steps), steps)
    local = load_batches(stream.rows, batches=steps, batch_size=batches.rows, host_rows=rows)

    def epoch() -> tuple[float, float, int]:
        nonlocal state
        begin = time.perf_counter()
        for batch in itertools.islice(local, batches.per_epoch):
            state, _ = step(state, sharding.global_batch(batch, rows, len(rows), mesh), run)
        jax.block_until_ready(state)
        trained = time.perf_counter()
        outputs, _ = dev.outputs(eval_step, state.params)
        task.dev["dev"].scores(outputs)
        return trained - begin, time.perf_counter() - trained, int(inputs.sizes.sum())

    return epoch


def their_epochs() -> Epoch:
    """Returns an epoch of transformers: batches padded to their longest sentence."""
    torch.manual_seed(0)
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(BertWordPieceTokenizer(_VOCAB.value).to_str()),
        pad_token="[PAD]",
    )
    model: Any = AutoModelForSequenceClassification.from_config(their_config())  # two labels
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    train, dev = _sentences(_TRAIN.value)[: _EXAMPLES.value], _sentences(_DEV.value)

    def encode(rows: list[tuple[str, int]]) -> Any:
        texts = [text for text, _ in rows]
        return tokenizer(
            texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"
        )

    def epoch() -> tuple[float, float, int]:
        model.train()
        begin, real = time.perf_counter(), 0
        order = torch.randperm(len(train)).tolist()
        for first in range(0, len(order), BATCH_SIZE):
            rows = [train[i] for i in order[first : first + BATCH_SIZE]]
            inputs = encode(rows)
            real += int(inputs["attention_mask"].sum())
            labels = torch.tensor([label for _, label in rows])
            model(**inputs, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        trained = time.perf_counter()
        model.eval()
        with torch.no_grad():
            for first in range(0, len(dev), 2 * BATCH_SIZE):
                model(**encode(dev[first : first + 2 * BATCH_SIZE])).logits.argmax(-1)
        return trained - begin, time.perf_counter() - trained, real

    return epoch


def _sentences(path: str) -> list[tuple[str, int]]:
    with open(path, encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    return [(text, int(label)) for text, label in rows]


def main(_: list[str]) -> None:
    """Runs the epochs in turn, after a warm-up epoch of each, and prints the medians."""
    ours, theirs = our_epochs(), their_epochs()
    ours()
    theirs()
    figures: dict[str, list[float]] = {}
    for number in range(_EPOCHS.value):
        for name, epoch in (("ours", ours), ("theirs", theirs)):
            trained, evaluated, tokens = epoch()
            figures.setdefault(f"{name}_train", []).append(tokens / trained)
            figures.setdefault(f"{name}_all", []).append(tokens / (trained + evaluated))
        print(f"epoch {number + 1}", flush=True)
    medians = {name: round(statistics.median(values), 1) for name, values in figures.items()}
    for part in ("train", "all"):
        medians[f"ratio_{part}"] = round(medians[f"ours_{part}"] / medians[f"theirs_{part}"], 3)
    print(json.dumps({"real_tokens_per_second": medians}))


if __name__ == "__main__":
    app.run(main)
