"""The tokens of a text with masks are those of the text, all but the masked words."""

import numpy as np
import pytest

from bert_jax.inspection.fill_mask import _with_masks
from bert_jax.text.training import ModelType, train_sentencepiece

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
