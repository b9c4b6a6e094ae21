"""Samples a source's training text, to train a tokenizer on."""

from collections.abc import Iterator

from bert_jax.data.corpus.documents import Piece, Source
from bert_jax.data.corpus.pieces import joined, split_of, text_digest
from bert_jax.data.corpus.sentences import SentenceSplitter

SAMPLE_CHARACTERS = 1 << 25  # of text, about; the trainer needs it in memory
SAMPLED_PIECES = 256  # at most; only the begin of each is read


def sampled_pieces(source: Source) -> list[Piece]:
    """Returns at most `SAMPLED_PIECES` pieces, spread evenly over the source."""
    count = min(len(source.pieces), SAMPLED_PIECES)
    return [source.pieces[number * len(source.pieces) // count] for number in range(count)]


def training_sentences(
    source: Source, splitter: SentenceSplitter, heldout_rate: float
) -> Iterator[list[str]]:
    """Yields the sentences of the first training documents of each sampled piece.

    Each piece gives `SAMPLE_CHARACTERS` in proportion to its size; a smaller source is read whole.

    Args:
      source: of the documents.
      splitter: splits documents into sentences.
      heldout_rate: share of documents that are held out, and so left out of the sample.
    """
    pieces = sampled_pieces(source)
    total = sum(piece.size for piece in pieces)
    for piece in pieces:
        yield _first_sentences(
            source, piece, splitter, heldout_rate, SAMPLE_CHARACTERS * piece.size // total
        )


def _first_sentences(
    source: Source,
    piece: Piece,
    splitter: SentenceSplitter,
    heldout_rate: float,
    characters: int,
) -> list[str]:
    found, size = [], 0
    for document in source.read(piece):
        sentences = splitter.split(document)
        if sentences and split_of(text_digest(joined(sentences)), heldout_rate) == "train":
            found += sentences
            size += sum(map(len, sentences))
        if size >= characters:
            break
    return found
