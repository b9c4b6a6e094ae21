"""Text to predictions on this machine, in minutes: `make quickstart`.

It runs the drivers as a user would, and prints each command. Finished steps are not repeated, so it
can be stopped and restarted. All its files are in runs/quickstart.
"""

import hashlib
import json
import pathlib
import shlex
import subprocess
import sys
import threading
import time
from collections import Counter

from bert_jax.data.corpus.corpus import open_corpus, read_manifest
from bert_jax.data.corpus.python_docs import Docstring, python_docstrings
from bert_jax.data.pretraining.report import unigram_entropy
from bert_jax.files import write_atomically
from bert_jax.runs.finetuning import best_scores
from bert_jax.training.logs import LOG_FILE, read_log
from bert_jax.training.plots import plot_losses

ROOT = pathlib.Path("runs/quickstart")
# Texts with a mask, and the word that was there; written down before the first run.
SENTENCES = {
    "Return True if the array is empty, False [MASK].": "otherwise",
    "This function is deprecated and will be [MASK] in a future version.": "removed",
    "The data [MASK] of the returned array.": "type",
    "The name of the file, which is used [MASK] error messages.": "for",
    "Compute the distance [MASK] two points.": "between",
}
IN_ORDER, SWAPPED = "in order", "swapped"
_EXAMPLES = {"train": 8000, "dev": 1000}
_WORDS = range(8, 25)  # in a sentence of the task
_DEV_SHARE = 0.2  # of the modules


def _draw(text: str) -> float:
    """Returns a number in [0, 1) from a hash of the text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) / 2**32


def label_rows(docstrings: list[Docstring]) -> dict[str, list[str]]:
    """Makes a classification task: is a sentence as it was written, or are two words swapped?

    The splits have different modules, so no sentence of a held-out module is trained on.

    Returns:
      'train' and 'dev' -> lines of text, a tab and the label.
    """
    modules = {text: each.module for each in docstrings for text in each.sentences}
    rows: dict[str, list[str]] = {split: [] for split in _EXAMPLES}
    for text in sorted(modules, key=_draw):
        words = text.split()
        split = "dev" if _draw(modules[text]) < _DEV_SHARE else "train"
        if len(words) in _WORDS and len(rows[split]) < _EXAMPLES[split]:
            # Not the first and last word, which a capital and a dot would betray.
            place = 1 + int(_draw(f"place {text}") * (len(words) - 3))
            first, second = words[place : place + 2]
            label = SWAPPED if first != second and _draw(f"label {text}") < 0.5 else IN_ORDER
            if label == SWAPPED:
                words[place : place + 2] = second, first
            rows[split].append(f"{' '.join(words)}\t{label}")
    return rows


def write_labels(directory: pathlib.Path) -> None:
    """Writes train.tsv and dev.tsv of the classification task."""
    rows = label_rows(list(python_docstrings()))
    directory.mkdir(parents=True, exist_ok=True)
    for split, lines in rows.items():
        content = "\n".join(["text\tlabel", *lines, ""])
        write_atomically(directory / f"{split}.tsv", content.encode())


def run(*arguments: str) -> str:
    """Prints a command and runs it; exits with its status if it fails.

    Returns:
      Its output where that is JSON lines, which are not printed; else "".
    """
    print(f"\n$ python -m {shlex.join(arguments)}", flush=True)
    begin = time.monotonic()
    output = subprocess.PIPE if "--json" in arguments else None
    finished = subprocess.run([sys.executable, "-m", *arguments], stdout=output, check=False)
    if finished.returncode:
        sys.exit(finished.returncode)
    print(f"({time.monotonic() - begin:.0f} s)", flush=True)
    return (finished.stdout or b"").decode()


def fill_masks(pretrained: pathlib.Path) -> None:
    """Shows the likeliest tokens at the masks of `SENTENCES`, and how often the word is found."""
    lines = ROOT / "masks.txt"
    write_atomically(lines, "\n".join([*SENTENCES, ""]).encode())
    answers = run("bert_jax.predict", f"--checkpoint={pretrained}", f"--input={lines}", "--json")
    found, width = 0, max(map(len, SENTENCES))
    for (text, word), line in zip(SENTENCES.items(), answers.splitlines(), strict=True):
        tokens = [each["token"].removeprefix("▁") for each in json.loads(line)["masks"][0]]
        found += word in tokens
        is_found = "yes" if word in tokens else "no"
        print(f"  {text:{width}}  {word:9} {is_found:3}  {' '.join(tokens)}")
    print(f"the word is among the first five in {found} of {len(SENTENCES)} sentences")


def compare_scores(tuned: dict[str, pathlib.Path], labels: pathlib.Path) -> None:
    """Prints the accuracy of each fine-tuned model, and of the more frequent label."""
    rows = (labels / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    (_, most) = Counter(row.rpartition("\t")[2] for row in rows).most_common(1)[0]
    print(f"\naccuracy on {len(rows):,} held-out sentences:")
    for name, workdir in tuned.items():
        print(f"  {best_scores(workdir)['dev_accuracy']:.4f}  {name}")
    print(f"  {most / len(rows):.4f}  the more frequent label")


def main() -> None:
    """Prepares, pretrains, fills masks, fine-tunes twice, predicts, and lists the files."""
    begin = time.monotonic()
    corpus, labels = ROOT / "corpus", ROOT / "labels"
    pretrained, tuned, untransferred = ROOT / "pretrain", ROOT / "finetune", ROOT / "random"
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
        "--config=pretrain_modern_tiny",
        f"--config.data.corpus={corpus}",
        f"--workdir={pretrained}",
    )
    vocab_size = read_manifest(corpus)["tokenizer"]["vocab_size"]
    entropy = unigram_entropy(open_corpus(corpus, "train"), vocab_size)
    losses = (each.get("heldout_mlm_loss") for each in read_log(pretrained / LOG_FILE))
    loss = [each for each in losses if each is not None][-1]
    print(
        f"held-out MLM loss {loss:.2f}: {entropy - loss:.2f} nats below the unigram entropy"
        f" ({entropy:.2f}), where a model is that has learnt the frequencies of tokens alone"
    )
    fill_masks(pretrained)
    if reader.ident:
        reader.join()
    for workdir, transfer in ((tuned, "True"), (untransferred, "False")):
        run(
            "bert_jax.finetune",
            "--config=quickstart_finetune",
            f"--checkpoint={pretrained}",
            f"--config.transfer={transfer}",
            f"--config.data.train={labels}/train.tsv",
            f"--config.data.dev={labels}/dev.tsv",
            f"--workdir={workdir}",
        )
    compare_scores({"pretrained": tuned, "random weights": untransferred}, labels)
    for text in ("Return the eigenvalues of a matrix.", "Return the of eigenvalues a matrix."):
        run("bert_jax.predict", f"--checkpoint={tuned}", f"--text={text}")
    picture = plot_losses(
        {"pretrain_modern_tiny": pretrained}, ROOT / "losses.png", unigram_entropy=entropy
    )
    print(
        f"\nDone in {(time.monotonic() - begin) / 60:.1f} minutes. The results are in\n"
        f"  {corpus}      the tokenized text and its tokenizer\n"
        f"  {pretrained}    checkpoints, log.jsonl and tensorboard/ of the pretraining\n"
        f"  {labels}      the task, sentences with and without swapped words: train.tsv, dev.tsv\n"
        f"  {tuned}    the fine-tuned model\n"
        f"  {untransferred}      the same from random weights\n"
        f"  {picture}  a plot of the losses"
    )


if __name__ == "__main__":
    main()
