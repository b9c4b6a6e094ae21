"""The parts of the compiled steps that are made on the host."""

import numpy as np

from bert_jax.config import MaskingConfig
from bert_jax.runs.steps import mask_vocabulary
from tests.fixtures.data import LETTER_TOKENIZER


def test_rare_tokens_weigh_more_where_the_masking_is_smoothed():
    counts = np.arange(LETTER_TOKENIZER.vocab_size)  # the first was never seen
    masking = MaskingConfig(smoothing=0.7)
    weights = mask_vocabulary(masking, LETTER_TOKENIZER, lambda: counts).weights
    seen = np.maximum(counts, 1).astype(float)
    assert weights is not None and weights.dtype == np.float32
    np.testing.assert_allclose(weights, 1 / seen**0.7, rtol=1e-6)
    assert mask_vocabulary(MaskingConfig(), LETTER_TOKENIZER, lambda: counts).weights is None
