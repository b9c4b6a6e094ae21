"""Byte-level BPE and Unigram tokenizers of the library: ids, offsets, words, and what is lost."""

import json
import pathlib
import random
import string
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from bert_jax.errors import UserError
from bert_jax.text.library_files import ROBERTA_PIECES, from_library_values
from bert_jax.text.tokenizer import (
    LibraryTokenizer,
    load_tokenizer,
    tokenizer_from_dict,
)
from bert_jax.text.training import train_byte_level

LINES = ["The river rose in the night.", "She waited for an answer, and none came."] * 40
ODD = [
    "naïve 東京 ½ \u0007",
    "Whole (words) differ, naïvely",
    "  two spaces\tand\na line ",
    "👩\u200d👩\u200d👧 and a\u0301ccents",
    "x" * 500,
    "<s> </s> <mask> [MASK] [CLS] <pad>",
    "\u3000\u00a0 \u2028",
    "\U0010ffff<s>",
    "",
]


def random_texts(count: int) -> list[str]:
    rng = random.Random(7)
    letters = string.ascii_letters + string.digits + "  \t\n.,'-éüß東京😀\u0301\u200d\u0007\u00ad"
    return ["".join(rng.choices(letters, k=rng.randrange(40))) for _ in range(count)]


@pytest.fixture(scope="module")
def trained() -> LibraryTokenizer:
    return train_byte_level(LINES, vocab_size=300)


def library(tokenizer: LibraryTokenizer) -> tokenizers.Tokenizer:
    """The same file in the library, without special pieces, which it would find in texts."""
    values = tokenizer.library_values() | {"added_tokens": []}
    whole = {"version": "1.0", "truncation": None, "padding": None, "post_processor": None}
    return tokenizers.Tokenizer.from_str(json.dumps(whole | values))


def test_the_same_lines_train_the_same_vocabulary(trained: LibraryTokenizer) -> None:
    again = train_byte_level(iter(LINES), vocab_size=300)
    assert again.fingerprint == trained.fingerprint and again.vocab_size == 300
    assert trained.special.ids == (0, 1, 2, 3, 4)
    assert [trained.id_to_piece(id) for id in range(5)] == "[PAD] [UNK] [CLS] [SEP] [MASK]".split()
    letters = {trained.id_to_piece(id) for id in range(300)}
    assert set(pre_tokenizers.ByteLevel.alphabet()) < letters  # bytes that no line has


@pytest.mark.parametrize("text", ODD)
def test_no_text_loses_a_byte_or_becomes_a_special_piece(
    trained: LibraryTokenizer, text: str
) -> None:
    ids = trained.encode(text)
    assert trained.decode(ids) == text.replace("\U0010ffff", "\ufffd")
    assert not set(ids.tolist()) & set(trained.special.ids)
    if "\U0010ffff" not in text:
        assert ids.tolist() == library(trained).encode(text).ids


def test_random_texts_come_back(trained: LibraryTokenizer) -> None:
    texts = random_texts(500)
    for text, ids in zip(texts, trained.encode_batch(texts), strict=True):
        assert trained.decode(ids) == text
        encoded = trained.encode_with_offsets(text)
        assert (encoded.ids == ids).all()
        inside = [text[b:e] for b, e in zip(encoded.begins, encoded.ends, strict=True)]
        assert all(inside)
        if text.strip():
            assert all(part == part.strip() for part in inside)
            assert (np.diff(encoded.begins) >= 0).all()


def test_decoding_with_special_pieces(trained: LibraryTokenizer) -> None:
    special = trained.special
    ids = [special.cls, *trained.encode("a b"), special.sep, *trained.encode(" c"), special.sep]
    assert trained.decode(ids) == "[CLS]a b[SEP] c[SEP]"
    with pytest.raises(IndexError):
        trained.decode([300])


