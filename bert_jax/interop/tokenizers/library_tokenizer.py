"""Reader for byte-level BPE and Unigram tokenizers in a directory of transformers."""

import base64
import pathlib
from collections.abc import Mapping
from typing import Any

from bert_jax.errors import UserError
from bert_jax.interop.tokenizers.tokenizer_fields import (
    LIBRARY_CLASSES,
    as_written,
    check_class_of_library,
)
from bert_jax.text.library import LIBRARY_FILE, LibraryTokenizer
from bert_jax.text.library_files import (
    MERGED_VOCAB_FILE,
    ROBERTA_PIECES,
    from_library_values,
    named_pieces,
    read_merges,
    roberta_parts,
)
from bert_jax.text.sentence_pieces import sentencepiece_proto
from bert_jax.text.vocabulary import VOCAB_FILE, read_file

FAIRSEQ_MODEL_FILE = "sentencepiece.bpe.model"
_FAIRSEQ_CLASS = "XLMRobertaTokenizer"
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
# What a class of transformers builds, whatever tokenizer.json has.
_BYTE_LEVEL = ["ByteLevel"]
_WORDS_AND_MARKS = ["WhitespaceSplit", "Metaspace"]
_BUILT = {
    "RobertaTokenizer": _BYTE_LEVEL,
    _FAIRSEQ_CLASS: _WORDS_AND_MARKS,
    "CamembertTokenizer": _WORDS_AND_MARKS,
}


def read_library_tokenizer(
    directory: pathlib.Path,
    config: Mapping[str, Any],
    special_map: Mapping[str, Any],
    fast: Mapping[str, Any],
    kind: str | None,
) -> LibraryTokenizer | None:
    """Reads the tokenizer of a directory, if it is a byte-level BPE or a Unigram model.

    Args:
      directory: of transformers.
      config: the fields of tokenizer_config.json.
      special_map: those of special_tokens_map.json.
      fast: those of tokenizer.json; {} if there is none.
      kind: the class of the tokenizer; None if no file names one.

    Returns:
      The tokenizer, with what was assumed in its notes; None if it is none of these.

    Raises:
      UserError: if it is not understood.
    """
    named = named_pieces({**special_map, **config})
    path = directory / LIBRARY_FILE
    if (fast.get("model") or {}).get("type") in ("BPE", "Unigram"):
        check_class_of_library(kind, config, path)
        values = _with_flags(fast, config)
        made = from_library_values(values, str(path), named)
        made.notes = tuple(_class_note(kind, fast))
        return made
    is_library = (kind or "").removesuffix("Fast") in LIBRARY_CLASSES
    if fast or ((directory / VOCAB_FILE).is_file() and not is_library):
        return None
    if (directory / MERGED_VOCAB_FILE).is_file():
        check_class_of_library(kind, config, directory / MERGED_VOCAB_FILE)
        prefix_space = bool(config.get("add_prefix_space"))
        return read_merges(directory / MERGED_VOCAB_FILE, prefix_space=prefix_space)
    model = directory / FAIRSEQ_MODEL_FILE
    if model.is_file():
        if kind is not None and kind.removesuffix("Fast") != _FAIRSEQ_CLASS:
            raise UserError(
                f"{model}: tokenizer_class={kind} without {LIBRARY_FILE} is not implemented: only"
                f" {_FAIRSEQ_CLASS} is; save it once with transformers, which writes the file"
            )
        return from_library_values(fairseq_values(model), str(model), ROBERTA_PIECES)
    return None


def _with_flags(fast: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a tokenizer.json, with added tokens that only the config has."""
    added = list(fast.get("added_tokens") or [])
    known = {token["id"] for token in added}
    for id, token in (config.get("added_tokens_decoder") or {}).items():
        if str(id).isdecimal() and int(id) not in known and isinstance(token, dict):
            flags = {name: bool(token.get(name)) for name in _FLAGS}
            added.append({"id": int(id), "content": str(token.get("content")), **flags})
    return {**fast, "added_tokens": sorted(added, key=lambda token: token["id"])}


def _class_note(kind: str | None, fast: Mapping[str, Any]) -> list[str]:
    """Returns a line if the class of transformers would build another tokenizer than the file's."""
    built = _BUILT.get((kind or "").removesuffix("Fast"))
    if built is None:
        return []
    step = fast.get("pre_tokenizer") or {}
    steps = [each.get("type") for each in step.get("pretokenizers") or [step]]
    plain = built != _BYTE_LEVEL or fast.get("normalizer") is None
    if plain and (steps == built or (built == _WORDS_AND_MARKS and steps == ["Metaspace"])):
        return []
    return [
        f"{LIBRARY_FILE} is followed, which has other steps than the class {kind}, which some"
        f" versions of transformers build instead: {as_written(steps)}"
    ]


def fairseq_values(path: pathlib.Path) -> dict[str, Any]:
    """Returns a SentencePiece model as a tokenizer.json, with the ids that fairseq gave its pieces.

    Its own three control pieces go, <s> <pad> </s> <unk> come first, and <mask> is the last.
    """
    proto = sentencepiece_proto(read_file(path), str(path))
    pieces = [[piece.piece, piece.score] for piece in proto.pieces[3:]]
    first = [[ROBERTA_PIECES[role], 0.0] for role in ("cls", "pad", "sep", "unk")]
    vocab = [*first, *pieces, [ROBERTA_PIECES["mask"], 0.0]]
    charsmap = proto.normalizer_spec.precompiled_charsmap
    ids = {piece: id for id, (piece, _) in enumerate(vocab)}
    marks = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    normalizer = {
        "type": "Precompiled",
        "precompiled_charsmap": base64.b64encode(charsmap).decode(),
    }
    return roberta_parts(ids) | {
        "normalizer": normalizer if charsmap else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, marks],
        },
        "decoder": marks,
        "model": {"type": "Unigram", "unk_id": ids[ROBERTA_PIECES["unk"]], "vocab": vocab},
    }
