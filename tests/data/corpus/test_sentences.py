"""How the lines of a document become sentences."""

import pickle

import pytest

from bert_jax.data.corpus.documents import Document, Layout
from bert_jax.data.corpus.sentences import SentenceSplitter
from bert_jax.errors import UserError

_DOCUMENT = Document("a", ["Dr. Ada came. She saw 3.5", "cats! They ran."])


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (Layout.LINES, ["Dr. Ada came. She saw 3.5", "cats! They ran."]),
        (Layout.PARAGRAPHS, ["Dr. Ada came.", "She saw 3.5", "cats!", "They ran."]),
        (Layout.DOCUMENTS, ["Dr. Ada came.", "She saw 3.5 cats!", "They ran."]),
    ],
)
def test_the_layout_says_what_is_split(layout: Layout, expected: list[str]) -> None:
    splitter = pickle.loads(pickle.dumps(SentenceSplitter(layout, "en")))
    assert splitter.split(_DOCUMENT) == expected
    assert splitter.split(Document("a", [])) == []


def test_the_language_has_its_rules() -> None:
    document = Document("a", ["Am 3. Mai kam Prof. Huber. Das war gut."])
    german = SentenceSplitter(Layout.PARAGRAPHS, "de").split(document)
    assert german == ["Am 3. Mai kam Prof. Huber.", "Das war gut."]
    assert len(SentenceSplitter(Layout.PARAGRAPHS, "en").split(document)) == 3


@pytest.mark.parametrize("language", ["English", "", "e", "en_GB"])
def test_what_is_no_language_is_refused(language: str) -> None:
    with pytest.raises(UserError, match=f"--language={language} is not a language code"):
        SentenceSplitter(Layout.LINES, language)
