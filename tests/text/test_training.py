"""Training of a vocabulary on languages whose words stripped accents make equal."""

import pytest

from bert_jax.text.tokenizer import WordPieceTokenizer
from bert_jax.text.training import SPECIAL_PIECES, train_wordpiece, words_merged_by_stripping

HINDI = "दिन दीन दान दून कि की का के को मिल मेल मूल मैल"
JAPANESE = "か が は ば ぱ かき かぎ がき"
# (text, distinct words, words that are lost)
MERGED = [
    (HINDI, 13, 2),
    (JAPANESE, 8, 5),
    ("ma má mà mã mạ mả", 6, 5),
    ("année annee côte coté côté", 5, 3),
    ("schon schön Schon", 2, 1),
    ("кто й и", 3, 1),
    ("the old town The Town", 3, 0),
    ("東京 한글 ไทย", 4, 0),
    ("", 0, 0),
]


@pytest.mark.parametrize(("text", "distinct", "merged"), MERGED)
def test_words_that_become_equal(text: str, distinct: int, merged: int) -> None:
    found = words_merged_by_stripping([text, text])
    assert (found.distinct, found.merged) == (distinct, merged)
    one, other = found.example
    assert (one != other) == bool(merged)
    for lower, keep in ((True, True), (True, False)):
        letters = sorted({c for c in text.lower() if not c.isspace()})
        vocab = [*SPECIAL_PIECES, *letters, *(f"##{letter}" for letter in letters)]
        tokenizer = WordPieceTokenizer(vocab, lower_case=lower, strip_accents=not keep)
        equal = tokenizer.encode(one).tolist() == tokenizer.encode(other).tolist()
        assert equal == (not keep or one == other)


def test_a_vocabulary_that_keeps_accents() -> None:
    texts = [f"{HINDI} Été été ete"] * 9
    kept = train_wordpiece(texts, vocab_size=45, lower_case=True, strip_accents=False)
    stripped = train_wordpiece(texts, vocab_size=25, lower_case=True)
    ids = [kept.encode(word).tolist() for word in ("मेल", "मूल", "été", "Été", "ete")]
    assert ids[0] != ids[1] and ids[2] == ids[3] != ids[4] and kept.special.unk not in sum(ids, [])
    assert kept.to_dict()["settings"] == {"lower_case": True, "strip_accents": False}
    assert stripped.to_dict()["settings"] == {"lower_case": True}
    assert stripped.encode("मेल").tolist() == stripped.encode("मूल").tolist()
