"""Byte-level BPE and Unigram tokenizers in directories of transformers, in all their forms."""

import json
import pathlib
import random
from collections.abc import Callable
from typing import Any

import pytest

from bert_jax.errors import UserError
from bert_jax.interop.tokenizers.huggingface_tokenizer import read_tokenizer, write_tokenizer
from bert_jax.text.tokenizer import LibraryTokenizer
from bert_jax.text.training import ModelType, train_byte_level, train_sentencepiece
from tests.fixtures.families import LINES, library_tokenizer
from tests.odd_inputs.mutations import mutated_json

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


def write_merges(directory: pathlib.Path) -> int:
    """Writes vocab.json and merges.txt; returns the number of pieces."""
    values = values_of("roberta")
    vocab = values["model"]["vocab"] | {"<mask>": len(values["model"]["vocab"])}
    (directory / "vocab.json").write_text(json.dumps(vocab))
    merges = "".join(f"{' '.join(pair)}\n" for pair in values["model"]["merges"])
    (directory / "merges.txt").write_text(f"#version: 0.2\n{merges}")
    return len(vocab)


def write_fairseq(directory: pathlib.Path) -> int:
    """Writes sentencepiece.bpe.model; returns the number of pieces."""
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_prefix=str(directory / "sentencepiece.bpe"),
        vocab_size=60,
        minloglevel=2,
    )
    return 62


def write_fast(directory: pathlib.Path) -> int:
    """Writes tokenizer.json; returns the number of pieces."""
    write(directory, values_of("roberta"))
    return library_tokenizer("roberta").get_vocab_size()


def assert_auto(directory: pathlib.Path, texts: list[str]) -> LibraryTokenizer:
    """Asserts the ids of AutoTokenizer, with special pieces and without, and returns ours."""
    ours, auto = read_tokenizer(directory), transformers.AutoTokenizer.from_pretrained(directory)
    assert isinstance(ours, LibraryTokenizer)
    for text in texts:
        wanted = auto(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text).tolist() == wanted, text
        framed = [ours.special.cls, *wanted, ours.special.sep]
        assert auto(text)["input_ids"] == framed, text
    return ours


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
    write_merges(tmp_path)
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

    write_fairseq(tmp_path)
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


def described(content: str, **flags: bool) -> dict[str, Any]:
    plain = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word", "special"), False)
    return {"content": content, **plain, **flags}


NAMED = {"additional_special_tokens": ["<ent>"]}
# (fields of tokenizer_config.json, added_tokens.json, special_tokens_map.json), for V pieces.
BESIDE: dict[str, Callable[[int], tuple[dict, dict, dict]]] = {
    "old files": lambda v: ({}, {"<ent>": v, "New York": v + 1}, NAMED),
    "a decoder": lambda v: (
        {
            "added_tokens_decoder": {
                str(v - 1): described("<mask>", lstrip=True, special=True),
                str(v): described("<ent>", lstrip=True, special=True),
                str(v + 1): described("New York", normalized=True, single_word=True),
            }
        },
        {"<gone>": v},
        {},
    ),
    "lists and names": lambda v: (NAMED | {"note_token": "New York"}, {}, {}),
    "a list of version 5": lambda v: ({"extra_special_tokens": ["<ent>", "New York"]}, {}, {}),
    "an old map": lambda v: ({}, {}, {"bos_token": "<ent>", "eos_token": described("New York")}),
}


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize(
    ("make", "model", "kind"),
    [
        (write_merges, "roberta", "RobertaTokenizer"),
        (write_fairseq, "xlm-roberta", "XLMRobertaTokenizer"),
        (write_fast, "roberta", "RobertaTokenizer"),
        (write_fast, "roberta", "PreTrainedTokenizerFast"),
        (write_fast, "roberta", None),
    ],
)
def test_tokens_of_the_files_beside_are_added(
    make: Callable[[pathlib.Path], int],
    model: str,
    kind: str | None,
    beside: str,
    tmp_path: pathlib.Path,
) -> None:
    pieces = make(tmp_path)
    settings, added, special_map = BESIDE[beside](pieces)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model}))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(settings | ({"tokenizer_class": kind} if kind else {}))
    )
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special_map))
    if beside == "an old map" and model == "xlm-roberta":  # which frames texts with these two
        with pytest.raises(UserError, match="tokens_map.json: bos_token=<ent> is not implemented"):
            read_tokenizer(tmp_path)
        return
    texts = ["red  <ent> wind", "a<ent>b", "in New York, New Yorkers", "<gone>"]
    ours = assert_auto(tmp_path, [*TEXTS[:3], *texts])
    assert ours.vocab_size == pieces + 2
    assert {pieces, pieces + 1} <= {*ours.encode(texts[0]), *ours.encode(texts[2])}
    (again := tmp_path / "again").mkdir()
    write_tokenizer(ours, again, 64)
    assert assert_auto(again, texts).fingerprint == ours.fingerprint


