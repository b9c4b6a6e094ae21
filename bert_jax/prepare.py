"""Turns text into a tokenised corpus on disk, once; pretraining reads nothing else.

python -m bert_jax.prepare --source='text:corpus/*.txt' --tokenizer=train:sentencepiece:8000 \
        --output=data/wiki
"""

import hashlib
import itertools
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags
from tqdm import tqdm

from bert_jax import cli
from bert_jax.data.corpus import SPLITS, SplitWriter, token_dtype, write_manifest
from bert_jax.data.documents import Layout, Source
from bert_jax.data.sentences import SentenceSplitter
from bert_jax.data.sources import open_source
from bert_jax.errors import UserError
from bert_jax.tokenizer import Tokenizer, load_tokenizer
from bert_jax.tokenizer_training import ModelType, train_sentencepiece

_SOURCE = flags.DEFINE_string("source", None, "text:GLOB, jsonl:GLOB#FIELD or python_docs")
_LAYOUT = flags.DEFINE_enum_class(
    "layout", Layout.LINES, Layout, "what a line is: a sentence, or text to be split"
)
_LANGUAGE = flags.DEFINE_string("language", "en", "whose rules split text into sentences")
_TOKENIZER = flags.DEFINE_string(
    "tokenizer",
    "train:sentencepiece:8000",
    "train:sentencepiece:SIZE, train:sentencepiece-bpe:SIZE, a .model file, a vocab.txt, or the"
    " tokenizer/ of a corpus or a pretraining run",
)
_LOWER_CASE = flags.DEFINE_bool(
    "lower_case", True, "for a vocab.txt: lower-case and strip accents (BERT uncased)"
)
_OUTPUT = flags.DEFINE_string("output", None, "the directory to make")
_HELDOUT_RATE = flags.DEFINE_float("heldout_rate", 0.02, "share of documents that are held out")

_TRAINING_BYTES = 1 << 25  # of text that a tokenizer is trained on, about
_PROGRESS_SECONDS = 10
_MODEL_TYPES = {"sentencepiece": ModelType.UNIGRAM, "sentencepiece-bpe": ModelType.BPE}


def split_of(sentences: Sequence[str], heldout_rate: float) -> str:
    """Says which split a document is in, from its text alone: copies of it stay together."""
    digest = hashlib.blake2b("\n".join(sentences).encode(), digest_size=8).digest()
    return "heldout" if int.from_bytes(digest) < heldout_rate * 2**64 else "train"


