"""Reader and writer for the tokenizer of a directory of transformers."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import tokenizers

from bert_jax.errors import UserError
from bert_jax.files import read_json
from bert_jax.interop.tokenizers.added_tokens import ADDED_FILE, SPECIAL_MAP_FILE, added_tokens
from bert_jax.interop.tokenizers.fast_tokenizer import library_file, make_fast_tokenizer
from bert_jax.interop.tokenizers.library_tokenizer import (
    FAIRSEQ_MODEL_FILE,
    TokenizerFiles,
    class_note,
    read_library_tokenizer,
)
from bert_jax.interop.tokenizers.tokenizer_fields import (
    as_written,
    check_class,
    check_config,
    check_fast,
    foreign_files,
    is_generic,
    refusal,
)
from bert_jax.text.library_files import MERGED_VOCAB_FILE
from bert_jax.text.tokenizer import LibraryTokenizer, Tokenizer, WordPieceTokenizer
from bert_jax.text.vocabulary import VOCAB_FILE, case_note, is_cased, read_vocab

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
CONFIG_FILE = "config.json"

_NO_LIMIT = 10**9  # transformers writes a larger model_max_length if there is none
# (ours, theirs in tokenizer_config.json, theirs in the normalizer of tokenizer.json)
_SETTINGS = (
    ("lower_case", "do_lower_case", "lowercase"),
    ("strip_accents", "strip_accents", "strip_accents"),
    ("split_han", "tokenize_chinese_chars", "handle_chinese_chars"),
)
# Types of the fields that are read here, besides null; other programs may write anything.
_TYPES: dict[str, dict[str, type]] = {
    TOKENIZER_FILE: {
        "added_tokens": list,
        "model": dict,
        "normalizer": dict,
        "post_processor": dict,
        "pre_tokenizer": dict,
        "truncation": dict,
    },
    TOKENIZER_CONFIG_FILE: {
        "added_tokens_decoder": dict,
        "auto_map": dict,
        "model_input_names": list,
        "tokenizer_class": str,
    },
    CONFIG_FILE: {"tokenizer_class": str},
}
_TYPE_NAMES = {dict: "object", list: "list", str: "text"}
_DEFAULTS = {"lower_case": True, "strip_accents": None, "split_han": True}


def read_tokenizer(
    directory: pathlib.Path, *, rows: int | None = None
) -> WordPieceTokenizer | LibraryTokenizer:
    """Reads the tokenizer of a directory.

    A byte-level BPE or a Unigram model is as tokenizer.json has it, or as vocab.json and merges.txt
    or sentencepiece.bpe.model do.

    Of WordPiece the vocabulary is from tokenizer.json if there is one, else from vocab.txt. Each
    setting is from tokenizer_config.json, else from tokenizer.json, which comes first if
    `tokenizer_class` is a class that takes it as it is. Whether a model is cased that neither
    tells, its pieces do. What was assumed is in the tokenizer's `notes`.

    Args:
      directory: of transformers.
      rows: of the model's embedding; blank rows at the end of the vocabulary may exceed it.

    Raises:
      UserError: if there is no tokenizer, it is none of these, or a field is not known.
    """
    files = _read_files(directory)
    if found := read_library_tokenizer(files):
        return found
    config, config_path, fast, kind = files.config, files.config_path, files.fast, files.kind
    path = directory / TOKENIZER_FILE
    in_config = config.get("tokenizer_class") is not None
    check_class(kind, config_path if in_config else directory / CONFIG_FILE)
    check_config(config, config_path)
    if fast:
        vocab = _fast_vocab(fast, path)
        check_fast(fast, {piece: id for id, piece in enumerate(vocab)}, path)
    elif (directory / VOCAB_FILE).is_file():
        _check_kind_of_vocab(directory, kind)
        path = directory / VOCAB_FILE
        vocab = read_vocab(path)
    else:
        raise UserError(
            f"{directory} has no tokenizer (neither {TOKENIZER_FILE} nor {VOCAB_FILE}, nor"
            f" {MERGED_VOCAB_FILE}, nor {FAIRSEQ_MODEL_FILE}): name it with --tokenizer"
        )
    if is_generic(kind) and fast and not fast.get("post_processor"):
        raise refusal(path, f"post_processor=null with tokenizer_class={kind} (no [CLS], no [SEP])")
    settings, notes = _settings(config, fast, vocab, config_path, generic=is_generic(kind))
    added = added_tokens(vocab, config, fast, files.special_map, files.added, config_path)
    if rows is not None and not any(token.id >= len(vocab) for token in added):
        while len(vocab) > rows and not vocab[-1]:
            vocab.pop()
    made = WordPieceTokenizer(vocab, **settings, added=added, name=str(path))
    made.notes = (*notes, *made.notes)
    return made


def read_max_length(directory: pathlib.Path) -> int | None:
    """Returns the maximum length of an input in tokens, by the tokenizer's settings; None: none."""
    values = _read(directory / TOKENIZER_CONFIG_FILE)
    found = values.get("model_max_length", values.get("max_len"))
    return int(found) if isinstance(found, (int, float)) and 0 < found < _NO_LIMIT else None


