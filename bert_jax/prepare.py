r"""Turns text into a tokenised corpus on disk, once; pretraining reads nothing else.

    python -m bert_jax.prepare --source='text:corpus/*.txt' --tokenizer=train:sentencepiece:8000 \
        --output=data/wiki
    python -m bert_jax.prepare --verify=data/wiki
    python -m bert_jax.prepare --describe=data/wiki

Interrupted, the same command goes on at the last finished shard.
"""

import functools
import typing
from collections.abc import Sequence

from absl import flags

from bert_jax.cli import app
from bert_jax.data.corpus.documents import SOURCE_KINDS, Layout
from bert_jax.files import given_path

if typing.TYPE_CHECKING:
    from bert_jax.data.pretraining.prepare import RunPieces

_SOURCE = flags.DEFINE_string("source", None, f"what to read: {SOURCE_KINDS}")
_LAYOUT = flags.DEFINE_enum_class(
    "layout", Layout.LINES, Layout, "what a line is: a sentence, or text to be split"
)
_LANGUAGE = flags.DEFINE_string("language", "en", "whose rules split text into sentences")
_TOKENIZER = flags.DEFINE_string(
    "tokenizer",
    "train:sentencepiece:8000",
    "train:KIND:SIZE with the kind sentencepiece, sentencepiece-bpe, wordpiece or bpe (byte-level);"
    " a .model file, a vocab.txt, a tokenizer.json, a vocab.json with its merges.txt, or the"
    " tokenizer/ of a corpus or a pretraining run",
)
_LOWER_CASE = flags.DEFINE_bool(
    "lower_case",
    None,
    "for WordPiece: lower-case the text (BERT uncased); not given: yes for a vocabulary"
    " that is trained, and for a vocab.txt if its pieces have no capitals",
)
_STRIP_ACCENTS = flags.DEFINE_bool(
    "strip_accents",
    None,
    "for WordPiece: strip accents, and with them the vowel signs of Hindi and others; not given: as"
    " --lower_case",
)
_OUTPUT = flags.DEFINE_string("output", None, "the directory to make")
_HELDOUT_RATE = flags.DEFINE_float("heldout_rate", 0.02, "share of documents that are held out")
_WORKERS = flags.DEFINE_integer(
    "workers", 0, "processes that tokenise; 0: one for each CPU. The corpus is the same", 0
)
_VERIFY = flags.DEFINE_string("verify", None, "instead: a corpus to compare with its checksums")
_DESCRIBE = flags.DEFINE_string("describe", None, "instead: a corpus to tell and draw facts of")


def prepare_with(run_pieces: "RunPieces") -> None:
    """Does what the flags ask for: makes a corpus, the pieces in this way, or looks at one."""
    with app.imports():
        from bert_jax.data.pretraining import prepare
    if _VERIFY.value:
        prepare.verify(given_path(_VERIFY.value))
    elif _DESCRIBE.value:
        prepare.print_description(given_path(_DESCRIBE.value))
    else:
        options = prepare.CorpusOptions(
            source=app.require("source", _SOURCE.value, "'text:corpus/*.txt'"),
            layout=_LAYOUT.value,
            language=_LANGUAGE.value,
            tokenizer=_TOKENIZER.value,
            lower_case=_LOWER_CASE.value,
            strip_accents=_STRIP_ACCENTS.value,
            heldout_rate=_HELDOUT_RATE.value,
            output=app.require_path("output", _OUTPUT.value, "data/wiki"),
        )
        prepare.make_corpus(options, run_pieces)


def main(_: Sequence[str]) -> None:
    """Makes a corpus with processes of this machine, or looks at one."""
    with app.imports():
        from bert_jax.data.pretraining.prepare import run_locally
    prepare_with(functools.partial(run_locally, processes=_WORKERS.value))


if __name__ == "__main__":
    app.run(main)
