"""The losses of a model that was made anew, beside the committed ones."""

import pytest

from bert_jax.errors import UserError
from bert_jax.training.logs import read_log
from experiments.committed_losses import COMMITTED, comparison, heldout_losses


@pytest.mark.parametrize(
    ("shift", "said"),
    [
        (0.0, "all losses are the committed ones"),
        (0.004, "at most 0.0040 nats apart, as on another kind of machine"),
        (-0.3, "up to 0.3000 nats apart: another text, or another recipe"),
    ],
)
def test_losses_are_compared_step_by_step(shift: float, said: str) -> None:
    committed = heldout_losses(read_log(COMMITTED))
    assert len(committed) == 16 and committed[8000] < 3.6
    ours = {step: loss + shift * (step == 8000) for step, loss in committed.items()}
    *lines, last = comparison(ours | {8500: 9.9}, committed)
    assert last == said and len(lines) == 17 and lines[-1].endswith(f"{shift:+.4f}")


def test_a_run_without_evaluations_is_not_compared() -> None:
    with pytest.raises(UserError, match="let it go on"):
        comparison({3: 7.0}, {500: 5.0})
