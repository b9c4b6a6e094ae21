"""Copies are found whatever the rounds."""

import numpy as np
import pytest

from bert_jax.data.corpus import duplicates


@pytest.mark.parametrize("round_bits", [2, 5, 20])
@pytest.mark.parametrize("kinds", [1, 7, 400])
def test_the_first_copy_is_listed(monkeypatch, round_bits: int, kinds: int) -> None:
    monkeypatch.setattr(duplicates, "_ROUND_BITS", round_bits)
    rng = np.random.default_rng(kinds)
    digests = rng.integers(0, 256, (kinds, 16), np.uint8)[rng.integers(0, kinds, 300)]
    digests[::50, 8:] = digests[0, 8:]  # half alike is not alike
    chunks = np.split(digests, [0, 3, 120])
    calls = []

    def read():
        calls.append(1)
        return iter(chunks)

    found = duplicates.is_first_copy(read, len(digests))
    seen: set[bytes] = set()
    expected = [not (row.tobytes() in seen or seen.add(row.tobytes())) for row in digests]
    assert found.tolist() == expected
    assert len(calls) == {2: 8, 5: 8, 20: 1}[round_bits]  # the rounds took place


def test_no_documents_have_no_copies() -> None:
    assert duplicates.is_first_copy(lambda: iter(()), 0).tolist() == []
