"""Reader and writer for the tokenizer of a directory of transformers."""

import dataclasses
import json
import pathlib
from typing import Any

from bert_jax.errors import UserError
from bert_jax.interop.fast_tokenizer import make_fast_tokenizer
from bert_jax.interop.json_files import read_json
from bert_jax.text.tokenizer import (
    SPECIAL_PIECES_OF_WORDPIECE,
    VOCAB_FILE,
    Tokenizer,
    WordPieceTokenizer,
    read_vocab,
)

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"

_NO_LIMIT = 10**9  # transformers writes a larger model_max_length if there is none
# (ours, theirs in tokenizer_config.json, theirs in the normalizer of tokenizer.json)
_SETTINGS = (
    ("lower_case", "do_lower_case", "lowercase"),
    ("strip_accents", "strip_accents", "strip_accents"),
    ("split_han", "tokenize_chinese_chars", "handle_chinese_chars"),
)
_DEFAULTS = {"lower_case": True, "strip_accents": None, "split_han": True}


def read_tokenizer(directory: pathlib.Path) -> WordPieceTokenizer:
    """Reads the WordPiece tokenizer of a directory.

    The vocabulary is from tokenizer.json if there is one, else from vocab.txt. Each setting is from
    tokenizer_config.json, else from tokenizer.json, else BERT's default.

    Raises:
      UserError: if there is no tokenizer, or it is not BERT's WordPiece.
    """
    settings = _read_settings(directory)
    path = directory / TOKENIZER_FILE
    if path.is_file():
        vocab, defaults = _read_fast(path)
        settings = defaults | settings
    elif (directory / VOCAB_FILE).is_file():
        path = directory / VOCAB_FILE
        vocab = read_vocab(path)
    else:
        raise UserError(
            f"{directory} has no tokenizer (neither {TOKENIZER_FILE} nor {VOCAB_FILE}): name it"
            " with --tokenizer"
        )
    return WordPieceTokenizer(vocab, **_DEFAULTS | settings, name=str(path))


def read_max_length(directory: pathlib.Path) -> int | None:
    """Returns the maximum length of an input in tokens, by the tokenizer's settings; None: none."""
    path = directory / TOKENIZER_CONFIG_FILE
    found = read_json(path).get("model_max_length") if path.is_file() else None
    return int(found) if isinstance(found, (int, float)) and 0 < found < _NO_LIMIT else None


def _read_settings(directory: pathlib.Path) -> dict[str, Any]:
    """Returns the settings in tokenizer_config.json, under our names."""
    path = directory / TOKENIZER_CONFIG_FILE
    values = read_json(path) if path.is_file() else {}
    for role, piece in SPECIAL_PIECES_OF_WORDPIECE.items():
        found = values.get(f"{role}_token") or piece
        found = found.get("content") if isinstance(found, dict) else found
        if found != piece:
            raise UserError(f"{path}: {role}_token={found} is not implemented: only {piece} is")
    return {
        ours: _switch(values[theirs], theirs, path)
        for ours, theirs, _ in _SETTINGS
        if theirs in values
    }


def _switch(value: Any, name: str, path: pathlib.Path) -> bool | None:
    if isinstance(value, bool) or (value is None and "accents" in name):
        return value
    raise UserError(f"{path}: {name}={value} is neither true nor false: correct the file")


def _read_fast(path: pathlib.Path) -> tuple[list[str], dict[str, Any]]:
    """Reads the vocabulary and the settings of a tokenizer.json with BERT's WordPiece."""

    def refuse(what: str) -> UserError:
        return UserError(
            f"{path}: {what} is not BERT's WordPiece: give the tokenizer that the model was trained"
            " with as --tokenizer"
        )

    values = read_json(path)
    match values:
        case {
            "model": {"vocab": dict(ids), **model},
            "normalizer": {"type": "BertNormalizer", **normalizer},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
        }:
            pass
        case {"model": {"type": str(kind)}} if kind != "WordPiece":
            raise refuse(f"model.type={kind}")
        case _:
            raise refuse("its model, normalizer or pre_tokenizer")
    for name, wanted in (
        ("type", "WordPiece"),
        ("unk_token", "[UNK]"),
        ("continuing_subword_prefix", "##"),
        ("max_input_chars_per_word", 100),
    ):
        if model.get(name, wanted) != wanted:
            raise refuse(f"model.{name}={model[name]}")
    if not normalizer.get("clean_text", True):
        raise refuse("normalizer.clean_text=false")
    if set(ids.values()) != set(range(len(ids))):
        raise UserError(
            f"{path}: the ids of the vocabulary are not 0 to {len(ids) - 1}: copy or download it"
            " again"
        )
    special = SPECIAL_PIECES_OF_WORDPIECE.values()
    for added in values.get("added_tokens", []):
        if (piece := added.get("content")) not in special:
            raise refuse(f"the added token {piece!r}")
    settings = {
        ours: _switch(normalizer[theirs], theirs, path)
        for ours, _, theirs in _SETTINGS
        if theirs in normalizer
    }
    return sorted(ids, key=ids.__getitem__), settings


def write_tokenizer(tokenizer: Tokenizer, directory: pathlib.Path, max_length: int) -> None:
    """Writes tokenizer.json, tokenizer_config.json and the file of the vocabulary or model.

    Args:
      tokenizer: ours.
      directory: to write to.
      max_length: of an input, in tokens.

    Raises:
      UserError: if tokenizer.json cannot represent the tokenizer.
    """
    fast = make_fast_tokenizer(tokenizer)
    fast.save(str(directory / TOKENIZER_FILE))
    special = {
        f"{role}_token": tokenizer.id_to_piece(id)
        for role, id in dataclasses.asdict(tokenizer.special).items()
    }
    values: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **special,
    }
    if isinstance(tokenizer, WordPieceTokenizer):
        values["tokenizer_class"] = "BertTokenizer"
        values |= {theirs: getattr(tokenizer, ours) for ours, theirs, _ in _SETTINGS}
    (directory / TOKENIZER_CONFIG_FILE).write_text(
        json.dumps(values, indent=2) + "\n", encoding="utf-8"
    )
    name, content = tokenizer.model_file()
    (directory / name).write_bytes(content)
