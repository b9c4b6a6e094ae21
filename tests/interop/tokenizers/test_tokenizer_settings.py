"""Every setting that transformers writes for a BERT tokenizer is followed, or refused by name.

What is followed has the ids and the offsets of transformers' own tokenizer on the same directory.
"""

import json
import pathlib
import random
from typing import Any

import pytest

from bert_jax.errors import UserError
from bert_jax.interop.tokenizers import tokenizer_fields
from bert_jax.interop.tokenizers.huggingface_tokenizer import (
    check_segments,
    read_max_length,
    read_tokenizer,
    unstated_settings,
    write_tokenizer,
)
from bert_jax.text.tokenizer import AddedToken, Tokenizer, WordPieceTokenizer, load_tokenizer
from tests.fixtures.interop import SPECIAL, VOCAB, edit_json
from tests.odd_inputs.mutations import mutated_json

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
    /,
    *,
    pieces: list[str] | bytes | None = None,
    **files: Any,
) -> pathlib.Path:
    """Writes a vocab.txt, a tokenizer_config.json and other files of JSON."""
    directory.mkdir(exist_ok=True)
    pieces = VOCAB if pieces is None else pieces
    content = pieces if isinstance(pieces, bytes) else "".join(f"{p}\n" for p in pieces).encode()
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
    write(tmp_path / "theirs", config, pieces=vocab, **files)
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


JAPANESE = {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"}
MARK = [flags("[E1]", special=True)]
TEMPLATE = {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}
# Directories of other tokenizers: (config, other files, vocabulary, what the message names).
REFUSED: list[tuple[dict[str, Any], dict[str, Any], Any, str]] = [
    (JAPANESE, {}, None, "tokenizer_class=BertJapaneseTokenizer is not BERT's WordPiece"),
    ({}, {"config": {"tokenizer_class": "BertJapaneseTokenizer"}}, None, "config.json: tokenizer_"),
    ({"word_tokenizer_type": "mecab"}, {}, None, "word_tokenizer_type=mecab is not implemented"),
    ({"subword_tokenizer_type": "character"}, {}, None, "subword_tokenizer_type=character"),
    ({"mecab_kwargs": {"mecab_dic": "unidic"}}, {}, None, "mecab_kwargs="),
    ({"tokenizer_class": "AlbertTokenizer"}, {}, None, "tokenizer_class=AlbertTokenizer"),
    ({"tokenizer_class": "PreTrainedTokenizerFast"}, {}, None, "needs tokenizer.json"),
    ({"sp_model_kwargs": {"a": 1}}, {}, None, "sp_model_kwargs="),
    ({"do_basic_tokenize": False}, {}, None, "do_basic_tokenize=false is not implemented"),
    ({"never_split": ["red-blue"]}, {}, None, 'never_split=\\["red-blue"\\]'),
    ({"wordpieces_prefix": "@@"}, {}, None, "wordpieces_prefix=@@"),
    ({"clean_text": False}, {}, None, "clean_text=false"),
    ({"truncation_side": "left"}, {}, None, "truncation_side=left"),
    ({"split_special_tokens": True}, {}, None, "split_special_tokens=true"),
    ({"add_prefix_space": True}, {}, None, "add_prefix_space=true"),
    ({"auto_map": {"AutoTokenizer": ["mine.Tokenizer", None]}}, {}, None, "auto_map="),
    ({"normalization": True}, {}, None, "normalization=true is not known"),
    ({"unk_token": "<unk>"}, {}, None, "tokenizer_config.json: unk_token=<unk>"),
    ({}, {"special_tokens_map": {"pad_token": "<pad>"}}, None, "tokens_map.json: pad_token=<pad>"),
    ({"added_tokens_decoder": {"7": flags("xyz")}}, {}, None, "'xyz' has the id 7"),
    ({"added_tokens_decoder": {str(V + 3): flags("xyz")}}, {}, None, "'xyz' has the id"),
    ({"added_tokens_decoder": {"7": flags("[CLS]")}}, {}, None, r"'\[CLS\]' has the id 7"),
    ({"added_tokens_decoder": {str(V): flags("\u200b")}}, {}, None, "which never has it"),
    ({"added_tokens_decoder": {"7": "x"}, "bos_token": {"a": 1}}, {}, None, "neither a text nor"),
    ({}, {}, [p.replace("##", "▁") for p in VOCAB], "are of SentencePiece"),
    ({}, {}, [f"{p}Ġ"[::-1] for p in VOCAB], "are of byte-level BPE"),
    ({}, {"vocab": {"a": 1}}, None, "has vocab.json, of another tokenizer"),
    ({}, {}, VOCAB[:4], r"has no \[MASK\]"),
    ({"do_lower_case": "yes"}, {}, None, "do_lower_case=yes is neither true nor false"),
]


@pytest.mark.parametrize(("config", "files", "vocab", "message"), REFUSED)
def test_what_is_refused(
    config: dict, files: dict, vocab: Any, message: str, tmp_path: pathlib.Path
) -> None:
    write(tmp_path, config, pieces=vocab, **files)
    with pytest.raises(UserError, match=message) as raised:
        read_tokenizer(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.type", "WordLevel", "model.type=WordLevel"),
        ("model.unk_token", "<unk>", "model.unk_token=<unk>"),
        ("model.continuing_subword_prefix", "@@", "model.continuing_subword_prefix=@@"),
        ("model.max_input_chars_per_word", 50, "model.max_input_chars_per_word=50"),
        ("model.dropout", 0.1, "model.dropout=0.1 is not known"),
        ("normalizer", None, "normalizer.type=null"),
        ("normalizer", {"type": "Sequence", "normalizers": []}, "normalizer.type=Sequence"),
        ("normalizer.clean_text", False, "normalizer.clean_text=false"),
        ("pre_tokenizer", {"type": "Whitespace"}, "pre_tokenizer.type=Whitespace"),
        ("post_processor", TEMPLATE, "post_processor="),
        ("post_processor", {"type": "RobertaProcessing"}, "post_processor="),
        ("truncation", {"direction": "Left", "max_length": 8}, "truncation.direction=Left"),
        ("added_tokens", [*MARK, {"id": 7, "content": "[CLS]"}], r"'\[CLS\]' has the id 7"),
        ("added_tokens", [MARK[0] | {"id": 7}], r"'\[E1\]' has the id 7"),
        ("extra", {"a": 1}, "extra="),
    ],
)
def test_parts_of_tokenizer_json_are_refused(
    path: str, value: Any, message: str, tmp_path: pathlib.Path
) -> None:
    write_tokenizer(WordPieceTokenizer(VOCAB, lower_case=True), tmp_path, 50)
    values = json.loads((tmp_path / "tokenizer.json").read_text())
    outer, _, inner = path.partition(".")
    if inner:
        values[outer][inner] = value
    else:
        values[outer] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=message):
        read_tokenizer(tmp_path)


