"""Tokenizers: no text becomes a special id; offsets on hard Unicode; storage; training; errors."""

import io
import json
import random
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import sentencepiece

from bert_jax.errors import UserError
from bert_jax.text.tokenizer import (
    SentencePieceTokenizer,
    SpecialIds,
    Tokenizer,
    WordPieceTokenizer,
    load_tokenizer,
    tokenizer_from_dict,
)
from bert_jax.text.training import ModelType, train_sentencepiece, train_wordpiece

WORDS = (
    "the a river town house green old new king city under over was is were has had in of and to"
    " station village music record player season league final first second third century"
).split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCAB = [
    *SPECIAL,
    *(c for c in "abcdefghijklmnopqrstuvwxyzMASKUNPDE[]<>.,!0123456789ﬁ½é中ᄒ"),
    *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyzMASKUNPDEﬁ½éᅡᆫ"),
    *(word for word in WORDS if len(word) > 1),
    "mask",
    "##ing",
    "##\u0301",
]
# Pieces of hard text: normalised to more or fewer characters, dropped, or white space in disguise.
ATOMS = [
    *"abc fi\t\n.",
    *("  ", "ﬁ", "½", "ｆ", "e\u0301", "\u0301", "\u1112\u1161\u11ab", "글", "\u200b", "\u200d"),
    *("👨\u200d👩\u200d👧", "\ufe0f", "𝒳", "𐍈", "\u00a0", "\u3000", "\ufeff", "㍿", "\x00", "\x1c"),
    *("\ufdfa", "▁", "İ", "中", "\u00a8", "\u2028", "\u00ad", "ŉ", "\u0344", "か\u3099", "<0x41>"),
    *SPECIAL,
]


def sentences() -> list[str]:
    """Common words, and rarer ones made of their halves."""
    rng = random.Random(0)
    halves = [word[:3] for word in WORDS] + [word[3:] for word in WORDS]
    words = WORDS * 3 + ["".join(rng.choices(halves, k=2)) for _ in range(300)]
    made = [" ".join(rng.choices(words, k=rng.randint(3, 12))) + "." for _ in range(300)]
    # SentencePiece learns nothing from the literal "[MASK]", so its letters come apart.
    return made + ["the ﬁne ½ café, [ ] M A S K C L E P D U N 0 1 2 3 4 5 6 7 8 9"] * 9


def foreign_model(text: list[str] | None = None, **options: object) -> bytes:
    """Trains a model with settings that are not ours."""
    model = io.BytesIO()
    settings = {
        "vocab_size": 120,
        "model_type": "unigram",
        "pad_id": 0,
        "pad_piece": "[PAD]",
        "unk_id": 1,
        "unk_piece": "[UNK]",
        "bos_id": -1,
        "eos_id": -1,
        "control_symbols": ["[CLS]", "[SEP]", "[MASK]"],
        "num_threads": 1,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text or sentences()), model_writer=model, **{**settings, **options}
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def all_tokenizers() -> dict[str, Tokenizer]:
    return {
        "unigram": train_sentencepiece(sentences(), vocab_size=120, model_type=ModelType.UNIGRAM),
        "bpe": train_sentencepiece(sentences(), vocab_size=120, model_type=ModelType.BPE),
        "bytes": SentencePieceTokenizer(foreign_model(vocab_size=380, byte_fallback=True)),
        "suffix": SentencePieceTokenizer(foreign_model(treat_whitespace_as_suffix=True)),
        "verbatim": SentencePieceTokenizer(
            foreign_model(normalization_rule_name="identity", remove_extra_whitespaces=False)
        ),
        "uncased": WordPieceTokenizer(VOCAB, lower_case=True),
        "cased": WordPieceTokenizer(VOCAB, lower_case=False),
    }


