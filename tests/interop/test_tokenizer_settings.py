"""Every setting that transformers writes for a BERT tokenizer is followed, or refused by name.

What is followed has the ids and the offsets of transformers' own tokenizer on the same directory.
"""

import json
import pathlib
import random
from typing import Any

import pytest

from bert_jax.interop.huggingface_tokenizer import (
    read_tokenizer,
    unstated_settings,
    write_tokenizer,
)
from bert_jax.text.tokenizer import Tokenizer, load_tokenizer
from tests.fixtures.interop import VOCAB

V = len(VOCAB)
CASED = [*VOCAB, "Paris", "Red", "R", "Blue", "##R"]
MARKED = [*VOCAB, "[E1]", "[/E1]"]

ATOMS = (
    *("red", "Blue", "LIGHT", "stone", "the", "Paris", "rivering", "x9", "a" * 101, "naïve"),
    *("Zürich", "e\u0301", "\u0301", "彼は", "東京", "ไทย", "हिन्दी", "עברית", "한", "ß", "İ"),
    *(" ", " ", " ", "  ", "\t", "\n", "\u00a0", "\u3000", "\u2028", "\r\n"),
    *("\ufeff", "\u200b", "\u00ad", "\u200f", "\u200d", "\ufe0f", "\x00", "\x07", "\x85", "\ufffd"),
    *(
        "👨\u200d👩\u200d👧",
        "❤\ufe0f",
        "🥰",
        ".",
        ",",
        "?",
        "-",
        "[",
        "]",
        "##",
        "'",
        "$",
        "\ue000",
    ),
)
ADDED = ("[E1]", "[/E1]", "New York", "new york", "xyz", "<b>", "[Q]", "stone", "[e1]", "\n")


def lines(count: int, added: tuple[str, ...] = ADDED) -> list[str]:
    rng = random.Random(count)
    atoms = [*ATOMS, *3 * added]
    return ["".join(rng.choices(atoms, k=rng.randrange(1, 14))) for _ in range(count)]


def flags(content: str, **others: bool) -> dict[str, Any]:
    plain = dict(lstrip=False, rstrip=False, normalized=True, single_word=False, special=False)
    return {"content": content, **plain, **others}


def typed(token: dict[str, Any]) -> dict[str, Any]:
    return token | {"__type": "AddedToken"}


def write(
    directory: pathlib.Path,
    config: dict[str, Any] | None = None,
    *,
    vocab: list[str] | bytes | None = None,
    **files: Any,
) -> pathlib.Path:
    """Writes a vocab.txt, a tokenizer_config.json and other files of JSON."""
    directory.mkdir(exist_ok=True)
    vocab = VOCAB if vocab is None else vocab
    content = vocab if isinstance(vocab, bytes) else "".join(f"{p}\n" for p in vocab).encode()
    (directory / "vocab.txt").write_bytes(content)
    if config is not None:
        files["tokenizer_config"] = config
    for name, values in files.items():
        (directory / f"{name}.json").write_text(json.dumps(values))
    return directory


