"""New tokens: their ids and rows, and the bits of the old ones."""

import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from bert_jax.checkpoints.checkpoint import (
    find_checkpoint,
    groups_in,
    read_metadata,
    restore_groups,
    write_parameters,
)
from bert_jax.config import EncoderConfig, MeshConfig, SentenceObjective
from bert_jax.distributed.sharding import make_mesh
from bert_jax.errors import UserError
from bert_jax.interop.architectures import abstract_groups, pretrained_metadata
from bert_jax.interop.extension import add_tokens, extended, ids_with_pieces, with_tokens
from bert_jax.interop.foreign import tokenizer_metadata
from bert_jax.model.heads import PretrainingModel
from bert_jax.text.tokenizer import (
    AddedToken,
    LibraryTokenizer,
    Tokenizer,
    WordPieceTokenizer,
    tokenizer_from_dict,
)
from bert_jax.text.training import ModelType, train_byte_level, train_sentencepiece
from tests.fixtures.batches import make_batch, random_params
from tests.fixtures.interop import VOCAB

LINES = ["red light and blue wind over the stone"] * 30


def wordpiece(*added: AddedToken) -> Tokenizer:
    return WordPieceTokenizer(VOCAB, lower_case=True, added=added)


@pytest.mark.parametrize("kind", ["wordpiece", "bytes"])
def test_new_tokens_are_found_and_old_ids_stay(kind: str) -> None:
    old = wordpiece() if kind == "wordpiece" else train_byte_level(LINES, vocab_size=280)
    new = with_tokens(old, ["<gene>", "BRCA1"])
    assert new.vocab_size == old.vocab_size + 2 and new.special == old.special
    for text in ("red light", "the stone, blue", "a b c"):
        assert new.encode(text).tolist() == old.encode(text).tolist()
    first = old.vocab_size
    ids = new.encode("red BRCA1 and <gene>light").tolist()
    assert ids.count(first) == 1 and ids.count(first + 1) == 1
    assert new.word_starts()[[first, first + 1]].all()
    again = tokenizer_from_dict(new.to_dict())
    assert again.fingerprint == new.fingerprint != old.fingerprint
    with pytest.raises(UserError, match="the vocabulary has '<gene>' already"):
        with_tokens(new, ["<gene>"])


def test_a_sentencepiece_model_takes_none() -> None:
    closed = train_sentencepiece(LINES, vocab_size=22, model_type=ModelType.UNIGRAM)
    with pytest.raises(UserError, match="a SentencePiece model takes no more tokens"):
        with_tokens(closed, ["x"])


@pytest.mark.parametrize("shape", [(7, 3), (7,)])
@pytest.mark.parametrize(
    ("known", "fresh", "rows"),
    [
        ([0, 1, 2, 3, 4], [5, 6], 7),  # in rows that were padding
        ([0, 1, 2, 3, 4], [5], 7),
        ([0, 1, 2, 3, 4, 5, 6], [7, 8], 9),  # behind the table
        ([0, 1, 2, 3, 4], [5, 6, 7, 8], 9),
        ([0, 1, 4, 6], [2, 7], 8),  # the vocabulary lacks ids
    ],
)
def test_new_rows_are_the_mean_of_the_old_ones(
    shape: tuple[int, ...], known: list[int], fresh: list[int], rows: int
) -> None:
    table = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    made = extended(table, np.array(known), np.array(fresh), rows)
    assert made.shape == (rows, *shape[1:]) and made.dtype == np.float32
    for row in range(rows):
        if row in fresh:
            np.testing.assert_allclose(made[row], table[known].mean(axis=0), rtol=1e-5)
        elif row < len(table):
            assert made[row].tobytes() == table[row].tobytes()


def with_gap(gap: int) -> Tokenizer:
    """A byte-level BPE whose last piece has an id that is `gap` too high."""
    plain = train_byte_level(LINES, vocab_size=280)
    values = plain.library_values()
    vocab = values["model"]["vocab"]
    last = max(vocab, key=lambda piece: vocab[piece])
    vocab[last] += gap
    return LibraryTokenizer(values, plain.special)


