"""A sample of a source's training text, to train a tokenizer on."""

from collections.abc import Iterator

from bert_jax.data.corpus.documents import Piece, Source
from bert_jax.data.corpus.pieces import joined, split_of, text_digest
from bert_jax.data.corpus.sentences import SentenceSplitter

SAMPLE_CHARACTERS = 1 << 25  # of text; a trainer holds it in memory
SAMPLED_PIECES = 256  # at most: the start of each is read


def sampled_pieces(source: Source) -> list[Piece]:
    """Chooses pieces spread evenly over the source: all of them, where they are few."""
    count = min(len(source.pieces), SAMPLED_PIECES)
    return [source.pieces[number * len(source.pieces) // count] for number in range(count)]


def training_sentences(
    source: Source, splitter: SentenceSplitter, heldout_rate: float
) -> Iterator[list[str]]:
    """Yields the sentences of the first training documents of each of the sampled pieces.

    Each piece gives as much of `SAMPLE_CHARACTERS` as its share of the input is; so a source that
    is smaller is read whole.

    Args:
      source: read as far as the sample goes.
      splitter: makes sentences of its documents.
      heldout_rate: share of documents that no sample may hold.
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