@pytest.fixture(
    params=["unigram", "bpe", "bytes", "suffix", "verbatim", "uncased", "cased"], scope="module"
)
def tokenizer(request: pytest.FixtureRequest, all_tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    return all_tokenizers[request.param]


def hard_texts(count: int) -> Iterator[str]:
    rng = random.Random(1)
    for _ in range(count):
        yield "".join(rng.choices(ATOMS, k=rng.randrange(14)))


def test_special_ids_are_those_of_their_pieces(tokenizer: Tokenizer) -> None:
    assert tokenizer.special == SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
    assert [tokenizer.id_to_piece(id) for id in range(5)] == SPECIAL


@pytest.mark.parametrize("text", [*SPECIAL, "a[MASK]b", " [SEP] the [CLS]", "[[MASK]]", "[mask]"])
def test_text_never_becomes_a_special_id(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert len(ids) >= 3, "brackets and letters are tokens of their own"
    assert not set(ids.tolist()) & {0, 2, 3, 4}


def test_literal_mask_is_spelled_out() -> None:
    uncased = WordPieceTokenizer(VOCAB, lower_case=True)
    assert [uncased.id_to_piece(i) for i in uncased.encode("a[MASK]b")] == [
        "a",
        "[",
        "mask",
        "]",
        "b",
    ]


def test_encodings_agree_on_hard_text(tokenizer: Tokenizer) -> None:
    texts = list(hard_texts(300))
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        encoded = tokenizer.encode_with_offsets(text)
        assert ids.dtype == encoded.ids.dtype == np.int32
        single = tokenizer.encode(text)
        assert single.flags.writeable and single.dtype == np.int32
        np.testing.assert_array_equal(ids, single)
        np.testing.assert_array_equal(ids, encoded.ids)
        assert not set(ids.tolist()) & {0, 2, 3, 4}, text


def test_spans_on_hard_text(tokenizer: Tokenizer) -> None:
    checked = 0
    for text in hard_texts(500):
        _, begins, ends = tokenizer.encode_with_offsets(text)
        if not text.strip():
            continue
        assert begins.dtype == ends.dtype == np.int32
        assert (begins >= 0).all() and (begins < ends).all() and (ends <= len(text)).all(), text
        assert (np.diff(begins) >= 0).all() and (np.diff(ends) >= 0).all(), text
        for begin, end in zip(begins, ends, strict=True):
            assert text[begin:end] == text[begin:end].strip(), (text, begin, end)
            checked += 1
    assert checked > 1500


def test_spans_are_the_pieces_of_ascii_text(tokenizer: Tokenizer) -> None:
    text = "  the old  house was green,\tunder a river station in town.\n"
    ids, begins, ends = tokenizer.encode_with_offsets(text)
    pieces = [tokenizer.id_to_piece(id).removeprefix("##").strip("▁") for id in ids]
    spans = [text[b:e] for b, e in zip(begins, ends, strict=True)]
    known = [(p, s) for p, s, id in zip(pieces, spans, ids, strict=True) if p and id != 1]
    assert [piece for piece, _ in known] == [span for _, span in known]
    assert len(known) > 10
    covered = {i for b, e in zip(begins, ends, strict=True) for i in range(b, e)}
    assert covered == {i for i, c in enumerate(text) if not c.isspace()}


@pytest.mark.parametrize("kind", ["unigram", "bpe", "bytes", "verbatim", "uncased", "cased"])
def test_word_starts_are_where_words_start(all_tokenizers: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = all_tokenizers[kind]
    starts = tokenizer.word_starts()
    assert starts.dtype == bool and starts.shape == (tokenizer.vocab_size,)
    assert starts[[0, 1, 2, 3, 4]].all()  # special pieces
    inner = 0
    for sentence in sentences()[:300]:
        text = " ".join(sentence.rstrip(".").split())  # some words are empty
        encoded = tokenizer.encode_with_offsets(text)
        word = np.array([text[:begin].count(" ") for begin in encoded.begins])
        expected = np.diff(word, prepend=-1) > 0
        np.testing.assert_array_equal(starts[encoded.ids], expected, text)
        inner += (~expected).sum()
    assert inner > 300  # witness: words of several pieces


def test_word_starts_at_signs_and_parts_of_characters(all_tokenizers: dict[str, Tokenizer]) -> None:
    def starts_in(kind: str, text: str) -> list[bool]:
        tokenizer = all_tokenizers[kind]
        return tokenizer.word_starts()[tokenizer.encode(text)].tolist()

    assert starts_in("uncased", "the town.") == [True, True, True]  # BERT's signs are words
    assert starts_in("unigram", "the town.")[-1] is False  # a sign stays with its word
    # A character that the model lacks: three bytes go on with the word before them.
    assert starts_in("bytes", "the\u4e2d")[-3:] == [False] * 3


def test_words_that_only_their_ends_mark_are_refused(all_tokenizers: dict[str, Tokenizer]) -> None:
    with pytest.raises(
        UserError, match="marks the ends of words, .* --config.masking.strategy=tokens"
    ):
        all_tokenizers["suffix"].word_starts()


@pytest.mark.parametrize("kind", ["unigram", "bpe", "bytes", "verbatim", "uncased", "cased"])
def test_text_behind_a_word_is_encoded_as_in_the_whole_text(
    all_tokenizers: dict[str, Tokenizer], kind: str
) -> None:
    """Each word that is one token is taken out: the rest has the tokens of the whole text."""
    tokenizer = all_tokenizers[kind]
    compared = glued = 0
    for text in sentences()[:100]:
        text = f"{text[:-1]}, {text}"
        ids, begins, ends = tokenizer.encode_with_offsets(text)
        for i, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
            is_word = (
                f" {text}"[begin] == " " and f"{text} "[end] in " ,." and text[begin:end].isalpha()
            )
            if is_word and np.count_nonzero((begins < end) & (ends > begin)) == 1:
                before, after = text[:begin].rstrip(), text[end:]
                parts = [tokenizer.encode(before), ids[i : i + 1]]
                found = np.concatenate([*parts, tokenizer.encode_continuation(after)])
                np.testing.assert_array_equal(found, ids, err_msg=f"{before}[MASK]{after}")
                compared += 1
                glued += text[end] != " "
    assert compared > 200 and glued > 20


@pytest.mark.parametrize("text", ["", " ", "\t\n", "\u200b"])
def test_empty_text(all_tokenizers: dict[str, Tokenizer], text: str) -> None:
    for name in ("unigram", "bpe", "uncased", "cased"):
        encoded = all_tokenizers[name].encode_with_offsets(text)
        assert [array.shape for array in encoded] == [(0,)] * 3
        assert [array.dtype for array in encoded] == [np.int32] * 3
        assert all_tokenizers[name].encode(text).shape == (0,)


def spans_of(tokenizer: Tokenizer, text: str) -> list[tuple[str, str]]:
    ids, begins, ends = tokenizer.encode_with_offsets(text)
    return [
        (tokenizer.id_to_piece(int(id)), text[b:e])
        for id, b, e in zip(ids, begins, ends, strict=True)
    ]


def test_parts_of_a_character_take_the_whole_one(all_tokenizers: dict[str, Tokenizer]) -> None:
    # One piece a letter, so that ligatures and fractions are cut in two and three.
    letters = SentencePieceTokenizer(foreign_model(model_type="char", hard_vocab_limit=False))
    assert spans_of(letters, "xﬁ ½e\u0301") == [
        ("▁", "x"),
        ("[UNK]", "x"),
        ("f", "ﬁ"),
        ("i", "ﬁ"),
        ("▁", "½"),
        ("1", "½"),
        ("⁄", "½"),
        ("2", "½"),
        ("é", "e\u0301"),
    ]
    # A piece that ends in the middle of a character.
    crossing = SentencePieceTokenizer(
        foreign_model(["xf", "i"] * 20, model_type="bpe", hard_vocab_limit=False)
    )
    assert spans_of(crossing, "xﬁ") == [("▁xf", "xﬁ"), ("i", "ﬁ")]
    joined = all_tokenizers["bytes"].encode_with_offsets("𐍈")
    assert set(zip(joined.begins.tolist(), joined.ends.tolist(), strict=True)) == {(0, 1)}
    # WordPiece: a Hangul syllable falls into its letters, an accent is dropped.
    hangul = all_tokenizers["uncased"].encode_with_offsets("한 the")
    assert hangul.begins.tolist() == [0, 0, 0, 2]
    assert hangul.ends.tolist() == [1, 1, 1, 5]
    assert spans_of(all_tokenizers["uncased"], "cafe\u0301, e\u0301")[-3:] == [
        ("##e", "e\u0301"),
        (",", ","),
        ("e", "e\u0301"),
    ]
    assert spans_of(all_tokenizers["cased"], "e\u0301") == [("e", "e"), ("##\u0301", "\u0301")]


def test_white_space_that_a_model_can_see(tmp_path, all_tokenizers: dict[str, Tokenizer]) -> None:
    (tmp_path / "rules.tsv").write_text("0A\t23CE\n")  # a line feed becomes a visible sign
    rules = {"normalization_rule_tsv": str(tmp_path / "rules.tsv")}
    visible = SentencePieceTokenizer(foreign_model(["a \n b"] * 9, hard_vocab_limit=False, **rules))
    text = "a\nb"
    _, begins, ends = visible.encode_with_offsets(text)
    assert "⏎" in [visible.id_to_piece(id) for id in range(visible.vocab_size)]
    assert {text[b:e] for b, e in zip(begins, ends, strict=True)} == {"a", "b"}
    # Text of white space alone has tokens only where the model keeps it.
    _, begins, ends = all_tokenizers["verbatim"].encode_with_offsets("  ")
    assert set(zip(begins.tolist(), ends.tolist(), strict=True)) == {(0, 2)}


def test_uncased_lowers_and_cased_does_not(all_tokenizers: dict[str, Tokenizer]) -> None:
    assert all_tokenizers["uncased"].encode("The É").tolist() == [
        VOCAB.index("the"),
        VOCAB.index("e"),
    ]
    assert all_tokenizers["cased"].encode("The é").tolist() == [1, VOCAB.index("é")]


def test_decode_shows_special_pieces(all_tokenizers: dict[str, Tokenizer]) -> None:
    for tokenizer in all_tokenizers.values():
        ids = [2, *tokenizer.encode("the old town"), 4, 3, 0]
        assert tokenizer.decode(ids).split() == "[CLS] the old town [MASK] [SEP] [PAD]".split()
        assert tokenizer.decode(np.array([1], np.int32).tolist()) == "[UNK]"
        assert tokenizer.decode([]) == ""
        assert tokenizer.decode(tokenizer.encode("towning, the old").tolist()) == "towning, the old"
        for id in (-1, tokenizer.vocab_size):
            with pytest.raises(IndexError, match="outside the vocabulary"):
                tokenizer.decode([id])
            with pytest.raises(IndexError, match="outside the vocabulary"):
                tokenizer.id_to_piece(id)


def test_storage_keeps_everything(tokenizer: Tokenizer, tmp_path) -> None:
    text = "The ﬁne old [MASK] house é 中"
    tokenizer.save(tmp_path / "new" / "saved")
    tokenizer.save(tmp_path / "new" / "saved")  # again, over itself
    name = {"sentencepiece": "sentencepiece.model", "wordpiece": "vocab.txt"}[tokenizer.kind]
    saved = sorted(path.name for path in (tmp_path / "new" / "saved").iterdir())
    assert saved == sorted([name, "tokenizer_settings.json"])
    values = json.loads(json.dumps(tokenizer.to_dict()))
    for copy in (load_tokenizer(tmp_path / "new" / "saved"), tokenizer_from_dict(values)):
        assert (copy.kind, copy.vocab_size) == (tokenizer.kind, tokenizer.vocab_size)
        assert copy.special == tokenizer.special
        assert copy.fingerprint == tokenizer.fingerprint
        assert copy.encode(text).tolist() == tokenizer.encode(text).tolist()


def test_a_saved_vocabulary_is_a_plain_file(tmp_path) -> None:
    lines = "".join(f"{piece}\r\n" for piece in VOCAB)
    (tmp_path / "vocab.txt").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    uncased = load_tokenizer(tmp_path / "vocab.txt", lower_case=True)
    cased = load_tokenizer(tmp_path / "vocab.txt", lower_case=False)
    assert uncased.fingerprint == WordPieceTokenizer(VOCAB, lower_case=True).fingerprint
    assert cased.fingerprint == WordPieceTokenizer(VOCAB, lower_case=False).fingerprint
    assert cased.fingerprint != uncased.fingerprint
    cased.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "vocab.txt").read_text(encoding="utf-8").splitlines() == VOCAB


def test_the_fingerprint_is_the_same_in_another_process(tmp_path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB), encoding="utf-8")
    code = (
        "import sys; from bert_jax.text.tokenizer import load_tokenizer;"
        "print(load_tokenizer(sys.argv[1]).fingerprint); assert 'jax' not in sys.modules"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "vocab.txt")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == load_tokenizer(tmp_path / "vocab.txt").fingerprint


@pytest.mark.parametrize("model_type", list(ModelType))
def test_training_is_exact_and_quiet(model_type: ModelType, capfd) -> None:
    first, second = (
        train_sentencepiece(iter(sentences()), vocab_size=100, model_type=model_type)
        for _ in range(2)
    )
    assert first.vocab_size == 100
    assert first.to_dict() == second.to_dict()
    other = train_sentencepiece(sentences()[:100], vocab_size=100, model_type=model_type)
    assert other.fingerprint != first.fingerprint
    assert capfd.readouterr() == ("", "")


def test_long_and_reserved_sentences_are_not_skipped() -> None:
    def train(text: list[str]) -> dict:
        return train_sentencepiece(text, vocab_size=100, model_type=ModelType.BPE).to_dict()

    line_by_line = train(sentences())
    assert train([" ".join(sentences())]) == line_by_line, "one line of the whole text"
    assert train(["zebra"] * 90 + sentences()) != line_by_line
    assert train(["zebra \u2585"] * 90 + sentences()) == train(["zebra"] * 90 + sentences())
    assert train(["zebra" * 2000, *sentences()]) != line_by_line, "no white space to cut at"


@pytest.mark.parametrize("model_type", list(ModelType))
def test_training_names_the_sizes_that_work(model_type: ModelType) -> None:
    def train(vocab_size: int) -> Tokenizer:
        return train_sentencepiece(sentences(), vocab_size=vocab_size, model_type=model_type)

    for vocab_size, bound in ((50_000, "at most "), (10, "at least ")):
        with pytest.raises(UserError, match=bound) as raised:
            train(vocab_size)
        named = int(str(raised.value).split(bound)[1].split()[0].rstrip(","))
        assert str(vocab_size) in str(raised.value) and "\n" not in str(raised.value)
        assert train(named).vocab_size == named
    for vocab_size in (-1, 0, 5):
        with pytest.raises(UserError, match="no room"):
            train(vocab_size)


@pytest.mark.parametrize("text", [[], [""], ["  ", "\t"]])
def test_training_on_nothing(text: list[str]) -> None:
    with pytest.raises(UserError, match="empty"):
        train_sentencepiece(text, vocab_size=100, model_type=ModelType.UNIGRAM)


@pytest.mark.parametrize("error", [UserError("sources: x.txt"), KeyboardInterrupt(), OSError(28)])
def test_training_passes_on_what_its_source_raises(error: BaseException) -> None:
    def broken() -> Iterator[str]:
        yield "the old town"
        raise error

    with pytest.raises(type(error)) as raised:
        train_sentencepiece(broken(), vocab_size=100, model_type=ModelType.UNIGRAM)
    assert raised.value is error


@pytest.mark.parametrize("lower_case", [True, False])
def test_wordpiece_training_is_exact(lower_case: bool, capfd) -> None:
    # The library alone gives other pieces each time: it numbers characters by a hash of the run.
    text = [*sentences(), *(sentence.title() for sentence in sentences()), "caf\u00e9s " * 40]
    first, *others = (
        train_wordpiece(iter(text), vocab_size=120, lower_case=lower_case) for _ in range(4)
    )
    assert first.vocab_size == 120
    assert [first.id_to_piece(id) for id in range(5)] == SPECIAL
    assert all(other.to_dict() == first.to_dict() for other in others)
    pieces = {first.id_to_piece(id) for id in range(120)}
    assert ("T" in pieces) is not lower_case
    assert first.decode(first.encode("the old town").tolist()) == "the old town"
    assert capfd.readouterr() == ("", "")


def test_wordpiece_training_names_the_sizes_that_work() -> None:
    def train(vocab_size: int) -> Tokenizer:
        return train_wordpiece(sentences(), vocab_size=vocab_size, lower_case=True)

    for vocab_size, bound in ((50_000, "at most "), (10, "at least ")):
        with pytest.raises(UserError, match=bound) as raised:
            train(vocab_size)
        named = int(str(raised.value).split(bound)[1].split()[0].rstrip(","))
        assert train(named).vocab_size == named
    with pytest.raises(UserError, match="no room"):
        train(5)
    with pytest.raises(UserError, match="empty"):
        train_wordpiece([" "], vocab_size=100, lower_case=True)


def test_rare_characters_are_unknown_to_a_trained_vocabulary() -> None:
    tokenizer = train_wordpiece(
        ["the old town"] * 2000 + ["\u4e2d"], vocab_size=25, lower_case=True
    )
    assert tokenizer.encode("\u4e2d").tolist() == [tokenizer.special.unk]


def test_half_a_surrogate_pair_is_refused(tokenizer: Tokenizer) -> None:
    for encode in (tokenizer.encode, tokenizer.encode_with_offsets):
        with pytest.raises(UserError, match=r"character 2 .*\\ud800"):
            encode("ab\ud800")
    with pytest.raises(UserError, match="surrogate"):
        tokenizer.encode_batch(["fine", "ab\ud800"])


def test_foreign_models_name_their_special_pieces() -> None:
    t5_like = foreign_model(
        pad_piece="<pad>",
        unk_piece="<unk>",
        bos_id=2,
        eos_id=3,
        control_symbols=["<mask>"],
    )
    assert SentencePieceTokenizer(t5_like).special == SpecialIds(0, 1, cls=2, sep=3, mask=4)
    assert SentencePieceTokenizer(t5_like).decode([2, 3, 4, 1]) == "<s> </s> <mask> <unk>"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"control_symbols": ["[CLS]", "[SEP]"]}, r"no mask piece \(none of \[MASK\], <mask>\)"),
        ({"control_symbols": ["[SEP]", "[MASK]"]}, r"no cls piece"),
        ({"control_symbols": ["[CLS]", "[MASK]"]}, r"no sep piece"),
        ({"pad_id": -1, "unk_id": 0}, r"no pad piece"),
        (
            {"control_symbols": ["[CLS]", "[SEP]"], "user_defined_symbols": ["[MASK]"]},
            r"\[MASK\] as a piece that text can become",
        ),
    ],
)
def test_unsafe_foreign_models_are_refused(tmp_path, options: dict, message: str) -> None:
    (tmp_path / "m.model").write_bytes(foreign_model(**options))
    with pytest.raises(UserError, match=message) as raised:
        load_tokenizer(tmp_path / "m.model")
    assert "m.model" in str(raised.value) and "\n" not in str(raised.value)


