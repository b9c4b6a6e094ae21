"""Exported tokenizers give the ids of our own; so does transformers' fast one, with its offsets."""

import pathlib
import random
from typing import Any

import pytest
import sentencepiece

from bert_jax.errors import UserError
from bert_jax.interop.tokenizers.fast_tokenizer import are_equally_likely, make_fast_tokenizer
from bert_jax.interop.tokenizers.huggingface_tokenizer import (
    read_max_length,
    read_tokenizer,
    write_tokenizer,
)
from bert_jax.text.tokenizer import SentencePieceTokenizer, Tokenizer, WordPieceTokenizer
from bert_jax.text.training import ModelType, train_sentencepiece
from tests.fixtures.interop import VOCAB, edit_json, write_vocab

SYLLABLES = ["ka", "lo", "min", "tre", "su", "zür", "é", "ﬁ", "½", "-", "27", "。", "川"]
SPACES = [" ", "  ", "\t", "\u00a0", "\u3000", "\u200b"]


def make_lines(count: int, seed: int) -> list[str]:
    """Makes lines of made-up words, with characters that normalisation changes or drops."""
    rng = random.Random(seed)

    def word() -> str:
        return "".join(rng.choices(SYLLABLES, k=rng.randint(1, 4)))

    lines = []
    for _ in range(count):
        words = [word() for _ in range(rng.randint(1, 9))]
        line = "".join(w + rng.choices(SPACES, [20, 2, 1, 1, 1, 1])[0] for w in words)
        lines.append(line if rng.random() < 0.5 else line.strip().capitalize())
    return lines


@pytest.mark.parametrize("kind", ["unigram", "bpe", "bytes"])
def test_sentencepiece_gives_the_same_ids(kind: str) -> None:
    if kind == "bytes":
        model = _train_with_bytes(make_lines(300, seed=0))
        tokenizer = SentencePieceTokenizer(model)
    else:
        tokenizer = train_sentencepiece(
            make_lines(300, seed=0), vocab_size=90, model_type=ModelType(kind)
        )
    fast = make_fast_tokenizer(tokenizer)
    assert fast.get_vocab_size() == tokenizer.vocab_size
    lines = [*make_lines(500, seed=1), "", "  ", "▁", "a ▁ b▁", "unknown Ω letters ΩΩ"]
    ties = 0
    for line in lines:
        ours = tokenizer.encode(line).tolist()
        theirs = fast.encode(line, add_special_tokens=False).ids
        if ours != theirs:
            assert kind != "bpe" and are_equally_likely(tokenizer, ours, theirs), line
            ties += 1
    assert ties < 5


def _train_with_bytes(lines: list[str]) -> bytes:
    import io

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=340,
        byte_fallback=True,
        pad_id=0,
        pad_piece="[PAD]",
        unk_id=1,
        unk_piece="[UNK]",
        bos_id=-1,
        eos_id=-1,
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return model.getvalue()


def test_only_what_is_equally_likely_may_differ() -> None:
    lines = ["a aa aaa aaaa baa aab b ab"] * 20
    tokenizer = train_sentencepiece(lines, vocab_size=13, model_type=ModelType.UNIGRAM)
    ids = {tokenizer.id_to_piece(id): id for id in range(tokenizer.vocab_size)}
    one, two, other, unknown = ids["a"], ids["aa"], ids["b"], ids["[UNK]"]
    assert are_equally_likely(tokenizer, [one, two, one], [two, one, one])
    assert not are_equally_likely(tokenizer, [one, one], [two])  # of another score
    assert not are_equally_likely(tokenizer, [one, other], [other, one])  # of another text
    assert not are_equally_likely(tokenizer, [unknown], [ids["[MASK]"]])  # which have no score
    assert not are_equally_likely(wordpiece(), [7, 8], [8, 7])


