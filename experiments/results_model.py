"""Makes the encoder of README's table anew, in an hour, and compares its losses.

    python -m experiments.results_model --data=data --workdir=runs/results

It prepares `text/*.txt` of the data folder, pretrains `pretrain_modern_mini` on it, and prints the
held-out losses beside those of experiments/results/pretrain_modern_mini_enwiki. From the same text
they are the same on a machine of the same kind; on another one sums are rounded otherwise, and the
losses part in the third digit. Stopped, the same command goes on.
"""

import pathlib
import subprocess
import sys
from collections.abc import Sequence

from absl import flags

from bert_jax.cli import app
from bert_jax.errors import UserError
from bert_jax.files import given_path
from bert_jax.training.logs import LOG_FILE, read_log
from experiments.committed_losses import COMMITTED, comparison, heldout_losses

ROOT = pathlib.Path(__file__).parents[1]

_DATA = flags.DEFINE_string("data", "data", "the data folder; its text/*.txt is read")
_WORKDIR = flags.DEFINE_string("workdir", "runs/results", "for the corpus and the run")


def _drive(driver: str, *words: str) -> None:
    subprocess.run([sys.executable, "-m", f"bert_jax.{driver}", *words], cwd=ROOT, check=True)


def main(_: Sequence[str]) -> None:
    """Prepares, pretrains and compares."""
    text = given_path(_DATA.value).absolute() / "text"
    if not text.is_dir():
        raise UserError(f"--data={_DATA.value} has no folder text: put .txt files there")
    workdir = given_path(_WORKDIR.value).absolute()
    corpus, run = workdir / "corpus", workdir / "modern_mini"
    try:
        if not corpus.exists():
            source = (f"--source=text:{text}", "--layout=paragraphs")
            tokenizer = "--tokenizer=train:sentencepiece:8000"
            _drive("prepare", *source, tokenizer, f"--output={corpus}")
        config = ("--config=pretrain_modern_mini", f"--config.data.corpus={corpus}")
        _drive("pretrain", *config, f"--workdir={run}")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)  # the driver has said why
    ours, committed = (heldout_losses(read_log(path)) for path in (run / LOG_FILE, COMMITTED))
    print("\n".join(comparison(ours, committed)))


if __name__ == "__main__":
    app.run(main)
