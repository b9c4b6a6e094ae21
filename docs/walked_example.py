"""Writes docs/walked_example.md: one sentence through pretraining and fine-tuning.

    python -m docs.walked_example
    python -m docs.walked_example --pretrained=runs/modern_mini --sentiment=data/sst2

The first command writes the page from the figures in experiments/results/walked_example. The second
takes them anew: from a pretraining with the recipe `pretrain_modern_mini`, and from fine-tuning it
on 100 sentences of SST-2 (`train.tsv`, `dev.tsv`), with five seeds.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

import bert_jax
from bert_jax.checkpoints.checkpoint import find_checkpoint, read_metadata, write_parameters
from bert_jax.cli import app
from bert_jax.config import MaskingConfig
from bert_jax.data.packing.layout import RowFormat
from bert_jax.data.tasks.rows import make_token_rows
from bert_jax.files import given_path, write_atomically
from bert_jax.inspection.loaded import LoadedModel
from bert_jax.interop.architectures import module_of
from bert_jax.objectives.masking import mask_tokens
from bert_jax.runs.steps import mask_vocabulary
from bert_jax.training.logs import LOG_FILE, read_log
from bert_jax.training.state import draw_params, run_key
from experiments.tables import markdown_table

ROOT = pathlib.Path(__file__).parents[1]
PAGE = pathlib.Path(__file__).with_suffix(".md")
VALUES = ROOT / "experiments" / "results" / "walked_example" / "values.json"

SENTENCE = "this teddy bear is so cute."
QUESTIONS = (
    "this teddy bear [MASK] so cute.",
    "this teddy bear is so [MASK].",
    "this teddy [MASK] is so cute.",
    "the capital of france is [MASK].",
    "she was born in [MASK] and died in 1912.",
)  # written down before they were asked
_LABELS, _SEEDS = 100, 5
_TRAINING = ("batch_size=8", "epochs=16", "eval_epochs=16", "optimizer.learning_rate=1e-3")

_PAGE = """# One sentence through both stages

We follow "{sentence}" through the modern mini of
[experiments/results/pretrain_modern_mini_enwiki](../experiments/results/pretrain_modern_mini_enwiki/README.md):
{size}, pretrained for {minutes} minutes on Wikipedia with two CPU cores. `python -m
docs.walked_example` writes this page from [what was
measured](../experiments/results/walked_example/values.json); its docstring has the command that
measures it anew. A model of this size knows little; for a base model the page would look the same,
with better guesses.

## Tokens

{tokens}

## Stage 1: what pretraining asks

15 % of the tokens are to be predicted. Of these 80 % are replaced by [MASK], 10 % by another
token, and 10 % stay. Each time that a run sees the sentence it draws anew; three draws:

{draws}

The loss is the cross-entropy of what is to be predicted. Held out, it was {losses}.

## What it guesses

The three likeliest pieces for [MASK], with random weights and after pretraining. The texts were
written down before they were asked.

{guesses}

## Stage 2: the same encoder with another head

Fine-tuning drops the head of stage 1 and puts a fresh one on the same encoder. Numbers of
parameters:

{groups}

## Sentiment, from {labels} labels

Each of {seeds} seeds draws {labels} of the 6,920 sentences of SST-2, film reviews; 872 others are
held out. Mean and range over the seeds:

{scores}

