"""Corpora for generated pages, in which every word is a token."""

import pathlib
import re
import subprocess
import sys

from bert_jax.data.corpus.corpus import Corpus, open_corpus
from bert_jax.text.tokenizer import Tokenizer, load_tokenizer

ROOT = pathlib.Path(__file__).parents[1]
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def prepare_words(text: str, directory: pathlib.Path) -> tuple[Corpus, Tokenizer]:
    """Prepares a text in a directory, with a vocabulary of its own words.

    Args:
      text: a sentence a line, a blank line between documents.
      directory: takes the text, the vocabulary and the corpus.
    """
    source, vocab, output = (directory / name for name in ("text.txt", "vocab.txt", "corpus"))
    source.write_text(text)
    words = sorted(set(re.findall(r"\w+|[^\w\s]", text.lower())))
    vocab.write_text("\n".join([*_SPECIAL, *words, ""]))
    flags = (
        f"--source=text:{source}",
        f"--tokenizer={vocab}",
        f"--output={output}",
        "--heldout_rate=0",
        "--workers=1",
    )
    subprocess.run([sys.executable, "-m", "bert_jax.prepare", *flags], check=True, cwd=ROOT)
    return open_corpus(output, "train"), load_tokenizer(output / "tokenizer")
