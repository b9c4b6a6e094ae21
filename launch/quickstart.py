"""Text to predictions on this machine, in minutes: `make quickstart`.

It runs the drivers as a user would, and prints each command. Finished steps are not repeated, so it
can be stopped and restarted. All its files are in runs/quickstart.
"""

import hashlib
import pathlib
import shlex
import subprocess
import sys
import threading
import time
from collections import defaultdict

from bert_jax.data.corpus.python_docs import Docstring, python_docstrings
from bert_jax.files import write_atomically
from bert_jax.training.plots import plot_losses

ROOT = pathlib.Path("runs/quickstart")
LABELS = ("jax", "matplotlib", "numpy", "python", "scipy")  # 'python': the standard library
_EXAMPLES = 1000  # per label, at most
_SENTENCES = 3  # of a docstring, in an example
_DEV_SHARE = 0.2  # of the modules


def _draw(text: str) -> float:
    """Returns a number in [0, 1) from a hash of the text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) / 2**32


def label_rows(docstrings: list[Docstring]) -> dict[str, list[str]]:
    """Makes a classification task: the package that a docstring belongs to.

    The splits have different modules, so no text of a held-out module is trained on.

    Returns:
      'train' and 'dev' -> lines of text, a tab and the package.
    """
    by_label = defaultdict(list)
    for docstring in docstrings:
        text = " ".join(docstring.sentences[:_SENTENCES]).replace("\t", " ")
        if docstring.package in LABELS and len(text) >= 60:
            by_label[docstring.package].append((_draw(text), text, docstring.module))
    rows: dict[str, list[str]] = {"train": [], "dev": []}
    for label, candidates in sorted(by_label.items()):
        for _, text, module in sorted(candidates)[:_EXAMPLES]:
            rows["dev" if _draw(module) < _DEV_SHARE else "train"].append(f"{text}\t{label}")
    return rows


def write_labels(directory: pathlib.Path) -> None:
    """Writes train.tsv and dev.tsv of the classification task."""
    rows = label_rows(list(python_docstrings()))
    directory.mkdir(parents=True, exist_ok=True)
    for split, lines in rows.items():
        content = "\n".join(["text\tlabel", *lines, ""])
        write_atomically(directory / f"{split}.tsv", content.encode())


def run(*arguments: str) -> None:
    """Prints a command and runs it; exits with its status if it fails."""
    print(f"\n$ python -m {shlex.join(arguments)}", flush=True)
    begin = time.monotonic()
    finished = subprocess.run([sys.executable, "-m", *arguments], check=False)
    if finished.returncode:
        sys.exit(finished.returncode)
    print(f"({time.monotonic() - begin:.0f} s)", flush=True)


def main() -> None:
    """Prepares, pretrains, fine-tunes, predicts, and lists the files."""
    begin = time.monotonic()
    corpus, labels = ROOT / "corpus", ROOT / "labels"
    pretrained, tuned = ROOT / "pretrain", ROOT / "finetune"
    # Labels and corpus come from the same files, which are read at the same time.
    reader = threading.Thread(target=write_labels, args=(labels,))
    if not (labels / "dev.tsv").exists():
        reader.start()
    if not corpus.exists():
        run(
            "bert_jax.prepare",
            "--source=python_docs",
            "--tokenizer=train:sentencepiece:8000",
            f"--output={corpus}",
        )
    run(
        "bert_jax.pretrain",
        "--config=configs/quickstart_pretrain.py",
        f"--config.data.corpus={corpus}",
        f"--workdir={pretrained}",
    )
    if reader.ident:
        reader.join()
    run(
        "bert_jax.finetune",
        "--config=configs/quickstart_finetune.py",
        f"--checkpoint={pretrained}",
        f"--config.data.train={labels}/train.tsv",
        f"--config.data.dev={labels}/dev.tsv",
        f"--workdir={tuned}",
    )
    run(
        "bert_jax.predict",
        f"--checkpoint={pretrained}",
        "--text=Return the [MASK] of the array.",
        "--top_k=3",
    )
    for text in (
        "Return the eigenvalues of a square sparse matrix.",
        "Draw a line on the axes of the figure.",
    ):
        run("bert_jax.predict", f"--checkpoint={tuned}", f"--text={text}")
    picture = plot_losses(pretrained, ROOT / "losses.png")
    print(
        f"\nDone in {(time.monotonic() - begin) / 60:.1f} minutes. The results are in\n"
        f"  {corpus}      the tokenized text and its tokenizer\n"
        f"  {pretrained}    checkpoints, log.jsonl and tensorboard/ of the pretraining\n"
        f"  {labels}      the task, docstrings with their package: train.tsv, dev.tsv\n"
        f"  {tuned}    the fine-tuned model\n"
        f"  {picture}  a plot of the losses"
    )


if __name__ == "__main__":
    main()