def test_a_token_of_one_file_alone_is_refused(tmp_path: pathlib.Path) -> None:
    marked = write(tmp_path / "a", {"additional_special_tokens": ["[E1]"]}, pieces=MARKED)
    (tmp_path / "b").mkdir()
    write_tokenizer(read_tokenizer(marked), tmp_path / "b", 50)
    edit_json(tmp_path / "b/tokenizer_config.json", added_tokens_decoder={"4": flags("[MASK]")})
    with pytest.raises(UserError, match=r"added_tokens_decoder lacks '\[PAD\]'"):
        read_tokenizer(tmp_path / "b")


@pytest.mark.hf
def test_harmless_fields_are_harmless(tmp_path: pathlib.Path) -> None:
    plain = read_tokenizer(write(tmp_path / "plain", {"do_lower_case": True}))
    odd = {"max_length": 4, "stride": 2, "padding_side": "left", "legacy": True, "errors": "x"}
    for name in tokenizer_fields.HARMLESS:
        value = odd.get(name, "something")
        made = write(tmp_path / name, {"do_lower_case": True, name: value})
        assert read_tokenizer(made).to_dict() == plain.to_dict(), name
    known = [name for name in odd if name not in ("legacy", "errors")]
    made = write(tmp_path / "all", {"do_lower_case": True} | {name: odd[name] for name in known})
    assert_parity(plain, made, lines(60))


