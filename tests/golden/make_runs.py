"""Writes the golden runs: a pretraining and a fine-tuning run as this version stores them.

    python -m tests.golden.make_runs

Runs it writes replace those in tests/golden/runs, which later versions must be able to read: write
new ones, under another name, only when a format changes, and keep the old ones. With each comes
arrays.json, the SHA-256 of every restored array.
"""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import Any

import jax
import numpy as np

from bert_jax.checkpoints.checkpoint import FOLDER, arrays_in, read_array, read_metadata, steps_in
from tests.fixtures.drivers import ROOT, write_task, write_text

RUNS = pathlib.Path(__file__).parent / "runs"

PRETRAIN_RECIPE = """
from bert_jax.config import PretrainConfig

def get_config():
    config = PretrainConfig(batch_size=4, steps=4, log_steps=2, eval_batches=2, eval_steps=4)
    config.checkpoint_steps, config.keep_checkpoints = 4, 1
    config.encoder.width, config.encoder.layers, config.encoder.heads = 8, 1, 2
    config.encoder.mlp_width, config.encoder.max_length = 12, 24
    config.data.corpus, config.data.length, config.data.block_examples = "corpus", 16, 12
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 1e-3, 2
    return config
"""

FINETUNE_RECIPE = """
from bert_jax.config import EncoderMode, FinetuneConfig

def get_config():
    config = FinetuneConfig(batch_size=8, epochs=1, log_steps=1, encoder_mode=EncoderMode.FROZEN)
    config.data.train, config.data.dev, config.data.length = "train.tsv", "dev.tsv", 16
    config.data.text_column, config.data.label_column = "words", "feel"
    config.optimizer.learning_rate = 3e-2
    return config
"""


def array_digests(arrays: Any) -> dict[str, str]:
    """Returns dtype, shape and SHA-256 of arrays by name."""
    return {
        name: f"{array.dtype}{list(array.shape)} {hashlib.sha256(array.tobytes()).hexdigest()}"
        for name, array in ((name, np.asarray(array)) for name, array in arrays.items())
    }


def _run(directory: pathlib.Path, driver: str, *flags: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", f"bert_jax.{driver}", *flags]
    subprocess.run(command, cwd=directory, env=environment, check=True)


def main() -> None:
    """Makes both runs in an empty directory, and keeps what later versions read."""
    jax.config.update("jax_platforms", "cpu")
    with tempfile.TemporaryDirectory() as temporary:
        directory = pathlib.Path(temporary)
        write_text(directory / "text.txt", 60)
        write_task(directory / "train.tsv", 24, seed=0)
        write_task(directory / "dev.tsv", 8, seed=1)
        (directory / "pretrain.py").write_text(PRETRAIN_RECIPE)
        (directory / "finetune.py").write_text(FINETUNE_RECIPE)
        tokenizer = "--tokenizer=train:wordpiece:60"
        source = ("--source=text:text.txt", "--heldout_rate=0.1")
        _run(directory, "prepare", *source, tokenizer, "--output=corpus")
        _run(directory, "pretrain", "--config=pretrain.py", "--workdir=pretrained")
        finetune = ("--config=finetune.py", "--checkpoint=pretrained", "--workdir=finetuned")
        _run(directory, "finetune", *finetune)
        for name in ("pretrained", "finetuned"):
            run = directory / name
            checkpoint = run / FOLDER / str(steps_in(run)[-1])
            metadata = read_metadata(checkpoint)
            digests = {
                item: array_digests(
                    {each: read_array(checkpoint, item, each, metadata) for each in arrays}
                )
                for item in ("params", "opt_state")
                if (arrays := arrays_in(checkpoint, item))
            }
            (run / "arrays.json").write_text(json.dumps(digests, indent=1) + "\n")
            unread = shutil.ignore_patterns("tensorboard", "compiled", "*.png", "predictions*")
            shutil.rmtree(RUNS / name, ignore_errors=True)
            shutil.copytree(run, RUNS / name, ignore=unread)


if __name__ == "__main__":
    main()
