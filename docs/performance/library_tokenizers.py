"""Compares byte-level BPE and Unigram tokenizers with transformers, on mixed lines.

    python -m docs.performance.library_tokenizers --lines=100000 wiki.txt

Two tokenizers of 8,000 pieces are trained on the files, as RoBERTa and XLM-R lay theirs out. Every
second line is from the files; the others are drawn: many scripts, emoji, control characters, runs
of white space, words of hundreds of letters. Compared are ids, spans in the text (ours have no
white space at their ends), and pairs cut to 48 tokens; lines with a special piece, which
transformers reads as one, are counted and left out. The rates are of encoding the same lines, in
turn, on one thread.
"""

import pathlib
import random
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import tokenizers
import transformers
from absl import app, flags
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from bert_jax.data.packing.layout import RowFormat
from bert_jax.data.tasks.classes import encode_inputs
from bert_jax.data.tasks.rows import make_token_rows
from bert_jax.text.tokenizer import LibraryTokenizer, load_tokenizer

_LINES = flags.DEFINE_integer("lines", 100_000, "number of lines")
_TRAINED = 20_000  # lines to train on
_SIZE = 8_000
_LENGTH = 48  # tokens of a pair
_PIECES = ["<s>", "<pad>", "</s>", "<unk>"]
_ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
    "äöüßéèñçøåžłı",
    "абвгдежзийклмноп",
    "αβγδεζηθικλμ",
    "東京都日本語中文漢字",
    "한국어문자열",
    "العربيةنص",
    "हिन्दीपाठ",
    "😀🎉👩\u200d🏽🇩🇪",
    ".,;:!?()[]{}\"'`-–—…½ﬁ™",
    "\u0301\u0308\u200b\u00ad\ufeff\u0007\u0010",
)
_SPACES = (" ", " ", " ", "  ", "\t", "\u00a0", "\u3000", "\n")


def drawn_line(rng: random.Random) -> str:
    """Returns a line of odd words."""
    words = []
    for _ in range(rng.randrange(1, 12)):
        alphabet = rng.choice(_ALPHABETS)
        length = rng.randrange(200, 400) if rng.random() < 0.01 else rng.randrange(1, 10)
        words += ["".join(rng.choices(alphabet, k=length)), rng.choice(_SPACES)]
    return "".join(words[: rng.randrange(1, len(words) + 1)])


def lines_of(paths: list[str]) -> Iterator[str]:
    """Yields lines of the files and drawn ones by turns."""
    rng = random.Random(0)
    for path in paths:
        for line in pathlib.Path(path).read_text(encoding="utf-8").split("\n"):
            if line.strip():
                yield line[:2_000]
                yield drawn_line(rng)


def make(kind: str, lines: list[str]) -> tokenizers.Tokenizer:
    """Trains a tokenizer with the steps and the template of RoBERTa or XLM-R."""
    if kind == "byte-level BPE":
        made = tokenizers.Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer: Any = trainers.BpeTrainer(
            vocab_size=_SIZE - 1,
            special_tokens=_PIECES,
            initial_alphabet=alphabet,
            show_progress=False,
        )
    else:
        made = tokenizers.Tokenizer(models.Unigram())
        made.normalizer = normalizers.NFKC()
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=_SIZE - 1, special_tokens=_PIECES, unk_token="<unk>", show_progress=False
        )
    made.train_from_iterator(lines, trainer)
    made.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=True)])
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return made


def differing_spans(text: str, ours: Any, theirs: list[tuple[int, int]]) -> int:
    """Counts the spans that cover other characters, white space at their ends aside."""
    count = 0
    for begin, end, (first, last) in zip(ours.begins, ours.ends, theirs, strict=True):
        inked = text[first:last].strip()
        count += bool(inked) and text[begin:end] != inked
    return count


def compare(kind: str, lines: list[str], directory: str) -> None:
    """Prints a row of the table."""
    path = pathlib.Path(directory, f"{kind.split(' ')[0]}.json")
    make(kind, lines[:_TRAINED]).save(str(path))
    ours = load_tokenizer(path)
    assert isinstance(ours, LibraryTokenizer)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(path), pad_token="<pad>", model_input_names=["input_ids"]
    )
    special = [ours.id_to_piece(id) for id in ours.special.ids]
    kept = [line for line in lines if not any(piece in line for piece in special)]
    ids = spans = tokens = 0
    for line in kept:
        one = ours.encode_with_offsets(line)
        other = theirs(line, add_special_tokens=False, return_offsets_mapping=True)
        tokens += len(one.ids)
        if one.ids.tolist() != other["input_ids"]:
            ids += 1
        else:
            spans += differing_spans(line, one, other["offset_mapping"])
    firsts, seconds = kept[0::2], kept[1::2][: len(kept[0::2])]
    firsts = firsts[: len(seconds)]
    a, b, _ = encode_inputs(firsts, seconds, ours, _LENGTH)
    row_format = RowFormat(_LENGTH, 1, ours.special, pool_last=False)
    pairs = 0
    for first, second, one, other in zip(firsts, seconds, a, b, strict=True):
        if not len(other):
            continue
        batch = make_token_rows([one], [other], np.ones(1, np.int64), row_format)[0]
        found = batch["token_ids"][0][batch["example_ids"][0] > 0].tolist()
        wanted = theirs(first, second, truncation="longest_first", max_length=_LENGTH)["input_ids"]
        pairs += found != wanted
    library = tokenizers.Tokenizer.from_file(str(path))
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(3):
        begin = time.perf_counter()
        ours.encode_batch(kept)
        middle = time.perf_counter()
        for line in kept:
            _ = library.encode(line, add_special_tokens=False).ids
        times["ours"].append(middle - begin)
        times["theirs"].append(time.perf_counter() - middle)
    rate = min(times["theirs"]) / min(times["ours"])
    print(
        f"| {kind} | {len(kept):,} | {tokens:,} | {ids} | {spans} | {len(firsts):,} | {pairs}"
        f" | {len(lines) - len(kept)} | {rate:.2f} |",
        flush=True,
    )


def main(argv: list[str]) -> None:
    """Prints the table."""
    lines = [line for line, _ in zip(lines_of(argv[1:]), range(_LINES.value), strict=False)]
    columns = "tokenizer, lines, tokens, ids differ, spans differ, pairs, differ, left out, rate"
    print(f"| {columns.replace(', ', ' | ')} |")
    print(f"|{'---|' * len(columns.split(', '))}")
    with tempfile.TemporaryDirectory() as directory:
        for kind in ("byte-level BPE", "Unigram"):
            compare(kind, lines, directory)


if __name__ == "__main__":
    app.run(main)
