"""Draws the losses of the two hours of mini on Wikipedia into one picture.

python -m docs.curves
"""

from bert_jax.training.plots import plot_losses
from docs.results import RESULTS, ROOT

RUNS = {
    "pretrain_mini_cpu": RESULTS / "pretrain_mini_enwiki",
    "pretrain_modern_mini": RESULTS / "pretrain_modern_mini_enwiki",
}
UNIGRAM_ENTROPY = 6.97  # of the training tokens, in nats, to 0.01; `prepare --describe` tells it

if __name__ == "__main__":
    plot_losses(RUNS, ROOT / "docs" / "curves.png", unigram_entropy=UNIGRAM_ENTROPY)
