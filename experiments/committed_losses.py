"""Compares the held-out losses of a new run of `pretrain_modern_mini` with the committed ones.

    python -m experiments.committed_losses runs/results/modern_mini

`make results-model` prepares, pretrains and compares. From the same text the losses are the same on
a machine of the same kind; on another one sums are rounded otherwise, and the losses part in the
third digit. Another release of the tokenizer's library trains another vocabulary from the same
text, whose losses are no measure of the model: between two releases of sentencepiece they differ by
0.16 nats. The corpus's manifest.json names the release.
"""

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bert_jax.cli import app
from bert_jax.errors import UserError
from bert_jax.files import given_path
from bert_jax.text.tokenizer import SETTINGS_FILE
from bert_jax.training.logs import LOG_FILE, read_log

COMMITTED = pathlib.Path(__file__).parent / "results" / "pretraining_worth" / "encoder"
TRAINER = "sentencepiece 0.2.2"  # of the committed vocabulary
CLOSE = 0.02  # nats
_TOKENIZER = "tokenizer"  # in the folder of a run


def heldout_losses(entries: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """Returns step -> held-out MLM loss, of the entries of a log."""
    return {e["step"]: e["heldout_mlm_loss"] for e in entries if "heldout_mlm_loss" in e}


def same_vocabulary(run: pathlib.Path, committed: pathlib.Path) -> bool:
    """Returns False where two runs read text by different vocabularies."""
    ours, theirs = (
        json.loads((folder / SETTINGS_FILE).read_text())["fingerprint"]
        for folder in (run / _TOKENIZER, committed)
    )
    return ours == theirs


def comparison(
    ours: Mapping[int, float], committed: Mapping[int, float], *, vocabulary_differs: bool = False
) -> list[str]:
    """Returns a table of the losses at the steps that both have, and what it says.

    Args:
      ours: step -> loss of a new run.
      committed: of the committed one.
      vocabulary_differs: True if they count different tokens.

    Raises:
      UserError: if there are none.
    """
    steps = sorted(ours.keys() & committed.keys())
    if not steps:
        raise UserError("the run has no evaluation at a step of the committed one: let it go on")
    lines = [f"{'step':>8}{'here':>10}{'committed':>12}{'difference':>12}"]
    lines += [
        f"{step:8,}{ours[step]:10.4f}{committed[step]:12.4f}{ours[step] - committed[step]:+12.4f}"
        for step in steps
    ]
    largest = max(abs(ours[step] - committed[step]) for step in steps)
    if vocabulary_differs:
        return [*lines, f"another vocabulary: prepare the corpus with {TRAINER} to compare losses"]
    if not largest:
        return [*lines, "all losses are the committed ones"]
    if largest <= CLOSE:
        return [*lines, f"at most {largest:.4f} nats apart, as on another kind of machine"]
    return [*lines, f"up to {largest:.4f} nats apart: another text, or another recipe"]


def main(argv: Sequence[str]) -> None:
    """Prints the losses of a run beside the committed ones."""
    if len(argv) != 2:
        raise UserError("name one run: python -m experiments.committed_losses runs/modern_mini")
    run = given_path(argv[1])
    for name in (LOG_FILE, f"{_TOKENIZER}/{SETTINGS_FILE}"):
        if not (run / name).is_file():
            raise UserError(f"{argv[1]} is no run of pretraining: it has no {name}")
    ours, committed = (heldout_losses(read_log(at / LOG_FILE)) for at in (run, COMMITTED))
    differs = not same_vocabulary(run, COMMITTED)
    print("\n".join(comparison(ours, committed, vocabulary_differs=differs)))


if __name__ == "__main__":
    app.run(main, positional=True)