So few labels teach neither start much about film reviews, and what so short a pretraining knows
does not help with them; [experiments/results](../experiments/results/README.md) has tasks where it
helps.
"""

_PRETRAINED = flags.DEFINE_string("pretrained", "", "a run of pretrain_modern_mini")
_SENTIMENT = flags.DEFINE_string("sentiment", "data/sst2", "a folder with train.tsv and dev.tsv")


def take_figures(pretrained: str, sentiment: pathlib.Path, workdir: pathlib.Path) -> dict[str, Any]:
    """Runs the example; returns all that the page shows, ready for JSON.

    Args:
      pretrained: the run.
      sentiment: folder with `train.tsv` and `dev.tsv`.
      workdir: for the fine-tuned models.
    """
    model = bert_jax.load(pretrained)
    pieces = model.tokenizer.encode(SENTENCE)
    with tempfile.TemporaryDirectory() as folder:
        untrained = _untrained(model, pathlib.Path(folder) / "random")
        guesses = [
            {"text": text, "random": _guesses(untrained, text), "pretrained": _guesses(model, text)}
            for text in QUESTIONS
        ]
    return {
        "ids": pieces.tolist(),
        "pieces": [model.tokenizer.id_to_piece(int(id)) for id in pieces],
        "masked": [_masked(model, seed) for seed in range(3)],
        "guesses": guesses,
        "pretraining": _pretraining(find_checkpoint(pretrained)),
        "sentiment": {
            start: _sentiment(pretrained, sentiment, workdir / start, start == "pretrained")
            for start in ("pretrained", "random")
        },
        "groups": {
            "pretrained": _groups(model),
            "fine_tuned": _groups(bert_jax.load(workdir / "pretrained" / "seed-0")),
        },
    }


def _untrained(model: LoadedModel, directory: pathlib.Path) -> LoadedModel:
    """Returns the model with the random weights that a run with seed 0 begins with."""
    metadata = model.stored.metadata
    params = jax.jit(lambda key: draw_params(module_of(metadata), key))(run_key(0))
    write_parameters(directory, jax.device_get(params), metadata)
    return bert_jax.load(directory)


def _guesses(model: LoadedModel, text: str) -> list[list[Any]]:
    """Returns the three likeliest tokens of a text's mask, and their probabilities."""
    (mask,) = model.fill_mask([text], top_k=3)[0]["masks"]
    return [[each["token"], round(each["probability"], 4)] for each in mask]


def _masked(model: LoadedModel, seed: int) -> list[list[str]]:
    """Returns (what stands there, what is to be predicted or '') of each token, by BERT's masks."""
    tokenizer = model.tokenizer
    ids = tokenizer.encode(SENTENCE)
    row_format = RowFormat(len(ids) + 2, 1, tokenizer.special, pool_last=False)
    batch, _ = make_token_rows([ids], [ids[:0]], np.ones(1, np.int64), row_format)
    batch["row_ids"] = np.array([[0, seed]], np.uint32)
    masking = MaskingConfig()
    shown = mask_tokens(
        jax.tree.map(jax.numpy.asarray, batch),
        run_key(0),
        jax.numpy.float32(masking.rate),
        masking,
        vocabulary=mask_vocabulary(masking, tokenizer),
    )
    labels = {}
    for at, label, weight in zip(
        *(np.asarray(shown[f"mlm_{name}"])[0] for name in ("positions", "labels", "weights")),
        strict=True,
    ):
        if weight:
            labels[int(at)] = tokenizer.id_to_piece(int(label))
    tokens = [tokenizer.id_to_piece(int(id)) for id in np.asarray(shown["token_ids"])[0]]
    return [[token, labels.get(at, "")] for at, token in enumerate(tokens)]


def _pretraining(checkpoint: pathlib.Path) -> dict[str, Any]:
    """Returns size, tokens, minutes and held-out losses of the run of a checkpoint."""
    metadata = read_metadata(checkpoint)
    entries = read_log(checkpoint.parent.parent / LOG_FILE)
    reports = [each for each in entries if "tokens_per_second" in each]
    losses = {e["step"]: e["heldout_mlm_loss"] for e in entries if "heldout_mlm_loss" in e}
    return {
        "layers": metadata["encoder"]["layers"],
        "width": metadata["encoder"]["width"],
        "tokens": sum(each["tokens"] for each in reports),
        "minutes": sum(each["tokens"] / each["tokens_per_second"] for each in reports) / 60,
        "losses": [[step, losses[step]] for step in (min(losses), max(losses))],
    }


def _groups(model: LoadedModel) -> dict[str, int]:
    """Returns the number of parameters of each group."""
    return {
        group: sum(leaf.size for leaf in jax.tree.leaves(tree))
        for group, tree in model.params.items()
    }


