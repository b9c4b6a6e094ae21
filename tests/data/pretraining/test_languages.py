"""What `prepare` and pretraining tell about scripts without spaces, and about stripped accents."""

import pathlib
import random
from typing import Any

import pytest

from bert_jax.config import MaskingConfig, MaskStrategy, PretrainDataConfig
from bert_jax.data.corpus.documents import Layout
from bert_jax.data.corpus.pieces import PieceWriter
from bert_jax.data.pretraining.corpora import open_corpora
from bert_jax.data.pretraining.prepare import CorpusOptions, make_corpus
from bert_jax.errors import UserError
from bert_jax.runs.steps import describe_words

# The first of the letters that a language is written with here.
SPACELESS = {
    "Thai": "\u0e01",
    "Lao": "\u0e94",
    "Khmer": "\u1780",
    "Burmese": "\u1000",
    "kana": "\u304b",
    "Javanese": "\ua990",
}


def made_up(first: str, space: str, lines: int = 150) -> str:
    """Returns lines of made-up words of letters from the first one on."""
    rng = random.Random(first)
    letters = [chr(ord(first) + number) for number in range(12)]
    words = ["".join(rng.choices(letters, k=rng.randint(2, 4))) for _ in range(60)]
    sizes = [rng.choice((8, 50, 50, 50)) for _ in range(lines)]
    return "\n\n".join(space.join(rng.choices(words, k=size)) for size in sizes) + "\n"


def prepare(directory: pathlib.Path, text: str, tokenizer: str, **options: Any) -> pathlib.Path:
    (directory / "text.txt").write_text(text, encoding="utf-8")
    flags = {"lower_case": None, "strip_accents": None} | options
    source, output = f"text:{directory / 'text.txt'}", directory / "corpus"
    chosen = CorpusOptions(
        source, Layout.LINES, "en", tokenizer, heldout_rate=0.0, output=output, **flags
    )
    make_corpus(chosen, lambda job, numbers: (d for n in numbers for d in PieceWriter(job)(n)))
    return output


@pytest.mark.parametrize("language", SPACELESS)
def test_text_without_spaces(
    language: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = made_up(SPACELESS[language], "")
    (tmp_path / "words").mkdir()
    prepare(tmp_path / "words", text, "train:wordpiece:60")
    said = capsys.readouterr()
    shares = [line for line in said.out.splitlines() if "are [UNK], and" in line]
    assert len(shares) == 1 and f"warning: {shares[0]}: text without spaces" in said.err
    assert 60 < float(shares[0].split("and ")[1].split("%")[0]) < 90
    assert "--tokenizer=train:sentencepiece:SIZE" in said.err

    corpus = prepare(tmp_path, text, "train:sentencepiece:60")
    said = capsys.readouterr()
    assert "0.00% of the training tokens are [UNK]" in said.out and not said.err
    corpora = open_corpora(PretrainDataConfig(corpus=str(corpus)), evaluated=False)
    for strategy in (MaskStrategy.WHOLE_WORDS, MaskStrategy.SPANS):
        with pytest.raises(
            UserError, match="tokens on average .* --config.masking.strategy=tokens"
        ):
            describe_words(MaskingConfig(strategy=strategy), corpora)
    assert describe_words(MaskingConfig(), corpora) == []


@pytest.mark.parametrize("tokenizer", ["train:sentencepiece:40", "train:wordpiece:60"])
@pytest.mark.parametrize("first", ["c", "\u043a", "\u0915", "\u0e01"])
def test_text_with_spaces(
    first: str,
    tokenizer: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    corpus = prepare(tmp_path, made_up(first, " "), tokenizer)
    said = capsys.readouterr()
    assert not said.err and "0.0% of the sentences are nothing else" in said.out
    corpora = open_corpora(PretrainDataConfig(corpus=str(corpus)), evaluated=False)
    (line,) = describe_words(MaskingConfig(strategy=MaskStrategy.WHOLE_WORDS), corpora)
    assert f"a word of {corpus} has " in line
    assert 1 <= float(line.split(" has ")[1].split()[0]) < 4


def test_a_vocabulary_of_another_language(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    other = prepare(tmp_path / "a", made_up("c", " "), "train:sentencepiece:40")
    capsys.readouterr()
    prepare(tmp_path, made_up("\u043a", " "), str(other / "tokenizer"))
    assert "train a tokenizer on text of this language" in capsys.readouterr().err


ACCENTS = "मेल मूल मैल दिन दीन दान, か が は ば ぱ, année annee côté coté. "


@pytest.mark.parametrize(
    ("text", "options", "warned"),
    [
        (ACCENTS, {}, True),
        (ACCENTS, {"lower_case": True}, True),
        (ACCENTS, {"strip_accents": False}, False),
        (ACCENTS, {"strip_accents": True}, False),
        (ACCENTS, {"lower_case": False}, False),
        ("The old town, the new TOWN; été. ", {}, False),
    ],
)
def test_stripped_accents_are_told(
    text: str,
    options: dict,
    warned: bool,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    size = 44 if text == ACCENTS else 29
    prepare(tmp_path, f"{text}\n" * 9, f"train:wordpiece:{size}", **options)
    said = capsys.readouterr().err
    assert ("--nostrip_accents keeps them apart" in said) == warned
    assert bool(said) == warned


def test_flags_of_a_vocabulary_are_refused_for_another_tokenizer(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="--lower_case=True is for a WordPiece vocabulary"):
        prepare(tmp_path, "a b\n", "train:sentencepiece:40", lower_case=True)
    with pytest.raises(UserError, match="--strip_accents=False is for a WordPiece vocabulary"):
        prepare(tmp_path, "a b\n", str(tmp_path), strip_accents=False)


@pytest.mark.parametrize(
    ("pieces", "options", "note"),
    [
        (["Red", "Blue", "x"], {}, "the vocabulary is cased, judging by its pieces"),
        (["red", "blue", "[E1]"], {}, "the vocabulary is uncased, judging by its pieces"),
        (["Red", "Blue", "x"], {"lower_case": False}, ""),
    ],
)
def test_the_casing_of_a_vocabulary_is_told(
    pieces: list[str],
    options: dict,
    note: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]
    (tmp_path / "vocab.txt").write_text("\n".join(vocab))
    prepare(tmp_path, "Red Blue\n" * 9, str(tmp_path / "vocab.txt"), **options)
    said = capsys.readouterr()
    assert ("judging" in said.out) == bool(note) and note in said.out
    assert "0.00% of the training tokens are [UNK]" in said.out
