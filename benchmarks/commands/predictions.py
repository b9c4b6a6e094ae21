"""Times the commands that people wait for, beside transformers on the same model and lines.

    python -m benchmarks.commands.predictions --vocab=vocab.txt --lines=lines.txt --sizes=tiny

A model of each size with random weights is saved for transformers and converted. Each command runs
as a whole: its start, its compilation (the second time, programs are kept) and all lines. The
peer's time is that of its lines alone, with the size of batches that is best for it.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app, flags
from transformers import BertForSequenceClassification

from benchmarks.commands.their_models import save_model

_VOCAB = flags.DEFINE_string("vocab", None, "vocab.txt of a WordPiece tokenizer", required=True)
_LINES = flags.DEFINE_string("lines", None, "a file with a text a line", required=True)
_MODELS = flags.DEFINE_list("sizes", ["tiny", "mini", "small", "base"], "models to measure")


def run(module: str, *words: str) -> tuple[float, str]:
    """Runs a module; returns the seconds from its start to its end, and what it printed."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", module, *words], check=True, stdout=subprocess.PIPE, text=True
    )
    return time.perf_counter() - begin, done.stdout


def main(_: list[str]) -> None:
    """Measures each size and prints a line of JSON for it."""
    for size in _MODELS.value:
        with tempfile.TemporaryDirectory() as name:
            print(json.dumps({"size": size} | measure(size, pathlib.Path(name))), flush=True)


def measure(size: str, folder: pathlib.Path) -> dict[str, Any]:
    """Returns the seconds of each command for a size, and the ratios to the peer."""
    theirs, ours = folder / "theirs", folder / "ours"
    save_model(BertForSequenceClassification, size, _VOCAB.value, theirs)
    run("bert_jax.convert", f"--from=hf:{theirs}", f"--to={ours}", "--noverify")
    model, lines = f"--checkpoint={ours}", f"--input={_LINES.value}"
    commands = {
        "one_text": (model, "--text=this teddy bear is so cute."),
        "classes": (model, lines, "--json"),
        "vectors": (model, lines, "--features=mean"),
    }
    figures: dict[str, Any] = {}
    for number in range(2):
        for name, words in commands.items():
            output = f"--output={folder / f'{number}.npy'}"
            words = (*words, output) if name == "vectors" else words
            figures[f"{name}_{('cold', 'warm')[number]}"], _ = run("bert_jax.predict", *words)
    for kind in ("classes", "vectors"):
        flags_of_peer = (f"--model={theirs}", lines, f"--kind={kind}")
        _, printed = run("benchmarks.commands.their_predictions", *flags_of_peer)
        peer = json.loads(printed.splitlines()[-1])
        figures[f"{kind}_peer"], figures[f"{kind}_peer_batch"] = peer["seconds"], peer["batch_size"]
        figures[f"{kind}_ratio"] = peer["seconds"] / figures[f"{kind}_warm"]
    return figures


if __name__ == "__main__":
    app.run(main)