@pytest.mark.parametrize(
    ("lines", "size", "message"),
    [
        (LINES, 200, "a vocabulary of 200 pieces has no room for the 256 bytes and 5 special"),
        (["", "  "], 300, "the text to train the tokenizer on is empty"),
        (["ab"], 900, "900 pieces is more than the training text can fill: choose at most"),
    ],
)
def test_what_cannot_be_trained(lines: list[str], size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_byte_level(lines, vocab_size=size)


def words(tokenizer: LibraryTokenizer, text: str) -> list[list[str]]:
    """Groups of pieces that are masked together."""
    starts, groups = tokenizer.word_starts(), []
    for number, id in enumerate(tokenizer.encode(text)):
        if starts[id] or not number:
            groups.append([])
        groups[-1].append(tokenizer.id_to_piece(int(id)))
    return groups


def test_words_begin_at_spaces(trained: LibraryTokenizer) -> None:
    found = words(trained, "Whole (words) differ, naïvely")
    joined = ["".join(group) for group in found]
    assert joined == ["Whole", "Ġ(words)", "Ġdiffer,", "ĠnaÃ¯vely"]
    assert ["".join(g) for g in words(trained, "a\nb\tc")] == ["a", "Ċb", "ĉc"]


def test_a_word_of_masking_is_whole_words_of_the_library(trained: LibraryTokenizer) -> None:
    peer, starts = library(trained), trained.word_starts()
    for text in [*ODD, *random_texts(200)]:
        encoding = peer.encode(text)
        for place in range(1, len(encoding.ids)):
            begin, _ = encoding.offsets[place - 1]
            _, end = encoding.offsets[place]
            if starts[encoding.ids[place]] and text[begin:end].strip():
                assert encoding.word_ids[place - 1] != encoding.word_ids[place], text


def test_words_given_apart_are_as_inside_of_a_text(trained: LibraryTokenizer) -> None:
    apart = np.concatenate(trained.encode_words(["The", "river", "rose"]))
    assert apart.tolist() == trained.encode(" The river rose").tolist()
    document = ["The river.", "It rose."]
    running = trained.encode_batch(trained.running_text(document))
    assert np.concatenate(running).tolist() == trained.encode("The river. It rose.").tolist()


def test_it_is_saved_and_loaded(trained: LibraryTokenizer, tmp_path: pathlib.Path) -> None:
    trained.save(tmp_path)
    for again in (load_tokenizer(tmp_path), tokenizer_from_dict(trained.to_dict())):
        assert again.fingerprint == trained.fingerprint and again.special == trained.special
        assert [again.encode(t).tolist() for t in ODD] == [trained.encode(t).tolist() for t in ODD]


def roberta(**pre: Any) -> tokenizers.Tokenizer:
    """A small tokenizer as RoBERTa's files have it."""
    made = tokenizers.Tokenizer(models.BPE(unk_token=None))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **pre})
    made.decoder = decoders.ByteLevel()
    pieces = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=pieces,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(LINES, trainer)
    made.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=True)])
    made.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return made


def values_of(made: tokenizers.Tokenizer) -> dict[str, Any]:
    return json.loads(made.to_str())


@pytest.mark.parametrize("prefix_space", [False, True])
def test_files_of_roberta(prefix_space: bool, tmp_path: pathlib.Path) -> None:
    peer = roberta(add_prefix_space=prefix_space)
    peer.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path / "tokenizer.json")
    assert isinstance(ours, LibraryTokenizer)
    special = ours.special
    assert special.roles == {
        "pad": 1,
        "unk": 3,
        "cls": 0,
        "sep": 2,
        "mask": peer.token_to_id("<mask>"),
    }
    assert (special.separators, special.segments, special.of_pair) == (2, False, 4)
    texts = [t for t in (*ODD, *random_texts(100)) if "<" not in t and "\U0010ffff" not in t]
    for text in texts:
        theirs = peer.encode(text, add_special_tokens=False)
        encoded = ours.encode_with_offsets(text)
        assert encoded.ids.tolist() == theirs.ids
        for span, other in zip(
            zip(encoded.begins, encoded.ends, strict=True), theirs.offsets, strict=True
        ):
            inside = text[slice(*other)].strip()
            assert not inside or text[slice(*span)] == inside
    assert special.mask not in ours.encode("<mask>") and special.cls not in ours.encode("<s>")
    bare = ours.encode_continuation("night came").tolist()
    assert (
        bare
        == load_tokenizer(tmp_path / "tokenizer.json").encode_continuation("night came").tolist()
    )
    assert not ours.word_starts()[bare[0]]
    assert ours.word_starts()[ours.encode_continuation(" night")[0]]


