"""Byte-level BPE and Unigram tokenizers in directories of transformers, in all their forms."""

import json
import pathlib
from typing import Any

import pytest

from bert_jax.errors import UserError
from bert_jax.interop.tokenizers.huggingface_tokenizer import read_tokenizer, write_tokenizer
from bert_jax.text.tokenizer import LibraryTokenizer
from bert_jax.text.training import ModelType, train_byte_level, train_sentencepiece
from tests.fixtures.families import LINES, library_tokenizer

pytestmark = pytest.mark.hf
transformers = pytest.importorskip("transformers")

TEXTS = [
    *LINES[:3],
    "naïve  Kraków 1984 ﬁne ½",
    "two\nlines\tand  spaces ",
    "東京 is far.",
    "x" * 150,
]
MORE = {"<e1>": {"lstrip": False}, "Kraków": {"lstrip": True}}


def write(directory: pathlib.Path, values: dict[str, Any], **settings: Any) -> pathlib.Path:
    directory.mkdir(exist_ok=True)
    (directory / "tokenizer.json").write_text(json.dumps(values))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def values_of(kind: str) -> dict[str, Any]:
    return json.loads(library_tokenizer(kind).to_str())


def theirs(directory: pathlib.Path, text: str, pair: str = "") -> list[int]:
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))
    if pair:
        return fast(text, pair)["input_ids"]
    return fast(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "modernbert"])
def test_what_is_written_is_read_again(kind: str, tmp_path: pathlib.Path) -> None:
    first = write(tmp_path / "first", values_of(kind))
    ours = read_tokenizer(first)
    assert isinstance(ours, LibraryTokenizer) and not ours.notes
    (second := tmp_path / "second").mkdir()
    write_tokenizer(ours, second, 64, segments=False)
    again = read_tokenizer(second)
    assert again.fingerprint == ours.fingerprint and again.special == ours.special
    auto = transformers.AutoTokenizer.from_pretrained(second)
    assert "token_type_ids" not in auto("a")
    for text in TEXTS:
        assert auto(text, add_special_tokens=False)["input_ids"] == ours.encode(text).tolist()
        assert auto(text, "wind")["input_ids"] == theirs(first, text, "wind")
    assert auto.mask_token_id == ours.special.mask and auto.pad_token_id == ours.special.pad


def test_the_file_is_followed_where_a_class_would_build_another(tmp_path: pathlib.Path) -> None:
    values = values_of("roberta")
    values["normalizer"] = {"type": "NFC"}
    values["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, values["pre_tokenizer"]],
    }
    directory = write(tmp_path, values, tokenizer_class="RobertaTokenizer")
    ours = read_tokenizer(directory)
    (note,) = ours.notes
    assert note.startswith("tokenizer.json is followed, which has other steps than the class Rob")
    for text in TEXTS:
        assert ours.encode(text).tolist() == theirs(directory, text)
    plain = write(tmp_path / "plain", values_of("roberta"), tokenizer_class="RobertaTokenizerFast")
    assert not read_tokenizer(plain).notes


