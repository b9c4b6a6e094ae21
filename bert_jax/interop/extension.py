"""New tokens for a checkpoint: their rows begin as the mean of all that the vocabulary has."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from bert_jax.checkpoints.checkpoint import (
    find_checkpoint,
    groups_in,
    read_metadata,
    restore_groups,
    write_parameters,
)
from bert_jax.checkpoints.literal_path import literal_path
from bert_jax.config import EncoderConfig, MeshConfig, from_dict, to_dict
from bert_jax.data.tasks.tables import read_lines
from bert_jax.distributed import sharding
from bert_jax.errors import UserError
from bert_jax.files import check_new, given_path, new_folder
from bert_jax.interop.architectures import abstract_groups
from bert_jax.interop.foreign import tokenizer_metadata
from bert_jax.text.library import added_token, next_ids
from bert_jax.text.tokenizer import (
    AddedToken,
    LibraryTokenizer,
    Tokenizer,
    WordPieceTokenizer,
    tokenizer_from_dict,
)


def add_tokens(source: str, file: str, target: str) -> None:
    """Writes a checkpoint with more tokens.

    The ids of old tokens stay. New ones follow the tokenizer's last id (or take ids that no piece
    has, where its library puts them there), in rows of the table that padding took before, or
    behind it; every new row, and its bias, begins as the mean of the rows of the old tokens, which
    keep every bit.

    Args:
      source: a run, or RUN/checkpoints/STEP.
      file: a text file with a token a line.
      target: the directory of a new run.

    Raises:
      UserError: if the tokenizer cannot have more tokens, or has one of them.
    """
    checkpoint, path = find_checkpoint(given_path(source)), check_new(given_path(target), "to")
    literal_path(path)  # refuses a name that cannot be written
    metadata, groups = read_metadata(checkpoint), groups_in(checkpoint)
    old = tokenizer_from_dict(metadata["tokenizer"])
    tokens = _read(file)
    new = with_tokens(old, tokens)
    mesh = sharding.make_mesh(MeshConfig(data=1), devices=jax.local_devices()[:1])
    restored = restore_groups(checkpoint, abstract_groups(metadata, groups, mesh), groups)
    params: Any = jax.tree.map(np.asarray, restored)
    encoder = from_dict(EncoderConfig, metadata["encoder"])
    rows = max(encoder.vocab_size, new.vocab_size)
    tables = [(params["encoder"]["embeddings"], "tokens")]
    head = params.get("mlm_head", {})
    tables += [(head, name) for name in ("output", "bias") if name in head]
    known = ids_with_pieces(old)
    fresh = np.setdiff1d(ids_with_pieces(new), known)
    for group, name in tables:
        group[name] = extended(group[name], known, fresh, rows)
    encoder = dataclasses.replace(encoder, vocab_size=rows)
    metadata |= {"encoder": to_dict(encoder), "tokenizer": tokenizer_metadata(new)}
    if "encoder" in metadata["config"]:
        metadata["config"] = metadata["config"] | {"encoder": to_dict(encoder)}
    kept = {name: metadata[name] for name in metadata.keys() - _OF_CHECKPOINT}
    with new_folder(path) as made:
        write_parameters(made, params, kept)
    print(
        f"{source} -> {target}: {len(tokens):,} tokens with the ids {fresh[0]:,} to"
        f" {fresh[-1]:,}, in a table of {rows:,} rows; prepare corpora with"
        f" --tokenizer={target}/tokenizer"
    )


# What `Checkpoints.save` adds to the metadata.
_OF_CHECKPOINT = frozenset({"format", "versions", "fingerprints", "step"})


def _read(file: str) -> list[str]:
    lines = [line.strip() for _, line in read_lines(str(given_path(file)))]
    tokens = [line for line in lines if line]
    if not tokens:
        raise UserError(f"--add_tokens={file} has no line with a token: name another file")
    if repeated := next((token for token in tokens if tokens.count(token) > 1), ""):
        raise UserError(f"--add_tokens={file} has {repeated!r} twice: remove one")
    return tokens


def with_tokens(tokenizer: Tokenizer, tokens: Sequence[str]) -> Tokenizer:
    """Returns a tokenizer with more tokens, which are found in texts as they are.

    Args:
      tokenizer: a WordPiece, byte-level BPE or Unigram one.
      tokens: new ones.

    Raises:
      UserError: if it has one of them already, or is SentencePiece, whose models are closed.
    """
    known = {tokenizer.id_to_piece(id) for id in range(tokenizer.vocab_size)}
    if has := [token for token in tokens if token in known]:
        raise UserError(f"--add_tokens: the vocabulary has {has[0]!r} already: remove the line")
    if isinstance(tokenizer, WordPieceTokenizer):
        numbered = enumerate(tokens, start=tokenizer.vocab_size)
        added = [AddedToken(token, id, normalized=False) for id, token in numbered]
        return WordPieceTokenizer(
            tokenizer.to_dict()["model"],
            lower_case=tokenizer.lower_case,
            strip_accents=tokenizer.strip_accents,
            split_han=tokenizer.split_han,
            added=[*tokenizer.added, *added],
        )
    if isinstance(tokenizer, LibraryTokenizer):
        values = tokenizer.library_values()
        ids = next_ids(values, tokens)
        if taken := sorted(set(ids) & set(ids_with_pieces(tokenizer).tolist())):
            raise UserError(
                f"--add_tokens: the tokenizers library gives a new token the id {taken[0]}, which"
                f" is that of {tokenizer.id_to_piece(taken[0])!r}, for the vocabulary lacks other"
                " ids: number its pieces without gaps"
            )
        more = [added_token(id, token) for id, token in zip(ids, tokens, strict=True)]
        values["added_tokens"] = [*(values["added_tokens"] or []), *more]
        return LibraryTokenizer(values, tokenizer.special)
    raise UserError(
        "--add_tokens: a SentencePiece model takes no more tokens: train another tokenizer, or"
        " import the model with its tokenizer.json"
    )


def ids_with_pieces(tokenizer: Tokenizer) -> np.ndarray:
    """Returns the ids that a vocabulary has a piece for, ascending: [n] int64."""
    has = [bool(tokenizer.id_to_piece(id)) for id in range(tokenizer.vocab_size)]
    return np.flatnonzero(has)


def extended(table: np.ndarray, known: np.ndarray, fresh: np.ndarray, rows: int) -> np.ndarray:
    """Returns a table, or a bias, in which the row of each new token is the mean of the old ones.

    Args:
      table: [V, ...] float32.
      known: ids of the old tokens.
      fresh: those of the new ones.
      rows: of the result, at least V.
    """
    made = np.zeros((rows, *table.shape[1:]), table.dtype)
    made[: len(table)] = table
    made[fresh] = table[known].mean(axis=0, dtype=np.float64)
    return made