def wordpiece(**settings: Any) -> WordPieceTokenizer:
    return WordPieceTokenizer(VOCAB, **{"lower_case": True, **settings})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lower_case": False},
        {"strip_accents": False},
        {"lower_case": False, "strip_accents": True},
        {"split_han": False},
    ],
)
def test_wordpiece_there_and_back(settings: dict, tmp_path: pathlib.Path) -> None:
    tokenizer = wordpiece(**settings)
    write_tokenizer(tokenizer, tmp_path, 50)
    again = read_tokenizer(tmp_path)
    assert again.to_dict() == tokenizer.to_dict() and read_max_length(tmp_path) == 50
    (tmp_path / "tokenizer_config.json").unlink()
    assert read_tokenizer(tmp_path).to_dict() == tokenizer.to_dict()  # tokenizer.json says it too


TEXTS = [
    "The red light, the stone.",
    "Zürich É stoné stone\u0301 RIVERING",
    "川の night彼 blue\u200bsun\x07",
    "[CLS]red[sep] ##ing",
    "a" * 101 + " " + "b" * 100,
    "  ",
]


@pytest.mark.hf
@pytest.mark.parametrize("lower_case", [True, False])
def test_wordpiece_is_that_of_transformers(lower_case: bool, tmp_path: pathlib.Path) -> None:
    transformers = pytest.importorskip("transformers")
    write_vocab(tmp_path, {"do_lower_case": lower_case, "model_type": "bert"})
    theirs = transformers.BertTokenizer.from_pretrained(tmp_path)
    ours = read_tokenizer(tmp_path)
    for text in TEXTS:
        if "[CLS]" in text:  # there, what looks like a special token is one; here, it is text
            assert theirs(text, add_special_tokens=False)["input_ids"][0] == ours.special.cls
            assert ours.special.cls not in ours.encode(text)
            continue
        other = theirs(text, add_special_tokens=False, return_offsets_mapping=True)
        encoded = ours.encode_with_offsets(text)
        assert encoded.ids.tolist() == other["input_ids"], text
        spans = list(zip(encoded.begins.tolist(), encoded.ends.tolist(), strict=True))
        for span, (begin, end) in zip(spans, other["offset_mapping"], strict=True):
            # An accent of its own behind a token that lost it is the token's: ours alone says so.
            accents = text[end : span[1]]
            assert span == (begin, end) or (lower_case and accents == "\u0301"), text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"type": "WordLevel", "vocab": {}}}, "model.type=WordLevel is not BERT's"),
        (
            {"model": {"type": "BPE", "vocab": {}}},
            "tokenizer_class=BertTokenizer is not implemented for this kind",
        ),
        ({"normalizer": {"type": "NFC"}}, "is not BERT's WordPiece"),
        ({"added_tokens": [{"content": "<x>", "id": 7}]}, "the added token '<x>'"),
        ({"model": {"type": "WordPiece", "vocab": {"a": 9}}}, "are not 0 to 0"),
    ],
)
def test_another_tokenizer_is_refused(changes: dict, message: str, tmp_path: pathlib.Path) -> None:
    write_tokenizer(wordpiece(), tmp_path, 50)
    edit_json(tmp_path / "tokenizer.json", **changes)
    with pytest.raises(UserError, match=message):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_token": "<mask>"}, "mask_token=<mask> is not implemented"),
        ({"do_lower_case": "yes"}, "do_lower_case=yes is neither true nor false"),
    ],
)
def test_other_settings_are_refused(settings: dict, message: str, tmp_path: pathlib.Path) -> None:
    write_vocab(tmp_path, settings)
    with pytest.raises(UserError, match=message):
        read_tokenizer(tmp_path)


def test_a_directory_without_a_tokenizer(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="name it with --tokenizer"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        read_tokenizer(tmp_path)


def test_old_settings_keep_their_fingerprint() -> None:
    """The fingerprint of a tokenizer is in every corpus and checkpoint."""
    assert wordpiece().to_dict()["settings"] == {"lower_case": True}
    assert wordpiece().fingerprint != wordpiece(split_han=False).fingerprint


def test_what_tokenizer_json_cannot_say_is_not_exported() -> None:
    model = _train_with_bytes(make_lines(300, seed=0))
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    proto.ParseFromString(model)
    proto.pieces[-1].type = 4
    tokenizer: Tokenizer = SentencePieceTokenizer(proto.SerializeToString())
    with pytest.raises(UserError, match="user-defined or unused pieces"):
        make_fast_tokenizer(tokenizer)
