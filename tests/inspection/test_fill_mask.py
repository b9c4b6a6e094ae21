"""The tokens of a text with masks are those of the text, all but the masked words."""

import json

import numpy as np
import pytest

from bert_jax.inspection.fill_mask import _with_masks
from bert_jax.text.library_files import from_library_values
from bert_jax.text.training import ModelType, train_sentencepiece
from tests.fixtures.families import library_tokenizer

WORDS = ["river", "town", "stone", "wind"]


@pytest.mark.parametrize(("kind", "size"), [(ModelType.UNIGRAM, 28), (ModelType.BPE, 50)])
@pytest.mark.parametrize(
    "text",
    ["the [MASK].", "the [MASK] of (the [MASK]), the", "[MASK], the  [MASK]", "[MASK][MASK]"],
)
def test_masks_beside_signs(kind: ModelType, size: int, text: str) -> None:
    lines = [f"the {word}, of (the {word})." for word in WORDS] * 30
    tokenizer = train_sentencepiece(lines, vocab_size=size, model_type=kind)
    (town,) = tokenizer.encode("town")
    whole = tokenizer.encode(text.replace("[MASK]", " town"))
    expected = np.where(whole == town, tokenizer.special.mask, whole)
    assert (whole == town).sum() == text.count("[MASK]")
    np.testing.assert_array_equal(_with_masks(text, tokenizer), expected)


@pytest.mark.parametrize("kind", ["roberta", "modernbert"])
def test_the_tokenizer_has_its_own_name_for_the_mask(kind: str) -> None:
    values = json.loads(library_tokenizer(kind).to_str())
    tokenizer = from_library_values(values, "tokenizer.json", {})
    own = tokenizer.id_to_piece(tokenizer.special.mask)
    expected = _with_masks("the [MASK] rose, [MASK]", tokenizer)
    assert (expected == tokenizer.special.mask).sum() == 2
    np.testing.assert_array_equal(_with_masks(f"the {own} rose, {own}", tokenizer), expected)
