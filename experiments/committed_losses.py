"""The losses of a pretraining that was made anew, beside the committed ones."""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from bert_jax.errors import UserError
from bert_jax.training.logs import LOG_FILE

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
