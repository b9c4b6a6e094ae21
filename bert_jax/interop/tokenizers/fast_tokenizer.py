"""Our tokenizers in the `tokenizers` library, whose tokenizer.json transformers reads.

The library implements WordPiece itself. A SentencePiece model is rebuilt from its pieces, scores
and normalizer. Rare texts get different ids, for two reasons:
- The library adds the scores of a unigram model in double precision, SentencePiece in single, so
  they may choose differently between two equally likely segmentations.
- If normalization changes a character before a combining mark, the library drops the mark.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, processors

from bert_jax.errors import UserError
from bert_jax.text.library import added_token, library_from_values
from bert_jax.text.tokenizer import (
    LibraryTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    WordPieceTokenizer,
)

_SPACE = "▁"
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)  # types of a piece
_UNIGRAM, _BPE = 1, 2  # types of a model
_SINGLE_PRECISION = 1e-6  # relative error of a sum of scores


def make_fast_tokenizer(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """Builds a tokenizer that adds [CLS] and [SEP], and recognizes special pieces in texts.

    Raises:
      UserError: if the library cannot represent the SentencePiece model.
    """
    if isinstance(tokenizer, LibraryTokenizer):
        return _of_library(tokenizer)
    if isinstance(tokenizer, WordPieceTokenizer):
        fast = tokenizer.library_tokenizer()
    else:
        assert isinstance(tokenizer, SentencePieceTokenizer)
        fast = _sentencepiece(tokenizer)
    special = {
        role: (tokenizer.id_to_piece(id), id) for role, id in tokenizer.special.roles.items()
    }
    fast.add_special_tokens([piece for piece, _ in special.values()])
    if isinstance(tokenizer, WordPieceTokenizer):
        fast.add_tokens([token.for_library() for token in tokenizer.added])
    fast.post_processor = _template(tokenizer)
    return fast


def _template(tokenizer: Tokenizer) -> processors.TemplateProcessing:
    """Returns how special pieces stand around texts."""
    special = tokenizer.special
    cls, sep = (tokenizer.id_to_piece(id) for id in (special.cls, special.sep))
    second = int(special.segments)
    between = " ".join([f"{sep}:0"] * special.separators)
    return processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {between} $B:{second} {sep}:{second}",
        special_tokens=[(cls, special.cls), (sep, special.sep)],
    )


def _of_library(tokenizer: LibraryTokenizer) -> tokenizers.Tokenizer:
    return library_from_values(library_file(tokenizer), "tokenizer.json")


def library_file(tokenizer: LibraryTokenizer) -> dict[str, Any]:
    """Returns the fields of a tokenizer.json, with special pieces and the template.

    The library's own writer changes the last digit of scores.
    """
    values = tokenizer.library_values()
    added = {token["id"]: token for token in values["added_tokens"]}
    for id in tokenizer.special.ids:
        stated = added.get(id, added_token(id, tokenizer.id_to_piece(id)))
        added[id] = stated | {"special": True}
    values["added_tokens"] = [added[id] for id in sorted(added)]
    bare = tokenizers.Tokenizer(models.BPE())
    bare.post_processor = _template(tokenizer)
    template = json.loads(bare.to_str())["post_processor"]
    empty = {"version": "1.0", "truncation": None, "padding": None}
    return empty | values | {"post_processor": template}


def _sentencepiece(tokenizer: SentencePieceTokenizer) -> tokenizers.Tokenizer:
    proto = tokenizer.proto()
    _check_sentencepiece(proto)
    make_model = _unigram if proto.trainer_spec.model_type == _UNIGRAM else _bpe
    fast = tokenizers.Tokenizer(make_model(proto))
    fast.normalizer = _normalizer(proto.normalizer_spec)
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if proto.normalizer_spec.add_dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    fast.decoder = decoders.Sequence(steps)
    return fast


def are_equally_likely(tokenizer: Tokenizer, one: Sequence[int], other: Sequence[int]) -> bool:
    """Returns True if two segmentations of the same text have the same score in a unigram model.

    Args:
      tokenizer: ours; False for any other than a unigram model.
      one: token ids.
      other: token ids.
    """
    if not isinstance(tokenizer, SentencePieceTokenizer):
        return False
    proto = tokenizer.proto()
    texts = ["".join(proto.pieces[id].piece for id in ids) for ids in (one, other)]
    scores = [sum(proto.pieces[id].score for id in ids) for ids in (one, other)]
    return (
        proto.trainer_spec.model_type == _UNIGRAM
        and texts[0] == texts[1]
        and math.isclose(*scores, rel_tol=_SINGLE_PRECISION)
    )


def _check_sentencepiece(proto: Any) -> None:
    spec = proto.trainer_spec
    problem = ""
    if spec.model_type not in (_UNIGRAM, _BPE):
        problem = "is neither unigram nor BPE"
    elif spec.treat_whitespace_as_suffix:
        problem = "marks the ends of words (treat_whitespace_as_suffix)"
    elif not proto.normalizer_spec.escape_whitespaces:
        problem = "does not mark spaces (escape_whitespaces is off)"
    elif any(piece.type in (_USER_DEFINED, _UNUSED) for piece in proto.pieces):
        problem = "has user-defined or unused pieces"
    if problem:
        raise UserError(
            f"the SentencePiece model {problem}, which tokenizer.json cannot represent: this model"
            " cannot be exported"
        )


def _unigram(proto: Any) -> models.Unigram:
    return models.Unigram(
        [(piece.piece, piece.score) for piece in proto.pieces],
        unk_id=_unknown(proto)[1],
        byte_fallback=proto.trainer_spec.byte_fallback,
    )


def _bpe(proto: Any) -> models.BPE:
    """Returns BPE whose merges are ordered by the score of the merged piece, highest first."""
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == _NORMAL}
    merges = [
        (whole[:cut], whole[cut:])
        for whole in sorted(scores, key=lambda piece: -scores[piece])
        for cut in range(1, len(whole))
        if whole[:cut] in scores and whole[cut:] in scores
    ]
    return models.BPE(
        {piece.piece: id for id, piece in enumerate(proto.pieces)},
        merges,
        unk_token=_unknown(proto)[0],
        fuse_unk=True,
        byte_fallback=proto.trainer_spec.byte_fallback,
    )


def _unknown(proto: Any) -> tuple[str, int]:
    return next((p.piece, id) for id, p in enumerate(proto.pieces) if p.type == _UNKNOWN)


def _normalizer(spec: Any) -> normalizers.Normalizer:
    """Returns SentencePiece's normalization, in its order."""
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex("^ +"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    steps.append(normalizers.Replace(" ", _SPACE))
    if spec.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(f"{_SPACE}+$"), ""))
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    return normalizers.Sequence(steps)
