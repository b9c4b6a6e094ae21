"""Tokens that were added to the vocabulary of a tokenizer, wherever transformers keeps them.

They are in tokenizer_config.json (`added_tokens_decoder`, `additional_special_tokens`,
`extra_special_tokens` and fields such as `bos_token`), in tokenizer.json (`added_tokens`), and in
directories of old versions in special_tokens_map.json and added_tokens.json.
"""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bert_jax.errors import UserError
from bert_jax.interop.tokenizers.tokenizer_fields import OF_TEMPLATE, as_written
from bert_jax.text.tokenizer import AddedToken
from bert_jax.text.vocabulary import SPECIAL_PIECES_OF_WORDPIECE

SPECIAL_MAP_FILE = "special_tokens_map.json"
ADDED_FILE = "added_tokens.json"

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_LISTS = ("extra_special_tokens", "additional_special_tokens")
_DICTS = ("model_specific_special_tokens", "extra_special_tokens")
_FIRST = ("bos_token", "eos_token")  # ids are given out in this order
_NO_NAMES = {*_FIRST, *OF_TEMPLATE}

_Token = dict[str, Any]  # `content`, the flags that are stated, and `id` if that is


def added_tokens(
    vocab: Sequence[str],
    config: Mapping[str, Any],
    fast: Mapping[str, Any],
    special_map: Mapping[str, Any],
    added: Mapping[str, Any],
    path: pathlib.Path,
) -> list[AddedToken]:
    """Returns the added tokens of WordPiece besides the five special pieces, with their ids.

    A token of the vocabulary has its id there; the ids of others follow the vocabulary.

    Args:
      vocab: the rows of the vocabulary.
      config: the fields of tokenizer_config.json.
      fast: those of tokenizer.json; {} if there is none.
      special_map: those of special_tokens_map.json; {} if there is none.
      added: those of added_tokens.json; {} if there is none.
      path: of tokenizer_config.json, for errors.

    Raises:
      UserError: if a special piece has another name than BERT's, or a token is described in two
        ways.
    """
    check_roles(SPECIAL_PIECES_OF_WORDPIECE, config, special_map, path)
    special_pieces = SPECIAL_PIECES_OF_WORDPIECE.values()
    tokens = listed_tokens(config, fast, special_map, added, path)
    ids = {piece: id for id, piece in enumerate(vocab)}
    found: dict[str, AddedToken] = {}
    for token in tokens:
        content = token["content"]
        id = ids.setdefault(content, len(ids))
        flags = {name: token[name] for name in _FLAGS if name in token}
        if token.get("id", id) != id:
            raise wrong_id(path, token, id)
        if content and content not in special_pieces and content not in found:
            found[content] = AddedToken(content, id, **flags)
    return list(found.values())


