"""The task of the quickstart: what a label says of its sentence is true."""

import random

from bert_jax.data.corpus.python_docs import Docstring
from launch.quickstart import IN_ORDER, SWAPPED, label_rows


def test_labels_are_true() -> None:
    rng = random.Random(0)
    words = [f"word{number}" for number in range(50)]
    docstrings = [
        Docstring(
            "numpy",
            f"numpy.module{number}",
            [" ".join([f"In{number}", *rng.choices(words, k=rng.randint(5, 28))]) + "."],
        )
        for number in range(600)
    ]
    module_of = {each.sentences[0].split()[0]: each.module for each in docstrings}
    written = {each.sentences[0].split()[0]: each.sentences[0].split() for each in docstrings}
    rows = label_rows(docstrings)
    modules, count = {}, {IN_ORDER: 0, SWAPPED: 0}
    for split, lines in rows.items():
        for line in lines:
            text, _, label = line.partition("\t")
            shown = text.split()
            original = written[shown[0]]
            different = [n for n in range(len(shown)) if shown[n] != original[n]]
            assert 8 <= len(shown) == len(original) <= 24
            assert bool(different) == (label == SWAPPED)
            if different:
                first, second = different
                assert second == first + 1 and first > 0 and second < len(shown) - 1
                assert shown[first : second + 1] == original[first : second + 1][::-1]
            modules.setdefault(split, set()).add(module_of[shown[0]])
            count[label] += 1
    assert not modules["train"] & modules["dev"] and len(modules["dev"]) > 40
    assert min(count.values()) > 0.4 * sum(count.values())