@pytest.mark.hf
@pytest.mark.parametrize("padded", [False, True])
def test_what_transformers_writes_is_read(padded: bool, tmp_path: pathlib.Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = {"additional_special_tokens": ["[E1]", "[/E1]"], "do_lower_case": False}
    theirs = transformers.BertTokenizer.from_pretrained(write(tmp_path / "a", config))
    theirs.add_tokens([transformers.AddedToken("xyz", single_word=True)])
    theirs.chat_template = "{{ messages }}"
    if padded:
        theirs.model_max_length = 20
        theirs("red", padding="max_length", truncation=True, max_length=9)  # it stays set
    theirs.save_pretrained(tmp_path / "b")
    assert "tokenizer.json" in {path.name for path in (tmp_path / "b").iterdir()}
    ours = read_tokenizer(tmp_path / "b")
    assert [token.content for token in ours.added] == ["[E1]", "[/E1]", "xyz"]
    assert not ours.lower_case and not ours.notes
    assert_parity(ours, tmp_path / "b", ["xyz xyzz", *lines(100)])
    assert read_max_length(tmp_path / "b") == (20 if padded else None)


@pytest.mark.hf
def test_the_classes_are_berts(tmp_path: pathlib.Path) -> None:
    transformers = pytest.importorskip("transformers")
    named = [name for name in tokenizer_fields.BERT_CLASSES if hasattr(transformers, name)]
    assert len(named) > 5
    for name in named:
        kind = getattr(transformers, name)
        write(tmp_path, {"tokenizer_class": name, "strip_accents": False})
        ours, theirs = read_tokenizer(tmp_path), kind.from_pretrained(tmp_path)
        for text in lines(40, ()):
            assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text).tolist()


@pytest.mark.parametrize(
    ("vocab", "config", "lower_case", "note"),
    [
        (CASED, None, False, "the vocabulary is cased, judging by its pieces"),
        (VOCAB, None, True, "the vocabulary is uncased, judging by its pieces"),
        (MARKED, {}, True, "uncased"),
        ([*VOCAB, "[unused1]", "ß", "Ⅳ", "彼", "##は"], {}, True, "uncased"),
        ([*VOCAB, *(f"w{c}" for c in "abcdefghij"), *100 * ["x"], "Paris"], {}, False, "cased"),
        ([*SPECIAL, "東", "京", "A", "##B"], {}, False, "cased"),
        (CASED, {"do_lower_case": True}, True, ""),
        (VOCAB, {"do_lower_case": False}, False, ""),
    ],
)
def test_casing_is_inferred_where_no_file_tells(
    vocab: list[str], config: dict | None, lower_case: bool, note: str, tmp_path: pathlib.Path
) -> None:
    vocab = list(dict.fromkeys(vocab))
    found = read_tokenizer(write(tmp_path, config, pieces=vocab))
    assert found.lower_case is lower_case
    assert len(found.notes) == bool(note) and all(note in each for each in found.notes)
    if not note:
        return
    loaded = load_tokenizer(tmp_path / "vocab.txt")
    assert isinstance(loaded, WordPieceTokenizer) and loaded.notes == found.notes
    assert loaded.to_dict() == found.to_dict()


def test_files_that_disagree_are_told(tmp_path: pathlib.Path) -> None:
    write_tokenizer(WordPieceTokenizer(VOCAB, lower_case=False), tmp_path, 50)
    path = tmp_path / "tokenizer_config.json"
    assert not read_tokenizer(tmp_path).notes
    edit_json(path, do_lower_case=True, strip_accents=None)
    found = read_tokenizer(tmp_path)
    assert found.lower_case and "do_lower_case=true: tokenizer_config.json is followed" in str(
        found.notes
    )
    edit_json(path, tokenizer_class="PreTrainedTokenizerFast")
    found = read_tokenizer(tmp_path)
    assert not found.lower_case and "tokenizer.json is followed" in str(found.notes)
    edit_json(path, tokenizer_class="BertTokenizer", do_lower_case=None)
    path.write_text("{}")
    found = read_tokenizer(tmp_path)
    assert not found.lower_case and "by default: tokenizer.json is followed" in str(found.notes)