def stated_fields(config: Mapping[str, Any], special_map: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of tokenizer_config.json with those of special_tokens_map.json.

    As in transformers, files of old versions are read only without `added_tokens_decoder`.
    """
    return dict(config) if "added_tokens_decoder" in config else {**config, **special_map}


def listed_tokens(
    config: Mapping[str, Any],
    fast: Mapping[str, Any],
    special_map: Mapping[str, Any],
    added: Mapping[str, Any],
    path: pathlib.Path,
) -> list[dict[str, Any]]:
    """Returns all tokens that the files list or name, special ones too, each once.

    The arguments are as those of `added_tokens`.

    Returns:
      `content`, `id` and the flags of each, as far as they are stated. Those with an id come first,
      and others in the order in which transformers gives them ids.

    Raises:
      UserError: if one is not understood, or the files do not fit together.
    """
    added = {} if "added_tokens_decoder" in config else added
    config = stated_fields(config, special_map)
    named = list(_named(config, path))
    listed = list(_listed(config, fast, added, {token["content"] for token in named}, path))
    known = {token["content"]: token for token in listed}
    for token in named:
        known.setdefault(token["content"], token)
    return list(known.values())


def wrong_id(path: pathlib.Path, token: Mapping[str, Any], id: int) -> UserError:
    """Returns the error for an added token whose id is not that of the vocabulary."""
    return UserError(
        f"{path}: the added token {token['content']!r} has the id {token['id']}, and the vocabulary"
        f" gives it {id}: copy all files of the tokenizer again"
    )


def check_roles(
    pieces: Mapping[str, str],
    config: Mapping[str, Any],
    special_map: Mapping[str, Any],
    path: pathlib.Path,
) -> None:
    """Checks the names of special pieces, where only one is implemented.

    Args:
      pieces: role -> piece; a role is the begin of the name of a field.
      config: the fields of tokenizer_config.json.
      special_map: those of special_tokens_map.json; {} if there is none.
      path: of tokenizer_config.json, for errors.

    Raises:
      UserError: for the first with another name.
    """
    config = stated_fields(config, special_map)
    for role, piece in pieces.items():
        found = config.get(f"{role}_token") or piece
        found = found.get("content") if isinstance(found, dict) else found
        if found != piece:
            stated = (
                path if f"{role}_token" not in special_map else path.with_name(SPECIAL_MAP_FILE)
            )
            raise UserError(
                f"{stated}: {role}_token={as_written(found)} is not implemented: only {piece} is"
            )


def _listed(
    config: Mapping[str, Any],
    fast: Mapping[str, Any],
    added: Mapping[str, Any],
    named: set[str],
    path: pathlib.Path,
) -> Iterator[_Token]:
    """Yields the tokens that have an id."""
    decoder = config.get("added_tokens_decoder") or {}
    numbered = sorted((int(id), token) for id, token in decoder.items() if str(id).isdecimal())
    described = {id: _token(token, path) | {"id": id} for id, token in numbered}
    yield from described.values()
    contents = {token["content"] for token in described.values()}
    if not all(type(id) is int for id in added.values()):
        raise UserError(
            f"{path.with_name(ADDED_FILE)} has ids that are no whole numbers: copy or download it"
            " again"
        )
    for token in fast.get("added_tokens") or []:
        token = _token(token, path)
        if decoder and token["content"] not in contents:
            raise UserError(
                f"{path}: added_tokens_decoder lacks {token['content']!r}, an added token of"
                " tokenizer.json: add it there, or remove it here"
            )
        if not decoder:
            contents.add(token["content"])
            yield token
    for content, id in sorted(added.items(), key=lambda item: item[1]):
        if content not in contents:
            # As in version 4, which wrote these files; version 5 forgets that those listed in
            # special_tokens_map.json are special.
            special = content in named
            yield _token({"content": content, "special": special}, path) | {
                "id": id,
                "normalized": not special,
            }


def _named(config: Mapping[str, Any], path: pathlib.Path) -> Iterator[_Token]:
    """Yields the tokens that have a name or are in a list of special ones."""
    fields = [name for name in config if name.endswith("_token") and name not in _NO_NAMES]
    tokens = [config[name] for name in (*_FIRST, *fields) if config.get(name)]
    tokens += [
        token
        for name in _DICTS
        if isinstance(config.get(name), dict)
        for token in config[name].values()
    ]
    tokens += [
        token for name in _LISTS if isinstance(config.get(name), list) for token in config[name]
    ]
    for token in tokens:
        flags = {"special": True} if isinstance(token, dict) else {}
        yield _token(token, path) | flags


def _token(value: Any, path: pathlib.Path) -> _Token:
    """Returns a token that is a string, special then, or an object with flags."""
    if isinstance(value, str):
        return {"content": value, "special": True, "normalized": False}
    match value:
        case {"content": str(), **flags} if all(
            isinstance(flags.get(name, False), bool) for name in _FLAGS
        ):
            return {name: each for name, each in value.items() if name != "__type"}
    raise UserError(
        f"{path}: the added token {as_written(value)} is neither a text nor an object with content"
        " and flags: correct the file"
    )