def test_vocab_and_merges_are_the_same_tokenizer(tmp_path: pathlib.Path) -> None:
    peer = roberta()
    values = values_of(peer)
    vocab = values["model"]["vocab"] | {"<mask>": peer.token_to_id("<mask>")}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    merges = "".join(f"{' '.join(pair)}\n" for pair in values["model"]["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}")
    ours = load_tokenizer(tmp_path / "vocab.json")
    whole = from_library_values(values, "x", {})
    assert ours.special == whole.special
    for text in [*ODD, *random_texts(50)]:
        assert ours.encode(text).tolist() == whole.encode(text).tolist()
    (tmp_path / "merges.txt").write_text(f"\ufeff#version: 0.2\n{merges}")
    assert load_tokenizer(tmp_path / "vocab.json").fingerprint == ours.fingerprint
    (tmp_path / "merges.txt").write_bytes(b"#version: 0.2\n\xe9 a\n")
    with pytest.raises(UserError, match=r"merges.txt is not UTF-8 at byte 14: copy it again"):
        load_tokenizer(tmp_path / "vocab.json")
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(UserError, match="has no merges.txt beside it"):
        load_tokenizer(tmp_path / "vocab.json")


def test_a_config_beside_a_tokenizer_names_its_special_pieces(tmp_path: pathlib.Path) -> None:
    values = json.loads(roberta().to_str().replace("<mask>", "<msk>"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="no mask piece .*: name it as mask_token in tokenizer_con"):
        load_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text('{"mask_token": {"content": "<msk>"}}')
    ours = load_tokenizer(tmp_path / "tokenizer.json")
    assert ours.id_to_piece(ours.special.mask) == "<msk>"
    del values["added_tokens"][-1]["id"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="has the added token .*: give it content and id"):
        load_tokenizer(tmp_path / "tokenizer.json")


def unigram(metaspace: dict[str, Any], normalizer: dict[str, Any] | None = None) -> dict[str, Any]:
    """A small Unigram tokenizer.json as XLM-R has it."""
    words = ["▁hello", "▁world", "hello", "world", "▁", "▁two", "▁fi", "..."]
    pieces = [*ROBERTA_PIECES.values(), *words, *"abcdefghijklmnopqrstuvwxyz.½12/…"]
    vocab = [[piece, -float(len(pieces) if len(piece) == 1 else 2)] for piece in pieces]
    ids = {piece: id for id, piece in enumerate(pieces)}
    return {
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", **metaspace},
        "decoder": {"type": "Metaspace", "replacement": "▁", **metaspace},
        "post_processor": {
            "type": "RobertaProcessing",
            "cls": ["<s>", ids["<s>"]],
            "sep": ["</s>", ids["</s>"]],
        },
        "added_tokens": [
            {"id": ids[p], "content": p, "special": True, "normalized": False}
            | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
            for p in ROBERTA_PIECES.values()
        ],
        "model": {"type": "Unigram", "unk_id": ids["<unk>"], "vocab": vocab},
    }


@pytest.mark.parametrize(
    "metaspace",
    [
        {"prepend_scheme": "always"},
        {"prepend_scheme": "first"},
        {"prepend_scheme": "never"},
        {"add_prefix_space": True},
        {"add_prefix_space": False},
        {},
        {"prepend_scheme": "never", "add_prefix_space": False},
    ],
)
def test_a_mark_before_words_is_as_the_library_has_it(metaspace: dict[str, Any]) -> None:
    values = unigram(metaspace)
    if metaspace == {"add_prefix_space": False}:  # the library takes it for a contradiction
        with pytest.raises(UserError, match="does not match declared prepend_scheme"):
            from_library_values(values, "x", {})
        return
    ours, peer = from_library_values(values, "x", {}), library_of(values)
    for text in ["hello world", " hello", "hello", "a b", "  two  "]:
        assert ours.encode(text).tolist() == peer.encode(text, add_special_tokens=False).ids, text
    apart = [ids.tolist() for ids in ours.encode_words(["hello", "two"])]
    assert apart == [peer.encode(w, add_special_tokens=False).ids for w in ("hello", "two")]
    assert "▁" not in ours.id_to_piece(int(ours.encode_continuation("hello world")[0]))
    assert [ours.id_to_piece(int(id)) for id in ours.encode_continuation(" world")] in (
        ["▁world"],
        ["▁", "world"],
    )
    # No text is a special piece, though a Unigram model has these in its list.
    assert not set(ours.encode("<mask> <s>").tolist()) & {
        ours.special.mask,
        ours.special.cls,
        ours.special.sep,
        ours.special.pad,
    }


def library_of(values: dict[str, Any]) -> tokenizers.Tokenizer:
    whole = {"version": "1.0", "truncation": None, "padding": None}
    return tokenizers.Tokenizer.from_str(json.dumps(whole | values))


def test_spans_are_in_the_text_before_it_was_normalised() -> None:
    values = unigram({"prepend_scheme": "always"}, {"type": "NFKC"})
    ours = from_library_values(values, "x", {})
    for text in ["a… b", "ﬁn ½ x", "two … one"]:
        encoded = ours.encode_with_offsets(text)
        inside = [text[b:e] for b, e in zip(encoded.begins, encoded.ends, strict=True)]
        assert inside[-1] == text[-1] and all(part == part.strip() != "" for part in inside)
    encoded = ours.encode_with_offsets("a… b")
    assert [(int(b), int(e)) for b, e in zip(encoded.begins, encoded.ends, strict=True)] == [
        (0, 1),
        (1, 2),
        (3, 4),
    ] or set(zip(encoded.begins.tolist(), encoded.ends.tolist(), strict=True)) == {
        (0, 1),
        (1, 2),
        (3, 4),
    }


def template(single: list[Any], pair: list[Any]) -> dict[str, Any]:
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": {}}


def changed(path: str, value: Any) -> dict[str, Any]:
    values = values_of(roberta())
    *parents, last = path.split(".")
    part = values
    for parent in parents:
        part = part[parent]
    part[last] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.type", "WordLevel", "model.type=WordLevel is not implemented"),
        ("model.dropout", 0.1, "model.dropout=0.1 is not implemented"),
        ("model.end_of_word_suffix", "</w>", "model.end_of_word_suffix=</w> is not implemented"),
        ("pre_tokenizer", {"type": "Whitespace"}, "a BPE model without .* ByteLevel"),
        ("pre_tokenizer", {"type": "BertPreTokenizer"}, "pre_tokenizer.type=BertPreTokenizer"),
        ("normalizer", {"type": "Magic"}, "normalizer.type=Magic is not implemented"),
        ("post_processor", None, "post_processor of type None is not implemented"),
        ("post_processor", {"type": "ByteLevel"}, "post_processor of type ByteLevel"),
        ("post_processor", {"type": "Sequence"}, "post_processor of type Sequence"),
        ("post_processor", template(["x"], []), "tokenizer.json is not as the library tokenizers"),
        ("post_processor", template([{"A": {}}], []), "is not as the library tokenizers writes it"),
        (
            "post_processor",
            {"type": "RobertaProcessing", "cls": ["<s>", 3], "sep": ["</s>", 2]},
            "post_processor gives '<s>' the id 3, and the vocabulary 0",
        ),
        ("truncation", {"direction": "Left"}, "truncation.direction=Left is not implemented"),
        ("added_tokens", [{"content": "<s>"}], "has the added token .* give it content and id"),
        ("added_tokens", ["<s>"], "has the added token '<s>': give it content and id"),
        ("model.vocab", {"a": "b"}, "model.vocab has ids that are no whole numbers"),
        ("model.merges", [["a"]], "is not read by the library tokenizers"),
        ("added_tokens", [], "has no mask piece"),
    ],
)
def test_what_is_not_understood_is_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_library_values(changed(path, value), "tokenizer.json", {})


