"""Text to predictions on this machine, in minutes: `make quickstart`.

It runs the same drivers that a user types, and shows each command. What was finished is not done
again, so it can be stopped and started. Everything it makes is under runs/quickstart.
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
LABELS = ("jax", "matplotlib", "numpy", "python", "scipy")  # packages; 'python': its library
_EXAMPLES = 1000  # of each label, at most
_SENTENCES = 3  # of a docstring make an example
_DEV_SHARE = 0.2  # of the modules


def _draw(text: str) -> float:
    """A number in [0, 1) that is the text's own."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) / 2**32


def label_rows(docstrings: list[Docstring]) -> dict[str, list[str]]:
    """Makes a labelled task of docstrings: which package was this written for?

    Whole modules are held out, so that nothing of a held-out module is seen in training.

    Returns:
      The lines of 'train' and 'dev': text, a tab, the package.
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
    """Writes train.tsv and dev.tsv."""
    rows = label_rows(list(python_docstrings()))
    directory.mkdir(parents=True, exist_ok=True)
    for split, lines in rows.items():
        content = "\n".join(["text\tlabel", *lines, ""])
        write_atomically(directory / f"{split}.tsv", content.encode())


def run(*arguments: str) -> None:
    """Shows a command, runs it, and stops here if it fails."""
    print(f"\n$ python -m {shlex.join(arguments)}", flush=True)
    begin = time.monotonic()
    finished = subprocess.run([sys.executable, "-m", *arguments], check=False)
    if finished.returncode:
        sys.exit(finished.returncode)
    print(f"({time.monotonic() - begin:.0f} s)", flush=True)


def main() -> None:
    """Prepares, pretrains, fine-tunes, predicts, and says where everything is."""
    begin = time.monotonic()
    corpus, labels = ROOT / "corpus", ROOT / "labels"
    pretrained, tuned = ROOT / "pretrain", ROOT / "finetune"
    # The labels come from the same files as the corpus; both are read at the same time.
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
        f"\nDone in {(time.monotonic() - begin) / 60:.1f} minutes. What there is now:\n"
        f"  {corpus}      the tokenised text and its tokenizer\n"
        f"  {pretrained}    checkpoints, log.jsonl, tensorboard/ of the pretraining\n"
        f"  {labels}      which package was a docstring written for: train.tsv, dev.tsv\n"
        f"  {tuned}    the fine-tuned model\n"
        f"  {picture}  the losses, as a picture"
    )


if __name__ == "__main__":
    main()