def make_tokenizer(
    spec: str,
    source: Source,
    splitter: SentenceSplitter,
    *,
    lower_case: bool,
    heldout_rate: float,
) -> Tokenizer:
    """Loads a tokenizer, or trains one on the training documents of the source.

    Raises:
      UserError: for a spec that names nothing.
    """
    if not spec.startswith("train:"):
        return load_tokenizer(spec, lower_case=lower_case)
    kind, _, size = spec.removeprefix("train:").partition(":")
    if kind not in _MODEL_TYPES or not size.isdecimal():
        raise UserError(
            f"--tokenizer={spec}: write train:sentencepiece:SIZE or train:sentencepiece-bpe:SIZE"
        )

    # Every n-th document, so that training sees all of a source that is too large to be seen whole.
    every = -(-sum(piece.size for piece in source.pieces) // _TRAINING_BYTES)

    def training_text() -> Iterator[str]:
        pieces = _documents(source, splitter, "reading for the tokenizer")
        for number, sentences in enumerate(itertools.chain.from_iterable(pieces)):
            if number % every == 0 and split_of(sentences, heldout_rate) == "train":
                yield from sentences

    return train_sentencepiece(training_text(), vocab_size=int(size), model_type=_MODEL_TYPES[kind])


def write_corpus(
    source: Source,
    splitter: SentenceSplitter,
    tokenizer: Tokenizer,
    output: pathlib.Path,
    *,
    heldout_rate: float,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Tokenises a source into a corpus directory, which appears when it is complete.

    Memory holds one shard at a time.

    Args:
      source: read once, a piece a shard.
      splitter: makes sentences of its documents.
      tokenizer: is stored with the corpus.
      output: must not exist.
      heldout_rate: share of documents in the held-out split.
      facts: what else the manifest should say.

    Returns:
      The manifest.
    """
    staging = output.with_name(f".{output.name}.{os.getpid()}.partial")
    shutil.rmtree(staging, ignore_errors=True)  # of a killed process that had the same number
    try:
        staging.mkdir(parents=True)
        tokenizer.save(staging / "tokenizer")
        dtype = token_dtype(tokenizer.vocab_size)
        splits = {name: SplitWriter(staging / name, dtype) for name in SPLITS}
        empty = 0
        for documents in _documents(source, splitter, "tokenising"):
            ids = iter(tokenizer.encode_batch([s for sentences in documents for s in sentences]))
            for sentences in documents:
                tokens = [row for _ in sentences if len(row := next(ids))]
                if tokens:
                    splits[split_of(sentences, heldout_rate)].add(tokens)
                else:
                    empty += 1
            for split in splits.values():
                split.finish_shard()
        facts = facts | {
            "heldout_rate": heldout_rate,
            "documents_without_tokens": empty,
            "tokenizer": {
                "kind": tokenizer.kind,
                "vocab_size": tokenizer.vocab_size,
                "fingerprint": tokenizer.fingerprint,
            },
        }
        manifest = write_manifest(staging, splits, facts)
        staging.rename(output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest


def _documents(source: Source, splitter: SentenceSplitter, what: str) -> Iterator[list[list[str]]]:
    """Yields the documents of each piece, as sentences; it reports how far the reading is.

    It shows a bar on a terminal, and a line now and then elsewhere.
    """
    shown, done = time.monotonic(), 0
    total = sum(piece.size for piece in source.pieces)
    with tqdm(total=total, desc=what, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        for piece in source.pieces:
            yield [splitter.split(document) for document in source.read(piece)]
            done += piece.size
            bar.update(piece.size)
            if bar.disable and time.monotonic() - shown > _PROGRESS_SECONDS:
                shown = time.monotonic()
                print(f"{what}: {done / total:.0%}", file=sys.stderr)


def summary(manifest: dict[str, Any]) -> str:
    """Describes a corpus in a few lines."""
    lines = [f"{'':9}{'documents':>12}{'sentences':>14}{'tokens':>16}"]
    for name, split in manifest["splits"].items():
        counts = (split["documents"], split["sentences"], split["tokens"])
        lines.append(f"{name:9}{counts[0]:>12,}{counts[1]:>14,}{counts[2]:>16,}")
    return "\n".join(lines)


def main() -> None:
    """Checks the flags, then makes the tokenizer and the corpus."""
    begin = time.monotonic()
    spec = cli.require("source", _SOURCE.value, "'text:corpus/*.txt'")
    output = pathlib.Path(cli.require("output", _OUTPUT.value, "data/wiki"))
    if output.exists():
        raise UserError(f"--output={output} exists: remove it or choose another name")
    if not 0 <= _HELDOUT_RATE.value < 1:
        raise UserError(f"--heldout_rate={_HELDOUT_RATE.value} must be a rate from 0 to below 1")
    source = open_source(spec, _LAYOUT.value)
    splitter = SentenceSplitter(source.layout, _LANGUAGE.value)
    tokenizer = make_tokenizer(
        _TOKENIZER.value,
        source,
        splitter,
        lower_case=_LOWER_CASE.value,
        heldout_rate=_HELDOUT_RATE.value,
    )
    manifest = write_corpus(
        source,
        splitter,
        tokenizer,
        output,
        heldout_rate=_HELDOUT_RATE.value,
        facts={"source": spec, "layout": _LAYOUT.value.value, "language": _LANGUAGE.value},
    )
    print(summary(manifest))
    print(f"vocabulary of {tokenizer.vocab_size:,} pieces ({tokenizer.kind})")
    print(f"wrote {output} in {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    cli.run(main)
