"""The rows of a WordPiece vocabulary: how a vocab.txt is read, and what its pieces tell."""

import pathlib
from collections.abc import Sequence

from bert_jax.errors import UserError

VOCAB_FILE = "vocab.txt"
SPECIAL_PIECES_OF_WORDPIECE = {
    "pad": "[PAD]",
    "unk": "[UNK]",
    "cls": "[CLS]",
    "sep": "[SEP]",
    "mask": "[MASK]",
}
_INSIDE = "##"  # before a piece that continues a word
# Marks of words in vocabularies of other algorithms: (mark, where it stands, who writes it).
_FOREIGN_MARKS = (
    ("▁", str.startswith, "SentencePiece"),
    ("Ġ", str.startswith, "byte-level BPE"),
    ("</w>", str.endswith, "BPE"),
    ("@@", str.endswith, "BPE"),
)
# An uncased vocabulary may have a few pieces with capitals, such as names added by hand; a cased
# one has tens of percent.
_CASED_SHARE = 0.01


def read_vocab(path: pathlib.Path) -> list[str]:
    """Reads the rows of a vocab.txt, one piece a line, as transformers and Google's code do.

    White space at the end of a line is none of the piece; a blank line is a row without a piece.

    Raises:
      UserError: if it cannot be read.
    """
    try:
        text = read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{str(path)!r} is not UTF-8 at byte {error.start}: save it as UTF-8"
        ) from None
    # Pieces may have other characters that str.splitlines splits at.
    line_end = "\n" if "\n" in text else "\r"
    lines = text.removesuffix(line_end).split(line_end) if text else []
    return [line.rstrip() for line in lines]


def read_file(path: pathlib.Path) -> bytes:
    """Returns the content of a file of a tokenizer.

    Raises:
      UserError: if it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r} of the tokenizer: {error.strerror}") from None


def live_rows(vocab: Sequence[str]) -> list[str]:
    """Returns the rows with "" for those that no text becomes, so that ids stay as they are.

    Of equal rows the last one counts.
    """
    last = {piece: id for id, piece in enumerate(vocab)}
    return [
        piece if last[piece] == id and not is_never_a_word(piece) else ""
        for id, piece in enumerate(vocab)
    ]


def is_never_a_word(piece: str) -> bool:
    """Returns True for a piece that no word has, nor a line of a vocab.txt can hold."""
    return piece.startswith("\ufeff") or any(character.isspace() for character in piece)


def row_notes(vocab: Sequence[str]) -> list[str]:
    """Returns lines for a reader about rows that are blank or repeat another one."""
    notes = []
    first: dict[str, int] = {}
    repeats = [id for id, piece in enumerate(vocab) if piece and first.setdefault(piece, id) != id]
    if repeats:
        piece = vocab[repeats[0]]
        notes.append(
            f"{len(repeats):,} of the vocabulary's {len(vocab):,} lines repeat an earlier one"
            f" (line {repeats[0] + 1} repeats {piece!r} of line {first[piece] + 1}): the last one"
            " counts, the other ids stay unused"
        )
    if blank := [id for id, piece in enumerate(vocab) if not piece]:
        notes.append(
            f"{len(blank):,} of the vocabulary's {len(vocab):,} lines are blank (the first is line"
            f" {blank[0] + 1}): their ids stay unused"
        )
    return notes


def check_marks(vocab: Sequence[str], name: str) -> None:
    """Checks that the pieces are not those of another algorithm, whose texts would become [UNK].

    Raises:
      UserError: if more of them have the mark of another one than WordPiece's "##".
    """
    ours = sum(piece.startswith(_INSIDE) for piece in vocab)
    for mark, has, algorithm in _FOREIGN_MARKS:
        found = [piece for piece in vocab if has(piece, mark) and piece != mark]
        if len(found) > ours:
            raise UserError(
                f"{name}: {len(found):,} pieces such as {found[0]!r} are of {algorithm}, and"
                f" {ours:,} of WordPiece: give the tokenizer that they belong to, a SentencePiece"
                " *.model file for example"
            )


def is_cased(vocab: Sequence[str]) -> bool:
    """Returns True if the vocabulary was made of text with capitals, judging by its pieces.

    Only pieces of letters count: "[E1]" and "[unused1]" say nothing, nor do scripts without case.
    """
    bodies = [piece.removeprefix(_INSIDE) for piece in vocab]
    letters = [body for body in bodies if body.isalpha() and body.lower() != body.upper()]
    return sum(body != body.lower() for body in letters) > _CASED_SHARE * len(letters)


def case_note(cased: bool) -> str:
    """Returns a line for a reader about `is_cased`."""
    return (
        "the vocabulary is cased, judging by its pieces: text keeps its capitals and accents"
        if cased
        else "the vocabulary is uncased, judging by its pieces: text is lower-cased"
    )
