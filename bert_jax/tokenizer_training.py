"""Training a SentencePiece model on a stream of text; `prepare` calls it."""

import enum
import io
import re
from collections.abc import Iterable, Iterator

import sentencepiece

from bert_jax.errors import UserError
from bert_jax.tokenizer import SentencePieceTokenizer, check_unicode

SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4

# SentencePiece skips what is longer than 4192 bytes, so that pieces of at most four times this
# many bytes are all seen.
_MAX_CHARACTERS = 1024
# It also skips every sentence that holds this character, which it uses for itself.
_RESERVED = "\u2585"
# The result depends on how many threads share the work, so this may never follow the machine.
_THREADS = 16


class ModelType(enum.Enum):
    """How SentencePiece chooses its pieces."""

    UNIGRAM = "unigram"
    BPE = "bpe"


def train_sentencepiece(
    sentences: Iterable[str], *, vocab_size: int, model_type: ModelType
) -> SentencePieceTokenizer:
    """Trains a SentencePiece model; the same sentences give the same model, bit for bit.

    The sentences are held in memory: pass a sample of a large corpus. Interrupting with ctrl-C
    takes effect when the training ends.

    Args:
      sentences: texts of any length; long ones are cut, at white space where there is some.
      vocab_size: pieces, with the five special ones.
      model_type: unigram or BPE.

    Raises:
      UserError: if the text is empty, or too small or too varied for the vocabulary size.
    """
    if vocab_size <= len(SPECIAL_PIECES):
        raise UserError(
            f"a vocabulary of {vocab_size} pieces has no room beside the {len(SPECIAL_PIECES)}"
            " special ones: choose some thousands"
        )
    failures: list[BaseException] = []
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_trainable(sentences, failures),
            model_writer=model,
            model_type=model_type.value,
            vocab_size=vocab_size,
            pad_id=0,
            pad_piece="[PAD]",
            unk_id=1,
            unk_piece="[UNK]",
            bos_id=-1,
            eos_id=-1,
            control_symbols=list(SPECIAL_PIECES[2:]),
            num_threads=_THREADS,
            minloglevel=2,  # errors only; they also come as exceptions
        )
    except RuntimeError as error:
        if failures:
            raise failures[0] from None
        raise UserError(_explain(str(error), vocab_size)) from None
    return SentencePieceTokenizer(model.getvalue())


def _trainable(sentences: Iterable[str], failures: list[BaseException]) -> Iterator[str]:
    """Yields pieces that SentencePiece will not skip, and keeps what the iterator raised.

    The trainer turns any exception into a RuntimeError that has forgotten its type.
    """
    try:
        for sentence in sentences:
            check_unicode([sentence])
            yield from _cut(sentence.replace(_RESERVED, " "))
    except BaseException as error:
        failures.append(error)
        raise


def _cut(sentence: str) -> Iterator[str]:
    begin = 0
    while len(sentence) - begin > _MAX_CHARACTERS:
        space = sentence.rfind(" ", begin + 1, begin + _MAX_CHARACTERS)
        end = space if space > 0 else begin + _MAX_CHARACTERS
        yield sentence[begin:end]
        begin = end
    yield sentence[begin:]


def _explain(message: str, vocab_size: int) -> str:
    """Turns SentencePiece's error into one line with a remedy."""
    if too_large := re.search(r"set it to a value <= (\d+)", message):
        return (
            f"a vocabulary of {vocab_size} pieces is more than the training text can fill: at most"
            f" {too_large[1]}, or give more text"
        )
    if too_small := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return (
            f"a vocabulary of {vocab_size} pieces cannot hold the characters of the training text:"
            f" at least {too_small[1]}"
        )
    if "sentences_.empty()" in message or "all_chars_count" in message:
        return "the text to train the tokenizer on is empty: name sources that hold text"
    return f"SentencePiece could not be trained: {' '.join(message.split())}"