def test_ids_that_no_piece_has_are_kept_or_taken_as_the_library_does() -> None:
    old = with_gap(20)
    known = ids_with_pieces(old)
    assert len(known) == 280 and known[-1] == old.vocab_size - 1 == 299
    new = with_tokens(old, ["<gene>", "BRCA1"])
    fresh = np.setdiff1d(ids_with_pieces(new), known)
    assert new.encode("<gene>BRCA1").tolist() == fresh.tolist() and new.vocab_size == 300
    assert new.encode("red light").tolist() == old.encode("red light").tolist()
    with pytest.raises(UserError, match="gives a new token the id 28., which is that of"):
        with_tokens(with_gap(2), [f"<{n}>" for n in range(5)])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("padding", [0, 3, 40])
def test_a_checkpoint_with_more_tokens(
    tied: bool, padding: int, tiny_encoder: EncoderConfig, tmp_path: pathlib.Path
) -> None:
    import dataclasses

    old = wordpiece(AddedToken("<e1>", len(VOCAB), normalized=False))  # one was added before
    encoder = dataclasses.replace(tiny_encoder, vocab_size=old.vocab_size + padding, mlm_tied=tied)
    metadata = pretrained_metadata(encoder, ("encoder", "mlm_head"))
    metadata["tokenizer"] = tokenizer_metadata(old)
    model, batch = PretrainingModel(encoder, SentenceObjective.NONE), make_batch(encoder)
    batch["mlm_positions"] = np.zeros((16, 2), np.int32)
    params = random_params(model, batch)
    write_parameters(tmp_path / "old", params, metadata)
    (tmp_path / "more.txt").write_text("\ufeff<e2>\n\n  <e3> \nKraków\n")
    add_tokens(str(tmp_path / "old"), str(tmp_path / "more.txt"), str(tmp_path / "new"))

    checkpoint = find_checkpoint(tmp_path / "new")
    found, groups = read_metadata(checkpoint), groups_in(checkpoint)
    tokenizer = tokenizer_from_dict(found["tokenizer"])
    rows = max(encoder.vocab_size, old.vocab_size + 3)
    assert found["encoder"]["vocab_size"] == found["config"]["encoder"]["vocab_size"] == rows
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    made: Any = restore_groups(checkpoint, abstract_groups(found, groups, mesh), groups)
    names = [("mlm_head", "bias")] + ([] if tied else [("mlm_head", "output")])
    pairs = [(made["encoder"]["embeddings"]["tokens"], params["encoder"]["embeddings"]["tokens"])]
    pairs += [(made[group][name], params[group][name]) for group, name in names]
    for after, before in map(lambda pair: map(np.asarray, pair), pairs):
        assert len(after) == rows
        assert after[: old.vocab_size].tobytes() == before[: old.vocab_size].tobytes()
        mean = before[: old.vocab_size].mean(axis=0)
        for id in range(old.vocab_size, old.vocab_size + 3):
            np.testing.assert_allclose(after[id], mean, rtol=1e-5, atol=1e-6)
    # Logits of old tokens on old text are the same bits.
    text = {"token_ids": np.minimum(batch["token_ids"], old.vocab_size - 1)}
    logits = [
        PretrainingModel(
            dataclasses.replace(encoder, vocab_size=size), SentenceObjective.NONE
        ).apply({"params": tree}, batch | text, deterministic=True)
        for size, tree in ((encoder.vocab_size, params), (rows, made))
    ]
    before, after = (np.asarray(each.mlm)[..., : old.vocab_size] for each in logits)  # pyright: ignore
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)
    assert tokenizer.encode("<e3>").tolist() == [old.vocab_size + 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n \n", "has no line with a token"),
        (b"a1\nb\na1\n", "has 'a1' twice"),
        (b"a1\ncaf\xe9\n", "is not UTF-8 at byte 6 in line 2: convert the file"),
    ],
)
def test_a_list_of_tokens_that_is_wrong(
    content: bytes, message: str, tiny_encoder: EncoderConfig, tmp_path: pathlib.Path
) -> None:
    metadata = pretrained_metadata(tiny_encoder, ("encoder", "mlm_head"))
    metadata["tokenizer"] = tokenizer_metadata(wordpiece())
    model, batch = PretrainingModel(tiny_encoder, SentenceObjective.NONE), make_batch(tiny_encoder)
    batch["mlm_positions"] = np.zeros((16, 2), np.int32)
    write_parameters(tmp_path / "old", random_params(model, batch), metadata)
    (tmp_path / "more.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        add_tokens(str(tmp_path / "old"), str(tmp_path / "more.txt"), str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
