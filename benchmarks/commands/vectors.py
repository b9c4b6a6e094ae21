"""Times the training of vectors in this project and in sentence-transformers.

    python -m benchmarks.commands.vectors --vocab=vocab.txt --pairs=pairs.tsv --size=mini

Both start from one BERT with random weights, read the same pairs of texts (two columns, no header),
and train for an epoch by in-batch negatives of 64 pairs. This project packs the texts;
sentence-transformers pads them to the longest of a batch. Seconds are those of the steps: without
our compilation, which is in the first reported steps, and without the start of both. The figures
are real tokens a second, those that are not padding. It needs `pip install -e '.[vectors]'`.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

import torch
from absl import app, flags
from datasets import Dataset  # pyright: ignore[reportMissingImports]
from sentence_transformers import (  # pyright: ignore[reportMissingImports]
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from sentence_transformers.models import (  # pyright: ignore[reportMissingImports]
    Pooling,
    Transformer,
)
from transformers import BertModel, BertTokenizer

from benchmarks.commands.their_models import save_model
from benchmarks.sizes import SIZES

_VOCAB = flags.DEFINE_string("vocab", None, "vocab.txt of a WordPiece tokenizer", required=True)
_PAIRS = flags.DEFINE_string("pairs", None, "pairs of texts, a tab between", required=True)
_SIZE = flags.DEFINE_enum("size", "mini", list(SIZES), "the model")

_BATCH, _LENGTH, _RATE, _SCALE = 64, 64, 1e-4, 20.0
_LOG_STEPS = 10


def our_rate(theirs: pathlib.Path, folder: pathlib.Path) -> float:
    """Returns the real tokens a second of `finetune`, without its first report."""
    convert = ["convert", f"--from=hf:{theirs}", f"--to={folder / 'ours'}", "--noverify"]
    tune = ["finetune", "--config=finetune_text", f"--checkpoint={folder / 'ours'}"]
    settings = {
        "task": "vectors",
        "epochs": 1,
        "batch_size": _BATCH,
        "log_steps": _LOG_STEPS,
        "optimizer.learning_rate": _RATE,
        "vectors.temperature": 1 / _SCALE,
        "data.header": False,
        "data.train": _PAIRS.value,
        "data.dev": _PAIRS.value,
        "data.text_column": 0,
        "data.text_pair_column": 1,
        "data.label_column": "",
        "data.length": _LENGTH,
    }
    tune += [f"--config.{name}={value}" for name, value in settings.items()]
    for words in (convert, [*tune, f"--workdir={folder / 'run'}"]):
        command = [sys.executable, "-m", f"bert_jax.{words[0]}", *words[1:]]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    lines = (folder / "run" / "log.jsonl").read_text().splitlines()
    reports = [row for row in map(json.loads, lines) if "tokens_per_second" in row][1:]
    tokens = sum(row["tokens"] for row in reports)
    return tokens / sum(row["tokens"] / row["tokens_per_second"] for row in reports)


def their_rate(theirs: pathlib.Path, folder: pathlib.Path) -> float:
    """Returns the real tokens a second of sentence-transformers' trainer."""
    torch.manual_seed(0)
    encoder = Transformer(str(theirs), max_seq_length=_LENGTH)
    model = SentenceTransformer(
        modules=[encoder, Pooling(encoder.get_word_embedding_dimension(), "mean")], device="cpu"
    )
    lines = pathlib.Path(_PAIRS.value).read_text().splitlines()
    columns = dict(zip(("anchor", "positive"), zip(*(line.split("\t") for line in lines))))  # noqa: B905
    pairs = Dataset.from_dict({name: list(texts) for name, texts in columns.items()})
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "theirs"),
        num_train_epochs=1,
        per_device_train_batch_size=_BATCH,
        learning_rate=_RATE,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    loss = losses.MultipleNegativesRankingLoss(model, scale=_SCALE)
    trainer = SentenceTransformerTrainer(model, arguments, train_dataset=pairs, loss=loss)
    tokenizer = BertTokenizer.from_pretrained(theirs)
    tokens = sum(
        len(ids)
        for texts in columns.values()
        for ids in tokenizer(list(texts), truncation=True)["input_ids"]
    )
    begin = time.perf_counter()
    trainer.train()
    return tokens / (time.perf_counter() - begin)


def main(_: list[str]) -> None:
    """Prints a line of JSON."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        model = folder / "model"
        save_model(BertModel, _SIZE.value, _VOCAB.value, model, length=_LENGTH)
        ours, theirs = (rate(model, folder) for rate in (our_rate, their_rate))
    print(json.dumps({"tokens_per_second": ours, "peer": theirs, "ratio": ours / theirs}))


if __name__ == "__main__":
    app.run(main)