def test_rows_that_no_text_becomes(tmp_path: pathlib.Path) -> None:
    found = read_tokenizer(
        write(tmp_path, {}, pieces=[*VOCAB, "the", "", "last", "", ""]), rows=V + 3
    )
    assert found.vocab_size == V + 3 and found.id_to_piece(VOCAB.index("the")) == ""
    assert found.encode("the").tolist() == [V]
    assert found.decode([VOCAB.index("the"), V, V + 1, V + 2]) == "the last"
    _, repeats, blank = found.notes
    assert f"line {V + 1} repeats 'the' of line {VOCAB.index('the') + 1}" in repeats
    assert "lines are blank" in blank


def test_pairs_without_segments_are_refused(tmp_path: pathlib.Path) -> None:
    check_segments(write(tmp_path, {"model_input_names": ["input_ids", "token_type_ids"]}))
    with pytest.raises(UserError, match="leaves out token_type_ids"):
        check_segments(write(tmp_path, {"model_input_names": ["input_ids", "attention_mask"]}))


@pytest.mark.hf
@pytest.mark.parametrize("seed", range(24))
def test_random_added_tokens(seed: int, tmp_path: pathlib.Path) -> None:
    rng = random.Random(seed)
    contents = [*ADDED, "the", "##er", "a b", "É", "川", "[unused1]", "New", "  ", "ing", "R", "ﬁ"]
    vocab = [*VOCAB, *(c for c in contents if c == c.strip() and c not in VOCAB)]
    vocab = [piece for piece in vocab if piece in VOCAB or rng.random() < 0.3]
    chosen = rng.sample(contents, rng.randrange(1, 6))

    def token(content: str) -> dict[str, Any]:
        names = ("lstrip", "rstrip", "normalized", "single_word", "special")
        return flags(content, **{name: rng.random() < 0.4 for name in names})

    rows = {piece: id for id, piece in enumerate(vocab)}
    ids = {content: rows.setdefault(content, len(rows)) for content in chosen}
    config: dict[str, Any] = [
        {"additional_special_tokens": chosen},
        {"added_tokens_decoder": {str(ids[content]): token(content) for content in chosen}},
        {"bos_token": chosen[0], "extra_special_tokens": [typed(token(c)) for c in chosen[1:]]},
    ][seed % 3]
    config |= {
        "do_lower_case": rng.random() < 0.6,
        "strip_accents": rng.choice([None, True, False]),
    }
    write(tmp_path / "theirs", config, pieces=vocab)
    ours, texts = read_tokenizer(tmp_path / "theirs"), lines(40, tuple(contents))
    assert {each.content: each.id for each in ours.added} == ids
    assert_parity(ours, tmp_path / "theirs", texts)
    (tmp_path / "written").mkdir()
    write_tokenizer(ours, tmp_path / "written", 50)
    assert_parity(ours, tmp_path / "written", texts)
    assert read_tokenizer(tmp_path / "written").to_dict() == ours.to_dict()


@pytest.mark.parametrize("seed", range(6))
def test_mutated_files_are_read_or_refused(seed: int, tmp_path: pathlib.Path) -> None:
    rng = random.Random(seed)
    added = [AddedToken("[E1]", V, special=True), AddedToken("xy z", V + 1)]
    tokenizer = WordPieceTokenizer(VOCAB, lower_case=True, added=added)
    write_tokenizer(tokenizer, write(tmp_path), 40)
    files: dict[str, Any] = {
        name: json.loads((tmp_path / f"{name}.json").read_text())
        for name in ("tokenizer", "tokenizer_config")
    }
    files["special_tokens_map"] = {"cls_token": "[CLS]", "mask_token": flags("[MASK]")}
    files["added_tokens"] = {"[E1]": V, "xy z": V + 1}
    files["config"] = {"tokenizer_class": "BertTokenizer", "vocab_size": V}
    read = 0
    for number in range(60):
        bad = rng.choice(sorted(files))
        found = {name: values for name, values in files.items() if rng.random() < 0.6}
        found[bad] = mutated_json(rng, files[bad])
        directory = write(tmp_path / f"{number}", **found)
        try:
            read += bool(read_tokenizer(directory))
            read_max_length(directory)
            check_segments(directory)
        except UserError as error:
            assert str(directory) in str(error) and "\n" not in str(error)
    assert 5 < read < 55