def test_vocab_and_merges(tmp_path: pathlib.Path) -> None:
    values = values_of("roberta")
    vocab = values["model"]["vocab"] | {"<mask>": len(values["model"]["vocab"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    merges = "".join(f"{' '.join(pair)}\n" for pair in values["model"]["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}")
    for prefix_space in (False, True):
        settings = {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": prefix_space}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        ours = read_tokenizer(tmp_path)
        peer = transformers.RobertaTokenizer.from_pretrained(tmp_path)
        for text in TEXTS:
            wanted = peer(text, add_special_tokens=False)["input_ids"]
            assert ours.encode(text).tolist() == wanted, (prefix_space, text)
        assert ours.special.mask == peer.mask_token_id and ours.special.pad == peer.pad_token_id


def test_ids_of_fairseq(tmp_path: pathlib.Path) -> None:
    """A SentencePiece model as XLM-R has it: its control pieces go, four come first, one last."""
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_prefix=str(tmp_path / "sentencepiece.bpe"),
        vocab_size=60,
        minloglevel=2,
    )
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "XLMRobertaTokenizer"}')
    ours = read_tokenizer(tmp_path)
    processor = sentencepiece.SentencePieceProcessor(str(tmp_path / "sentencepiece.bpe.model"))
    assert ours.special.roles == {"pad": 1, "unk": 3, "cls": 0, "sep": 2, "mask": 61}
    assert (ours.special.separators, ours.vocab_size) == (2, 62)
    for text in LINES[:3]:
        wanted = [id + 1 if id else 3 for id in processor.encode(text)]
        assert ours.encode(text).tolist() == wanted
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CamembertTokenizer"}')
    with pytest.raises(UserError, match="CamembertTokenizer without tokenizer.json is not impl"):
        read_tokenizer(tmp_path)
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"no model")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match="is not a SentencePiece model"):
        read_tokenizer(tmp_path)


def test_added_tokens_of_the_config_are_found(tmp_path: pathlib.Path) -> None:
    values = values_of("modernbert")
    first = library_tokenizer("modernbert").get_vocab_size()
    decoder = {
        str(first + number): {"content": content, **flags}
        for number, (content, flags) in enumerate(MORE.items())
    }
    directory = write(tmp_path, values, added_tokens_decoder=decoder)
    ours = read_tokenizer(directory)
    assert ours.vocab_size == first + 2
    ids = ours.encode("in Kraków, <e1>x").tolist()
    assert first in ids and first + 1 in ids


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokenizer_class": "AlbertTokenizer"}, "tokenizer_class=AlbertTokenizer is not impl"),
        ({"tokenizer_class": "DebertaV2TokenizerFast"}, "tokenizer_class=DebertaV2TokenizerFast"),
        ({"auto_map": {"AutoTokenizer": ["x.Y", None]}}, "is a program of its own, which is never"),
        ({"mask_token": "<gap>"}, "has no mask piece .<gap>."),
    ],
)
def test_what_is_refused(settings: dict[str, Any], message: str, tmp_path: pathlib.Path) -> None:
    directory = write(tmp_path, values_of("roberta"), **settings)
    with pytest.raises(UserError, match=message):
        read_tokenizer(directory)


def test_special_pieces_may_have_any_name(tmp_path: pathlib.Path) -> None:
    """As EuroBERT's, whose padding piece is its end piece, and which has no unknown one."""
    names = {"[CLS]": "<|begin|>", "[SEP]": "<|end|>", "[MASK]": "<|gap|>", "[PAD]": "<|x|>"}
    text = json.dumps(values_of("modernbert"))
    for old, new in names.items():
        text = text.replace(old, new)
    settings = {"bos_token": "<|begin|>", "pad_token": "<|end|>", "mask_token": "<|gap|>"}
    ours = read_tokenizer(write(tmp_path, json.loads(text.replace("[UNK]", "<|y|>")), **settings))
    special = ours.special
    assert special.pad == special.sep == special.unk == 2 and special.mask == 4
    assert not set(ours.encode("<|end|> <|gap|>").tolist()) & set(special.ids)


def test_our_own_tokenizers_open_in_transformers(tmp_path: pathlib.Path) -> None:
    for number, ours in enumerate(
        (
            train_byte_level(LINES, vocab_size=300),
            train_sentencepiece(LINES, vocab_size=60, model_type=ModelType.UNIGRAM),
        )
    ):
        (directory := tmp_path / str(number)).mkdir()
        write_tokenizer(ours, directory, 64)
        auto = transformers.AutoTokenizer.from_pretrained(directory)
        for text in LINES[:3]:
            assert auto(text, add_special_tokens=False)["input_ids"] == ours.encode(text).tolist()
        assert auto("a", "b")["token_type_ids"][-2:] == [1, 1]