def test_a_vocabulary_that_lacks_bytes_is_refused() -> None:
    values = values_of(roberta())
    del values["model"]["vocab"]["Ł"]
    with pytest.raises(UserError, match="lacks 1 of the 256 bytes, such as 'Ł'"):
        from_library_values(values, "tokenizer.json", {})


@pytest.mark.parametrize(
    ("pair", "separators", "segments"),
    [
        ("[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", 1, True),
        ("[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0", 1, False),
        ("[CLS]:0 $A:0 [SEP]:0 [SEP]:0 $B:0 [SEP]:0", 2, False),
        ("[CLS]:0 $A:0 [SEP]:0 $B:1", 0, False),
        ("[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:0", 0, False),  # types that no row here has
        ("[CLS]:0 $B:0 [SEP]:0 $A:1 [SEP]:1", 0, False),
    ],
)
def test_templates(trained: LibraryTokenizer, pair: str, separators: int, segments: bool) -> None:
    made = library(trained)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    values = values_of(made) | {"added_tokens": trained.library_values()["added_tokens"]}
    if not separators:
        with pytest.raises(UserError, match="post_processor of type TemplateProcessing"):
            from_library_values(values, "x", {})
        return
    special = from_library_values(values, "x", {}).special
    assert (special.separators, special.segments) == (separators, segments)
    sequence = {"type": "Sequence", "processors": [values["post_processor"], byte_level_step()]}
    again = from_library_values(values | {"post_processor": sequence}, "x", {})
    assert again.special == special


def byte_level_step() -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}


def test_added_tokens_keep_their_ids_behind_special_ones() -> None:
    peer = roberta()
    peer.add_tokens(["<e1>", "Kraków"])
    peer.add_special_tokens(["<ctx>"])
    ours = from_library_values(values_of(peer), "x", {})
    text = "a <e1> in Kraków<ctx>"
    assert ours.encode(text).tolist() == peer.encode(text, add_special_tokens=False).ids
    at = ours.encode(text).tolist().index(peer.token_to_id("Kraków"))
    assert ours.word_starts()[ours.encode(text)[at]]
    values = values_of(peer)
    values["added_tokens"][-1]["id"] += 1
    with pytest.raises(UserError, match="the added token '<ctx>' has the id"):
        from_library_values(values, "x", {})


def test_a_damaged_normalizer_is_one_line() -> None:
    values = unigram({"prepend_scheme": "always"})
    values["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": ""}
    with pytest.raises(UserError, match="is not read by the library"):
        from_library_values(values, "x", {})
