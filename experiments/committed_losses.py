"""Compares the held-out losses of a new run of `pretrain_modern_mini` with the committed ones.

    python -m experiments.committed_losses runs/results/modern_mini

`make results-model` prepares, pretrains and compares. From the same text the losses are the same on
a machine of the same kind; on another one sums are rounded otherwise, and the losses part in the
third digit.
"""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bert_jax.cli import app
from bert_jax.errors import UserError
from bert_jax.files import given_path
from bert_jax.training.logs import LOG_FILE, read_log

_RESULTS = pathlib.Path(__file__).parent / "results"
COMMITTED = _RESULTS / "pretrain_modern_mini_enwiki" / LOG_FILE
CLOSE = 0.02  # nats


def heldout_losses(entries: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """Returns step -> held-out MLM loss, of the entries of a log."""
    return {e["step"]: e["heldout_mlm_loss"] for e in entries if "heldout_mlm_loss" in e}


def comparison(ours: Mapping[int, float], committed: Mapping[int, float]) -> list[str]:
    """Returns a table of the losses at the steps that both have, and what it says.

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
    if not largest:
        return [*lines, "all losses are the committed ones"]
    if largest <= CLOSE:
        return [*lines, f"at most {largest:.4f} nats apart, as on another kind of machine"]
    return [*lines, f"up to {largest:.4f} nats apart: another text, or another recipe"]


def main(argv: Sequence[str]) -> None:
    """Prints the losses of a run beside the committed ones."""
    if len(argv) != 2:
        raise UserError("name one run: python -m experiments.committed_losses runs/modern_mini")
    log = given_path(argv[1]) / LOG_FILE
    if not log.is_file():
        raise UserError(f"{argv[1]} is no run: it has no {LOG_FILE}")
    ours, committed = (heldout_losses(read_log(path)) for path in (log, COMMITTED))
    print("\n".join(comparison(ours, committed)))


if __name__ == "__main__":
    app.run(main, positional=True)
