"""A stored corpus stays readable: its documents and its rows are those of the day it was made."""

import json
import pathlib

import numpy as np

from bert_jax.data.corpus.corpus import open_corpus, read_manifest
from bert_jax.data.corpus.shards import damaged_files
from bert_jax.data.pretraining.corpora import corpus_tokenizer
from tests.fixtures.corpora import content, documents_of
from tests.fixtures.drivers import Drivers
from tests.golden.make_corpus import CORPUS, PREPARE_FLAGS, ROWS, TEXT, rows_of


def test_the_stored_corpus_has_its_documents() -> None:
    assert not [path for path, fault in damaged_files(CORPUS) if fault]
    tokenizer = corpus_tokenizer(str(CORPUS))
    expected = [document.split("\n") for document in TEXT.read_text().strip().split("\n\n")]
    # One document is a copy of another: the index leaves it out.
    distinct = [each for n, each in enumerate(expected) if each not in expected[:n]]
    ids = [[tuple(tokenizer.encode(line).tolist()) for line in lines] for lines in distinct]
    train, heldout = documents_of(CORPUS, "train"), documents_of(CORPUS, "heldout")
    assert len(ids) == len(expected) - 1 and train and heldout
    assert sorted(train + heldout) == sorted(ids)
    assert read_manifest(CORPUS)["splits"]["train"]["duplicates"] == 1
    (first,) = train[0][:1]
    assert tokenizer.decode(first).replace(" ", "") == expected[0][0].lower().replace(" ", "")


def test_the_stored_corpus_gives_its_rows() -> None:
    """If this fails, runs cannot be continued: raise CORPUS_FORMAT, and make the files again."""
    stored = json.loads(ROWS.read_text())
    found = rows_of(CORPUS)
    assert found.keys() == stored.keys()
    for name, rows in stored.items():
        np.testing.assert_array_equal(found[name], rows, err_msg=name)


def test_prepare_makes_the_stored_corpus_again(drivers: Drivers, tmp_path: pathlib.Path) -> None:
    """If this fails, raise CORPUS_FORMAT, and run python -m tests.golden.make_corpus."""
    flags = (*PREPARE_FLAGS, f"--tokenizer={CORPUS / 'tokenizer'}")
    result = drivers.run("prepare", f"--source=text:{TEXT}", f"--output={tmp_path / 'c'}", *flags)
    assert result.status == 0 and not result.err
    manifest = read_manifest(tmp_path / "c") | {"source": read_manifest(CORPUS)["source"]}
    assert manifest == read_manifest(CORPUS)
    made, stored = content(tmp_path / "c"), content(CORPUS)
    assert made.keys() == stored.keys()
    assert all(made[path] == stored[path] for path in made if path.suffix != ".json")


def test_the_splits_open_as_they_are_stored() -> None:
    split = open_corpus(CORPUS, "train")
    assert (split.documents, len(split.shards), split.shards[0]["tokens"].dtype) == (5, 1, "<u2")
