"""Detects lines of several sentences in a source that is read with one sentence a line."""

from collections.abc import Iterator

from bert_jax.data.corpus.documents import Layout, Source
from bert_jax.data.corpus.sentences import SentenceSplitter
from bert_jax.errors import UserError

_PIECES = 8  # spread evenly over the source
_PIECE_CHARACTERS = 1 << 14  # read of each
_LINE_CHARACTERS = 1 << 12  # split of each line; splitting is slow for very long ones
_LONG_LINE = 200  # bytes; a sentence of English has about 120
_SHARE = 0.5  # of the text, in long lines of several sentences


def layout_warning(source: Source, language: str) -> str:
    """Returns a warning if the lines of a source look like paragraphs, not sentences; else ''.

    Reads a small sample. Faults of the input are ignored here: they are reported when it is read.

    Args:
      source: with any layout; only `Layout.LINES` is checked.
      language: of the text.
    """
    if source.layout is not Layout.LINES or not source.layout_is_given:
        return ""
    splitter = SentenceSplitter(Layout.PARAGRAPHS, language)
    lines = sentences = size = size_of_paragraphs = 0
    try:
        for line in _sample(source):
            found = len(splitter.split_text(line[:_LINE_CHARACTERS]))
            lines, sentences, size = lines + 1, sentences + found, size + len(line)
            if found > 1 and len(line.encode()) >= _LONG_LINE:
                size_of_paragraphs += len(line)
    except UserError:
        return ""
    if size_of_paragraphs <= _SHARE * size:
        return ""
    return (
        f"a line of --source has {sentences / lines:.1f} sentences and {size / lines:,.0f}"
        " characters on average, but --layout=lines takes each line as one sentence, and"
        " pretraining cuts what does not fit into a row: use --layout=paragraphs"
    )


def _sample(source: Source) -> Iterator[str]:
    """Yields the first lines of pieces that are spread evenly over the source."""
    count = min(len(source.pieces), _PIECES)
    for number in range(count):
        size = 0
        for document in source.read(source.pieces[number * len(source.pieces) // count]):
            yield from document.lines
            size += sum(map(len, document.lines))
            if size >= _PIECE_CHARACTERS:
                break