def assert_parity(ours: Tokenizer, directory: pathlib.Path, texts: list[str]) -> None:
    """Asserts the ids of transformers, and its offsets but for what ours say otherwise."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertTokenizer.from_pretrained(
        directory, **unstated_settings(directory, ours)
    )
    for text in texts:
        other = theirs(text, add_special_tokens=False, return_offsets_mapping=True)
        found = ours.encode_with_offsets(text)
        assert found.ids.tolist() == other["input_ids"], text
        assert ours.encode(text).tolist() == other["input_ids"]
        spans = zip(
            found.begins.tolist(), found.ends.tolist(), other["offset_mapping"], strict=True
        )
        for begin, end, (first, last) in spans:
            white = text[first:last]
            if inked := white.strip():  # ours have no white space that a token takes with it
                first, last = first + white.index(inked), first + white.index(inked) + len(inked)
            rest = text[last:end]  # ours cover an accent that was stripped
            assert begin == first and (end == last or not rest.strip("\u0301\ufe0f\u093f")), text


# (config, other files, vocabulary, a text, its pieces)
FOLLOWED: dict[str, tuple[dict[str, Any] | None, dict[str, Any], Any, str, list[str]]] = {
    "marks in the vocabulary": (
        {"additional_special_tokens": ["[E1]", "[/E1]"]},
        {},
        MARKED,
        "[E1] red[/E1]sun",
        ["[E1]", "red", "[/E1]", "sun"],
    ),
    "marks behind it": (
        {"additional_special_tokens": ["[E1]", "[/E1]"]},
        {},
        VOCAB,
        "[E1]red",
        ["[E1]", "red"],
    ),
    "a list of version 5": (
        {"extra_special_tokens": ["[E1]"]},
        {},
        MARKED,
        "[E1]red",
        ["[E1]", "red"],
    ),
    "named ones of version 5": (
        {"extra_special_tokens": {"image_token": "[E1]"}, "note_token": "[Q]"},
        {},
        VOCAB,
        "[E1][Q]",
        ["[E1]", "[Q]"],
    ),
    "words of several words": (
        {"added_tokens_decoder": {str(V): flags("New York", lstrip=True, single_word=True)}},
        {},
        VOCAB,
        "red  new york, new yorker",
        [*("red", "New York", ",", "n", "##e", "##w"), *("y", "##o", "##r", "##k", "##er")],
    ),
    "not normalised": (
        {"added_tokens_decoder": {str(V): flags("New York", normalized=False, rstrip=True)}},
        {},
        VOCAB,
        "aNew York red",
        ["a", "New York", "red"],
    ),
    "an object in a list": (
        {"additional_special_tokens": [typed(flags("[E1]", special=True))]},
        {},
        VOCAB,
        "[e1]",
        ["[E1]"],
    ),
    "a line break": (
        {"added_tokens_decoder": {str(V): flags("\n", normalized=False)}},
        {},
        VOCAB,
        "red\nsun",
        ["red", "\n", "sun"],
    ),
    "files of old versions": (
        {},
        {
            "added_tokens": {"xyz": V},
            "special_tokens_map": {
                "additional_special_tokens": ["[Q]"],
                "bos_token": flags("<b>", lstrip=True),
            },
        },
        VOCAB,
        "red XYZ[Q] <b>",
        ["red", "xyz", "[Q]", "<b>"],
    ),
    "old files beside a decoder": (
        {"added_tokens_decoder": {str(V): flags("xyz")}},
        {"added_tokens": {"<b>": V}, "special_tokens_map": {"bos_token": "[Q]"}},
        VOCAB,
        "xyz[Q]",
        ["xyz", "[UNK]", "q", "[UNK]"],
    ),
    "a word of the vocabulary": (
        {"added_tokens_decoder": {str(VOCAB.index("stone")): flags("stone")}},
        {},
        VOCAB,
        "redstoner",
        ["red", "stone", "r"],
    ),
    "special pieces with flags": (
        {
            "mask_token": typed(flags("[MASK]", lstrip=True)),
            "bos_token": "[CLS]",
            "eos_token": "[SEP]",
        },
        {},
        VOCAB,
        "red",
        ["red"],
    ),
    "accents": ({"strip_accents": False}, {}, VOCAB, "é", ["[UNK]"]),
    "Chinese words": ({"tokenize_chinese_chars": False}, {}, [*VOCAB, "東京"], "東京", ["東京"]),
    "a cased vocabulary": (None, {}, CASED, "Paris Stone", ["Paris", "[UNK]"]),
    "cased, with a config": ({"model_max_length": 32}, {}, CASED, "Red", ["Red"]),
    "an uncased one with marks": (None, {}, MARKED, "RED", ["red"]),
    "repeated lines": (
        {},
        {},
        [*VOCAB, "the", "red", "last"],
        "the red last",
        ["the", "red", "last"],
    ),
    "blank lines": ({}, {}, [*VOCAB, "", "last", "", ""], "last", ["last"]),
    "white space at the ends": ({}, {}, [f"{p} " for p in VOCAB] + ["last\t"], "last", ["last"]),
    "CR LF, no last line end": ({}, {}, "\r\n".join([*VOCAB, "last"]).encode(), "last", ["last"]),
    "a special piece twice": ({}, {}, [*VOCAB, "[UNK]"], "ω", ["[UNK]"]),
}


@pytest.mark.hf
@pytest.mark.parametrize("name", FOLLOWED)
def test_what_is_followed(name: str, tmp_path: pathlib.Path) -> None:
    config, files, vocab, text, pieces = FOLLOWED[name]
    write(tmp_path / "theirs", config, vocab=vocab, **files)
    ours = read_tokenizer(tmp_path / "theirs")
    assert [ours.id_to_piece(id) for id in ours.encode(text)] == pieces
    texts = [text, *lines(60)]
    assert_parity(ours, tmp_path / "theirs", texts)
    # Written, both libraries still agree; and so does what is read back.
    (tmp_path / "written").mkdir()
    write_tokenizer(ours, tmp_path / "written", 50)
    assert_parity(ours, tmp_path / "written", texts)
    assert read_tokenizer(tmp_path / "written").to_dict() == ours.to_dict()
    (tmp_path / "written" / "tokenizer.json").unlink()
    if "\n" not in text:  # which no line of a vocab.txt has
        assert read_tokenizer(tmp_path / "written").to_dict() == ours.to_dict()
    ours.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").to_dict() == ours.to_dict()