def lines_of(vocab: list[str]) -> bytes:
    return "".join(f"{piece}\n" for piece in vocab).encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.txt", lines_of(VOCAB[1:]), r"has no \[PAD\]"),
        ("vocab.txt", lines_of(["a"]), r"has no \[PAD\], \[UNK\], \[CLS\], \[SEP\], \[MASK\]"),
        ("vocab.txt", lines_of([*VOCAB, *(f"▁{p}" for p in VOCAB)]), "are of SentencePiece"),
        ("vocab.txt", b"[PAD]\n\xff\n", "not UTF-8 at byte 6"),
        ("vocab.txt", b"", r"has no \[PAD\]"),
        ("vocab.json", b"{}", "has no merges.txt beside it"),
        ("s.model", b"", "not a SentencePiece model"),
        ("s.model", b"some text\n", "not a SentencePiece model"),
    ],
)
def test_damaged_files_are_refused(tmp_path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        load_tokenizer(tmp_path / name)
    assert name in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["none", "none.model", "none.txt"])
def test_missing_files_are_refused(tmp_path, name: str) -> None:
    with pytest.raises(UserError, match=name):
        load_tokenizer(tmp_path / name)


def test_damaged_directories_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="no saved tokenizer"):
        load_tokenizer(tmp_path)
    WordPieceTokenizer(VOCAB, lower_case=True).save(tmp_path)
    settings = (tmp_path / "tokenizer_settings.json").read_text()
    (tmp_path / "vocab.txt").write_bytes(lines_of([*VOCAB, "more"]))
    with pytest.raises(UserError, match="fingerprint"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(UserError, match="cannot read"):
        load_tokenizer(tmp_path)
    for damaged in (settings[:20], "[]", settings.replace("wordpiece", "bytes"), "\udcff"):
        (tmp_path / "tokenizer_settings.json").write_bytes(damaged.encode(errors="surrogateescape"))
        with pytest.raises(UserError, match="damaged"):
            load_tokenizer(tmp_path)


def test_save_says_where_it_could_not(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot save the tokenizer in .*file"):
        WordPieceTokenizer(VOCAB, lower_case=True).save(tmp_path / "file")
    (tmp_path / "new" / "tokenizer_settings.json").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot save the tokenizer in .*new"):
        WordPieceTokenizer(VOCAB, lower_case=True).save(tmp_path / "new")
    left = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert left == ["tokenizer_settings.json", "vocab.txt"], "no temporary file"


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "bytes"},
        {"model": "!"},
        {"model": None},
        {"kind": "wordpiece"},
        {"kind": "wordpiece", "model": [1], "settings": {"lower_case": True}},
        {"kind": "wordpiece", "model": VOCAB, "settings": {"lower_case": "yes"}},
    ],
)
def test_damaged_dictionaries_are_refused(change: dict) -> None:
    good = SentencePieceTokenizer(foreign_model()).to_dict()
    if change.get("model") == "!":  # a decoder that is not strict would skip it
        change = {"model": good["model"] + "!"}
    with pytest.raises(UserError, match="damaged"):
        tokenizer_from_dict({**good, **change})
    with pytest.raises(UserError, match="damaged"):
        tokenizer_from_dict({})