def check_segments(directory: pathlib.Path) -> None:
    """Checks that a model of pairs gets segments, for transformers leaves them out on request.

    Raises:
      UserError: if `model_input_names` is without token_type_ids.
    """
    path = directory / TOKENIZER_CONFIG_FILE
    names = _read(path).get("model_input_names")
    if names and "token_type_ids" not in names:
        raise UserError(
            f"{path}: model_input_names={as_written(names)} leaves out token_type_ids, which is not"
            " implemented for pairs of texts: add it if the model was trained with segments"
        )


def unstated_settings(directory: pathlib.Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns what tokenizer_config.json does not say about our tokenizer, under its names."""
    if not isinstance(tokenizer, WordPieceTokenizer):
        return {}
    config = _read(directory / TOKENIZER_CONFIG_FILE)
    return {
        theirs: getattr(tokenizer, ours) for ours, theirs, _ in _SETTINGS if theirs not in config
    }


def has_tokenizer(directory: pathlib.Path) -> bool:
    """Returns True if a directory has the vocabulary or the model of any tokenizer."""
    names = (TOKENIZER_FILE, VOCAB_FILE)
    return any((directory / name).exists() for name in names) or bool(foreign_files(directory))


def is_class_followed(directory: pathlib.Path, tokenizer: LibraryTokenizer) -> bool:
    """Returns True if transformers opens a directory as its tokenizer.json describes ours."""
    return not class_note(_read_files(directory), tokenizer)


def _read_files(directory: pathlib.Path) -> TokenizerFiles:
    config, of_model = _read(directory / TOKENIZER_CONFIG_FILE), _read(directory / CONFIG_FILE)
    kind = config.get("tokenizer_class")
    return TokenizerFiles(
        directory,
        directory / TOKENIZER_CONFIG_FILE,
        config,
        special_map=_read(directory / SPECIAL_MAP_FILE),
        added=_read(directory / ADDED_FILE),
        fast=_read(directory / TOKENIZER_FILE),
        kind=of_model.get("tokenizer_class") if kind is None else kind,
        model_type=of_model.get("model_type"),
    )


def _read(path: pathlib.Path) -> dict[str, Any]:
    """Reads a file of the directory, {} if there is none; its fields have the types of `_TYPES`."""
    values = read_json(path) if path.is_file() else {}
    for name, wanted in _TYPES.get(path.name, {}).items():
        if values.get(name) is not None and not isinstance(values[name], wanted):
            raise UserError(
                f"{path}: {name}={as_written(values[name])} is no {_TYPE_NAMES[wanted]}: copy or"
                " download the file again"
            )
    return values


def _check_kind_of_vocab(directory: pathlib.Path, kind: Any) -> None:
    """Checks that a vocab.txt without a tokenizer.json is BERT's, as far as other files tell."""
    if is_generic(kind):
        raise UserError(
            f"{directory}: tokenizer_class={kind} needs {TOKENIZER_FILE}, which is missing: copy"
            " it, or give the vocabulary as --tokenizer"
        )
    if kind is None and (foreign := foreign_files(directory)):
        raise UserError(
            f"{directory} has {foreign[0]}, of another tokenizer, beside {VOCAB_FILE}: if the"
            f' model was trained with {VOCAB_FILE}, set "tokenizer_class": "BertTokenizer" in'
            f" {TOKENIZER_CONFIG_FILE}"
        )


def _settings(
    config: Mapping[str, Any],
    fast: Mapping[str, Any],
    vocab: list[str],
    path: pathlib.Path,
    *,
    generic: bool,
) -> tuple[dict[str, Any], list[str]]:
    """Returns the settings under our names, and notes about what the files do not agree on."""
    of_config = {
        ours: _switch(config[theirs], theirs, path)
        for ours, theirs, _ in _SETTINGS
        if theirs in config
    }
    normalizer = fast.get("normalizer") or {}
    of_fast = {
        ours: _switch(normalizer[theirs], theirs, path.with_name(TOKENIZER_FILE))
        for ours, _, theirs in _SETTINGS
        if theirs in normalizer
    }
    found = of_config | of_fast if generic else of_fast | of_config
    notes = []
    if "lower_case" not in found:
        cased = is_cased(vocab)
        found["lower_case"] = not cased
        notes.append(case_note(cased))
    found = _DEFAULTS | found
    for ours, theirs, in_fast in _SETTINGS:
        if ours in of_fast:
            one, other = (
                _effective({**found, ours: values.get(ours, _DEFAULTS[ours])}, ours)
                for values in (of_fast, of_config)
            )
            if one != other and (not generic or ours in of_config):
                used = TOKENIZER_FILE if found[ours] == of_fast[ours] else path.name
                stated = "" if ours in of_config else ", by default"
                notes.append(
                    f"{TOKENIZER_FILE} has {in_fast}={as_written(of_fast[ours])} and {path.name}"
                    f" {theirs}={as_written(of_config.get(ours, _DEFAULTS[ours]))}{stated}:"
                    f" {used} is followed"
                )
    return found, notes


def _effective(settings: dict[str, Any], name: str) -> bool:
    value = settings[name]
    return settings["lower_case"] if value is None else value


def _switch(value: Any, name: str, path: pathlib.Path) -> bool | None:
    if isinstance(value, bool) or (value is None and "accents" in name):
        return value
    raise UserError(f"{path}: {name}={value} is neither true nor false: correct the file")


def _fast_vocab(values: Mapping[str, Any], path: pathlib.Path) -> list[str]:
    """Returns the rows of a tokenizer.json; "" for ids without a piece."""
    model = values.get("model")
    kind = model.get("type", "WordPiece") if isinstance(model, dict) else None
    if kind != "WordPiece":
        raise refusal(path, f"model.type={as_written(kind)}")
    match values["model"].get("vocab"):
        case dict(ids) if ids and all(type(id) is int and id >= 0 for id in ids.values()):
            pass
        case _:
            raise UserError(f"{path}: model.vocab has no ids: copy or download it again")
    if max(ids.values()) >= 2 * len(ids) or len(set(ids.values())) < len(ids):
        raise UserError(
            f"{path}: the ids of the vocabulary are not 0 to {len(ids) - 1}: copy or download it"
            " again"
        )
    vocab = [""] * (max(ids.values()) + 1)
    for piece, id in ids.items():
        vocab[id] = piece
    return vocab


def write_tokenizer(
    tokenizer: Tokenizer, directory: pathlib.Path, max_length: int, *, segments: bool = True
) -> None:
    """Writes tokenizer.json, tokenizer_config.json and the file of the vocabulary or model.

    Args:
      tokenizer: ours.
      directory: to write to.
      max_length: of an input, in tokens.
      segments: True if the model takes types of tokens.

    Raises:
      UserError: if tokenizer.json cannot represent the tokenizer.
    """
    fast = make_fast_tokenizer(tokenizer)
    if isinstance(tokenizer, LibraryTokenizer):
        text = json.dumps(library_file(tokenizer), ensure_ascii=False, indent=1)
        (directory / TOKENIZER_FILE).write_text(text, encoding="utf-8")
    else:
        fast.save(str(directory / TOKENIZER_FILE))
    special = {
        f"{role}_token": tokenizer.id_to_piece(id) for role, id in tokenizer.special.roles.items()
    }
    values: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": [
            "input_ids",
            *(["token_type_ids"] if segments else []),
            "attention_mask",
        ],
        "clean_up_tokenization_spaces": False,
        **special,
    }
    if isinstance(tokenizer, WordPieceTokenizer):
        values["tokenizer_class"] = "BertTokenizer"
        values |= {theirs: getattr(tokenizer, ours) for ours, theirs, _ in _SETTINGS}
        values |= _write_added(tokenizer, fast)
    (directory / TOKENIZER_CONFIG_FILE).write_text(
        json.dumps(values, indent=2) + "\n", encoding="utf-8"
    )
    if not isinstance(tokenizer, LibraryTokenizer):  # of which tokenizer.json is the model
        name, content = tokenizer.model_file()
        (directory / name).write_bytes(content)


def _write_added(tokenizer: WordPieceTokenizer, fast: tokenizers.Tokenizer) -> dict[str, Any]:
    """Returns the fields with the added tokens, for the classes that do not read tokenizer.json."""
    if not tokenizer.added:
        return {}
    names = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    every = sorted(fast.get_added_tokens_decoder().items())
    return {
        "added_tokens_decoder": {
            str(id): {name: getattr(token, name) for name in names} for id, token in every
        },
        "additional_special_tokens": [each.content for each in tokenizer.added if each.special],
    }