def test_a_decoder_that_lacks_a_token_of_the_file(tmp_path: pathlib.Path) -> None:
    """A class that builds its tokenizer forgets the token; one that takes the file does not."""
    values = values_of("roberta")
    first = library_tokenizer("roberta").get_vocab_size()
    values["added_tokens"].append({"id": first, **described("<old>")})
    mask = {str(first - 1): described("<mask>", lstrip=True, special=True)}
    more = {str(first + 1): described("<ent>", lstrip=True)}
    decoder = {"added_tokens_decoder": mask | more}
    assert_auto(write(tmp_path / "a", values, **decoder), ["red  <ent><old>"])
    directory = write(tmp_path / "b", values, tokenizer_class="RobertaTokenizer", **decoder)
    with pytest.raises(UserError, match="added_tokens_decoder lacks '<old>', an added token of to"):
        read_tokenizer(directory)
    wrong = {"added_tokens_decoder": {str(first + 7): described("<old>")}}
    with pytest.raises(UserError, match="'<old>' has the id .*, and the vocabulary gives it"):
        read_tokenizer(write(tmp_path / "c", values, **wrong))


@pytest.mark.parametrize("kind", ["RobertaTokenizer", "GPT2Tokenizer", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize("of_file", [True, False])
@pytest.mark.parametrize("of_config", [True, False, None])
def test_a_space_before_texts(
    kind: str, of_file: bool, of_config: bool | None, tmp_path: pathlib.Path
) -> None:
    values = values_of("roberta")
    values["pre_tokenizer"]["add_prefix_space"] = of_file
    settings = {} if of_config is None else {"add_prefix_space": of_config}
    directory = write(tmp_path, values, tokenizer_class=kind, **settings)
    ours = assert_auto(directory, TEXTS)
    followed = kind != "PreTrainedTokenizerFast" and bool(of_config) != of_file
    assert ["tokenizer_config.json is followed" in note for note in ours.notes] == [True] * followed
    values["normalizer"] = {"type": "NFC"}  # the class would build other steps
    directory = write(tmp_path, values, tokenizer_class=kind, **settings)
    if followed and of_config is not None:
        with pytest.raises(UserError, match=f"add_prefix_space={str(of_config).lower()} is not"):
            read_tokenizer(directory)
    else:
        assert read_tokenizer(directory).encode("sun").tolist() == theirs(directory, "sun")


def test_marks_before_words_are_as_the_file_has_them(tmp_path: pathlib.Path) -> None:
    values = values_of("xlm-roberta")
    steps = [{"type": "WhitespaceSplit"}, values["pre_tokenizer"]]
    values["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    settings = {"tokenizer_class": "XLMRobertaTokenizer"}
    assert not assert_auto(write(tmp_path, values, **settings), TEXTS).notes
    with pytest.raises(UserError, match="add_prefix_space=false is not implemented for this"):
        read_tokenizer(write(tmp_path, values, add_prefix_space=False, **settings))


def test_a_frame_of_the_file_that_the_class_has_not(tmp_path: pathlib.Path) -> None:
    values = values_of("roberta")
    values["post_processor"] = {"type": "BertProcessing", "cls": ["<s>", 0], "sep": ["</s>", 2]}
    ours = read_tokenizer(write(tmp_path, values, tokenizer_class="RobertaTokenizer"))
    (note,) = ours.notes
    assert note.endswith("build instead: <s> A </s> </s> B </s>")
    assert ours.special.separators == 1
    assert not read_tokenizer(write(tmp_path, values)).notes


def test_names_of_special_pieces_beside_merges(tmp_path: pathlib.Path) -> None:
    write_merges(tmp_path)
    content = (tmp_path / "vocab.json").read_text()
    for old, new in (("<s>", "<first>"), ("</s>", "<last>"), ("<mask>", "<gap>")):
        content = content.replace(json.dumps(old), json.dumps(new))
    (tmp_path / "vocab.json").write_text(content)
    settings = {
        "cls_token": "<first>",
        "sep_token": described("<last>") | {"__type": "AddedToken"},
        "mask_token": "<gap>",
    }
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(settings | {"tokenizer_class": "RobertaTokenizer", "bos_token": "<first>"})
    )
    assert_auto(tmp_path, TEXTS)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    with pytest.raises(UserError, match="GPT2Tokenizer without tokenizer.json is not impl"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("seed", range(6))
def test_mutated_files_are_read_or_refused(seed: int, tmp_path: pathlib.Path) -> None:
    rng = random.Random(seed)
    kind = ("roberta", "xlm-roberta", "modernbert")[seed % 3]
    values = values_of(kind)
    first = library_tokenizer(kind).get_vocab_size()
    values["added_tokens"].append({"id": first, **described("<e1>")})
    values["truncation"] = {"direction": "Right", "max_length": 9, "strategy": "LongestFirst"}
    files: dict[str, Any] = {
        "tokenizer": values,
        "tokenizer_config": {
            "tokenizer_class": "RobertaTokenizer" if kind == "roberta" else None,
            "additional_special_tokens": ["<e3>"],
        },
        "special_tokens_map": {
            "mask_token": described("[MASK]" if kind == "modernbert" else "<mask>")
        },
        "added_tokens": {"<e1>": first, "<e2>": first + 1},
    }
    parts = [name for name in values if name != "model"]  # the model is most of the file
    read = 0
    for number in range(60):
        found = {name: each for name, each in files.items() if rng.random() < 0.7}
        found["tokenizer"] = values
        bad = rng.choice(sorted([*files, *parts]))
        if bad in parts:
            found["tokenizer"] = values | {bad: mutated_json(rng, values[bad])}
        else:
            found[bad] = mutated_json(rng, files[bad])
        (directory := tmp_path / f"{number}").mkdir()
        for name, content in found.items():
            (directory / f"{name}.json").write_text(json.dumps(content))
        try:
            read += bool(read_tokenizer(directory))
        except UserError as error:
            assert str(directory) in str(error) and "\n" not in str(error)
    assert 2 < read < 55


LEFT = {"direction": "Left", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
SHIFTED = {"type": "RobertaProcessing", "cls": ["<s>", 3], "sep": ["</s>", 4]}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"truncation": LEFT}, "truncation.direction=Left is not implemented"),
        ({"post_processor": SHIFTED}, "post_processor gives '<s>' the id 3, and the vocabulary 0"),
        ({"added_tokens": [{"content": "<s>"}]}, "has the added token .* give it content and id"),
        ({"added_tokens": ["<s>"]}, "has the added token '<s>': give it content and id"),
    ],
)
def test_parts_of_tokenizer_json_are_refused(
    part: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UserError, match=message):
        read_tokenizer(write(tmp_path, values_of("roberta") | part))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"truncation_side": "left"}, "truncation_side=left is not implemented: only right is"),
        ({"split_special_tokens": True}, "split_special_tokens=true is not implemented"),
        ({"sp_model_kwargs": {"enable_sampling": True}}, "sp_model_kwargs=.* is not known"),
        (
            {"tokenizer_class": "RobertaTokenizer", "cls_token": "<mask>"},
            "cls_token=<mask> is not the <s> that tokenizer.json puts around texts",
        ),
        ({"add_prefix_space": "yes"}, "add_prefix_space=yes is neither true nor false"),
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