def _sentiment(
    pretrained: str, data: pathlib.Path, workdir: pathlib.Path, transfer: bool
) -> dict[str, list[float]]:
    """Fine-tunes with each seed; returns scores, and the sentence's chance to be positive."""
    fields = [f"data.train={data / 'train.tsv'}", f"data.dev={data / 'dev.tsv'}"]
    fields += [f"data.examples={_LABELS}", f"seeds={_SEEDS}", f"transfer={transfer}", *_TRAINING]
    command = [sys.executable, "-m", "bert_jax.finetune", "--config=finetune_sst2"]
    command += [f"--checkpoint={pretrained}", f"--workdir={workdir}"]
    subprocess.run([*command, *(f"--config.{field}" for field in fields)], cwd=ROOT, check=True)
    accuracies, chances = [], []
    for seed in range(_SEEDS):
        tuned = bert_jax.load(workdir / f"seed-{seed}")
        scores = read_metadata(find_checkpoint(workdir / f"seed-{seed}"))["scores"]
        accuracies.append(scores["dev_accuracy"])
        chances.append(tuned.predict([SENTENCE])[0]["probabilities"]["1"])
    return {"accuracies": accuracies, "positive": chances}


def make_page(values: dict[str, Any]) -> str:
    """Returns the page.

    Args:
      values: from `take_figures`.
    """
    run, sentiment = values["pretraining"], values["sentiment"]
    (first_step, first_loss), (last_step, last_loss) = run["losses"]
    before, after = values["groups"]["pretrained"], values["groups"]["fine_tuned"]
    draws = [
        row
        for number, draw in enumerate(values["masked"], start=1)
        for row in (
            [f"draw {number}", *(token for token, _ in draw)],
            ["to predict", *(f"**{label}**" if label else "" for _, label in draw)],
        )
    ]
    guesses = [
        [each["text"], *(_told(each[start]) for start in ("random", "pretrained"))]
        for each in values["guesses"]
    ]
    groups = [
        [group, *(f"{of[group]:,}" if group in of else "-" for of in (before, after))]
        for group in before | after
    ]
    scores = [
        [start, _range(of["accuracies"]), _range(of["positive"])] for start, of in sentiment.items()
    ]
    return _PAGE.format(
        sentence=SENTENCE,
        labels=_LABELS,
        seeds=_SEEDS,
        size=f"{run['layers']} layers of width {run['width']}",
        minutes=f"{run['minutes']:.0f}",
        tokens=markdown_table(["piece", *values["pieces"]], [["id", *map(str, values["ids"])]]),
        draws=markdown_table(["", *map(str, range(len(values["masked"][0])))], draws),
        losses=f"{first_loss:.2f} nats after {first_step:,} steps and {last_loss:.2f} after"
        f" {last_step:,} ({run['tokens'] / 1e6:.1f} M tokens)",
        guesses=markdown_table(["text", "random weights", "pretrained"], guesses),
        groups=markdown_table(["group", "pretrained", "fine-tuned"], groups),
        scores=markdown_table(
            ["start", "held-out accuracy", "chance that ours is positive"], scores
        ),
    )


def _told(guesses: Sequence[Sequence[Any]]) -> str:
    return ", ".join(f"{token} {probability:.4f}" for token, probability in guesses)


def _range(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main(_: Sequence[str]) -> None:
    """Takes the figures if a run is named, and writes the page."""
    if _PRETRAINED.value:
        folder = given_path(_SENTIMENT.value).absolute()
        pretrained = str(given_path(_PRETRAINED.value).absolute())
        with tempfile.TemporaryDirectory() as models:
            values = take_figures(pretrained, folder, pathlib.Path(models))
        VALUES.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(VALUES, json.dumps(values, indent=1, allow_nan=False).encode())
    write_atomically(PAGE, make_page(json.loads(VALUES.read_text())).encode())


if __name__ == "__main__":
    app.run(main)
