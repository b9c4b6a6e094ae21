"""Compares WordPiece ids and character offsets with those of transformers' fast tokenizer.

    python -m docs.performance.tokenizer_parity --vocab=vocab.txt train.tsv test.conll wiki.txt

A text is the first column of a .tsv, a sentence of a .conll (a word per line, followed by tags), or
a line of any other file. Texts with a special piece such as "[SEP]" are counted and left out:
transformers reads it as the special token, and this project as text. Offsets that differ only by
combining marks after a token that lost them are counted separately.
"""

import dataclasses
import itertools
import pathlib
import unicodedata
from collections.abc import Iterator

import numpy as np
import transformers
from absl import app, flags

from bert_jax.text.tokenizer import load_tokenizer

_VOCAB = flags.DEFINE_string("vocab", None, "vocab.txt of a WordPiece tokenizer", required=True)
_LIMIT = flags.DEFINE_integer("megabytes", 10, "read at most so much of a file")

_SHOWN = 5  # differences


def read_texts(path: pathlib.Path) -> Iterator[str]:
    """Yields the texts of a file."""
    content = path.read_bytes()[: _LIMIT.value * 10**6].decode(errors="ignore")
    if path.suffix == ".conll":
        words = [line.split("\t")[0].strip() for line in content.split("\n")]
        for is_word, run in itertools.groupby(words, bool):
            if is_word:
                yield " ".join(run)
        return
    for line in content.split("\n"):
        yield line.split("\t")[0] if path.suffix == ".tsv" else line


def compare(path: pathlib.Path, *, lower_case: bool) -> None:
    """Compares the tokenizers on a file, and prints the counts."""
    ours = load_tokenizer(_VOCAB.value, lower_case=lower_case)
    theirs = transformers.BertTokenizer(_VOCAB.value, do_lower_case=lower_case)
    special = [ours.id_to_piece(id) for id in dataclasses.astuple(ours.special)]
    counts = dict.fromkeys(("texts", "tokens", "left_out", "ids", "offsets", "accents"), 0)
    for text in read_texts(path):
        if any(piece in text for piece in special):
            counts["left_out"] += 1
            continue
        one = ours.encode_with_offsets(text)
        other = theirs(text, add_special_tokens=False, return_offsets_mapping=True)
        counts["texts"] += 1
        counts["tokens"] += len(one.ids)
        if one.ids.tolist() != other["input_ids"]:
            counts["ids"] += 1
            if counts["ids"] <= _SHOWN:
                print(f"  ids differ: {text[:200]!r}")
            continue
        spans = np.array(other["offset_mapping"]).reshape(-1, 2)
        for token in np.flatnonzero((one.begins != spans[:, 0]) | (one.ends != spans[:, 1])):
            behind = text[spans[token, 1] : one.ends[token]]
            same_begin = one.begins[token] == spans[token, 0]
            if same_begin and behind and all(unicodedata.category(c) == "Mn" for c in behind):
                counts["accents"] += 1
                continue
            counts["offsets"] += 1
            if counts["offsets"] <= _SHOWN:
                print(f"  offsets differ: {text[:200]!r}, token {token}")
    print(
        f"{path.name} ({'uncased' if lower_case else 'cased'}): {counts['texts']:,} texts,"
        f" {counts['tokens']:,} tokens; ids differ in {counts['ids']}, offsets in"
        f" {counts['offsets']}, accents' offsets in {counts['accents']};"
        f" {counts['left_out']} texts with special pieces",
        flush=True,
    )


def main(argv: list[str]) -> None:
    """Compares every file, uncased and cased."""
    for name in argv[1:]:
        for lower_case in (True, False):
            compare(pathlib.Path(name), lower_case=lower_case)


if __name__ == "__main__":
    app.run(main)
