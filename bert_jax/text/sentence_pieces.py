"""SentencePiece models, trained here or elsewhere."""

import base64
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from bert_jax.errors import UserError
from bert_jax.text.interface import Encoded, SpecialIds, Tokenizer, check_unicode, fingerprint
from bert_jax.text.offsets import piece_spans

SENTENCEPIECE_FILE = "sentencepiece.model"

# The names that each special piece may have in a SentencePiece model, the preferred one first. The
# unknown piece is found without a name: every model has exactly one.
_PIECE_NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "cls": ("[CLS]", "<cls>", "<s>"),
    "sep": ("[SEP]", "<sep>", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
_SPACE = "▁"  # SentencePiece's character for a space, so before a word


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model, trained here or elsewhere."""

    kind = "sentencepiece"

    def __init__(self, model: bytes, name: str = "SentencePiece model"):
        """Reads a serialised model.

        Args:
          model: the content of a *.model file.
          name: of the model in error messages.

        Raises:
          UserError: if it is not a SentencePiece model, lacks a special piece, or has one that text
            can become.
        """
        try:
            # SentencePiece would load an empty model, without any piece.
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model or b"\0")
        except RuntimeError:
            raise UserError(
                f"{name} is not a SentencePiece model: give a *.model file that SentencePiece wrote"
            ) from None
        self._model = model
        self.vocab_size = self._processor.get_piece_size()
        self.special = self._find_special(name)
        self.fingerprint = fingerprint(self.to_dict())

    def _find_special(self, name: str) -> SpecialIds:
        processor = self._processor
        found: Any = {"unk": processor.unk_id()}
        for role, pieces in _PIECE_NAMES.items():
            piece = next(
                (p for p in pieces if processor.id_to_piece(processor.piece_to_id(p)) == p),
                None,
            )
            if piece is None:
                raise UserError(
                    f"{name} has no {role} piece (none of {', '.join(pieces)}): train it with"
                    f" {pieces[0]} in control_symbols"
                )
            id = processor.piece_to_id(piece)
            if not processor.is_control(id):
                raise UserError(
                    f"{name} has {piece} as a piece that text can become: train it with {piece} in"
                    " control_symbols"
                )
            found[role] = id
        return SpecialIds(**found)

    def encode(self, text: str) -> np.ndarray:
        """See `Tokenizer.encode`."""
        return self.encode_batch([text])[0].copy()

    def encode_continuation(self, text: str) -> np.ndarray:
        """See `Tokenizer.encode_continuation`."""
        processor, drops_space = self._continuing
        if drops_space and text[:1].isspace():
            return self.encode(text)
        check_unicode([text])
        return processor.encode(text, return_type="numpy")

    @functools.cached_property
    def _continuing(self) -> tuple[sentencepiece.SentencePieceProcessor, bool]:
        """The model without a space before texts, and if it drops those that a text begins with."""
        proto = self.proto()
        if proto.trainer_spec.treat_whitespace_as_suffix:
            return self._processor, False
        proto.normalizer_spec.add_dummy_prefix = False
        processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        return processor, proto.normalizer_spec.remove_extra_whitespaces

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See `Tokenizer.encode_batch`."""
        try:
            return self._processor.encode(list(texts), return_type="numpy", num_threads=1)
        except (TypeError, RuntimeError):  # without saying which text is wrong, and why
            check_unicode(texts)
            raise

    def encode_with_offsets(self, text: str) -> Encoded:
        """See `Tokenizer.encode_with_offsets`."""
        ids = self.encode(text)
        if not len(ids):
            return Encoded(ids, ids, ids)
        # In SentencePiece's own offsets, parts of a split character are empty and words include the
        # white space before them. So spans are made from the alignment of its normalised text.
        normalized, sources = self._processor.normalize(text, with_offsets=True)
        pieces = self._processor.encode(text, return_type=str)
        is_byte = self._processor.is_byte(ids.tolist())
        byte_counts = [
            1 if byte else len(piece.encode()) for piece, byte in zip(pieces, is_byte, strict=True)
        ]
        begins, ends = piece_spans(normalized, np.asarray(sources), np.asarray(byte_counts), text)
        return Encoded(ids, begins, ends)

    def id_to_piece(self, id: int) -> str:
        """See `Tokenizer.id_to_piece`."""
        self._check_id(id)
        return self._processor.id_to_piece(int(id))

    def word_starts(self) -> np.ndarray:
        """See `Tokenizer.word_starts`."""
        pieces = self._processor.id_to_piece(list(range(self.vocab_size)))
        longer = [piece for piece in pieces if piece != _SPACE]
        if not any(piece.startswith(_SPACE) for piece in longer) and any(
            piece.endswith(_SPACE) for piece in longer
        ):
            raise UserError(
                "the SentencePiece model marks the ends of words, not the begins: set"
                " --config.masking.strategy=tokens, or train a model without"
                " treat_whitespace_as_suffix"
            )
        return self._starts([piece.startswith(_SPACE) for piece in pieces])

    def to_dict(self) -> dict[str, Any]:
        """See `Tokenizer.to_dict`; the model is in base64."""
        return {
            "kind": self.kind,
            "settings": {},
            "model": base64.b64encode(self._model).decode("ascii"),
        }

    def proto(self) -> Any:
        """Returns the model as SentencePiece's message, a copy."""
        return sentencepiece_proto(self._model, "SentencePiece model")

    def _decode_text(self, ids: list[int]) -> str:
        return self._processor.decode(ids)

    def model_file(self) -> tuple[str, bytes]:
        """See `Tokenizer.model_file`."""
        return SENTENCEPIECE_FILE, self._model


def sentencepiece_proto(model: bytes, name: str) -> Any:
    """Returns a serialised model as SentencePiece's message.

    Args:
      model: the content of a *.model file.
      name: of the file, for errors.

    Raises:
      UserError: if it is not one.
    """
    proto = sentencepiece_model_pb2.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    try:
        proto.ParseFromString(model)
    except DecodeError:
        raise UserError(
            f"{name} is not a SentencePiece model: give a *.model file that SentencePiece wrote"
        ) from None
    return proto
