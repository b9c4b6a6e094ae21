"""Hard negatives and search of texts, by the drivers."""

import json
import pathlib

import numpy as np
import pytest

from bert_jax.checkpoints.checkpoint import find_checkpoint
from bert_jax.checkpoints.pretrained import one_device
from bert_jax.config import SearchOptions
from bert_jax.errors import UserError
from bert_jax.inspection.narrow_vectors import open_vectors, ranges_of, ranges_path
from bert_jax.retrieval.mining import mine_negatives
from bert_jax.retrieval.search_encoder import SearchEncoder
from bert_jax.retrieval.text_search import read_texts_to_search, vectors_of_lines
from tests.fixtures.drivers import Drivers, Run
from tests.retrieval.test_retrieval_drivers import make_texts

TEXTS = list(dict.fromkeys(make_texts(40)))


@pytest.fixture(scope="module")
def encoder(pretrained: Run) -> SearchEncoder:
    checkpoint = find_checkpoint(pretrained[0])
    return SearchEncoder(checkpoint, one_device(), SearchOptions(), batch_size=8)


def test_negatives_are_at_their_ranks(encoder: SearchEncoder) -> None:
    queries = ["red wind", "sun", TEXTS[9]]  # the last is a text itself
    pairs = [(queries[n % 3], text) for n, text in enumerate([*TEXTS, TEXTS[0], TEXTS[1]])]
    found = mine_negatives(pairs, encoder, (2, 5), one_device())
    assert set(found) == set(queries)
    near = encoder.queries(queries) @ encoder.texts(TEXTS).T
    for query, products in zip(queries, near, strict=True):
        known = {right for each, right in pairs if each == query} | {query}
        order = [TEXTS[n] for n in np.argsort(-products) if TEXTS[n] not in known]
        assert found[query] == order[1:5]
    assert TEXTS[9] in [text for text, near in zip(TEXTS, near[2], strict=True) if near > 0.999]
    assert mine_negatives(pairs[::-1], encoder, (2, 5), one_device()) == found
    with pytest.raises(UserError, match=r"--ranks=2-30: there are \d+ different right texts, of"):
        mine_negatives(pairs, encoder, (2, 30), one_device())


def test_all_ranks_that_are_there_can_be_mined(encoder: SearchEncoder) -> None:
    # "sun" is none of the texts, and takes no rank; TEXTS[1] is one, and does.
    pairs = [("sun", TEXTS[0]), ("sea", TEXTS[1]), ("sea", TEXTS[2])]
    assert "sun" not in TEXTS and "sea" not in TEXTS
    found = mine_negatives(pairs, encoder, (1, 1), one_device())
    assert found["sea"] == [TEXTS[0]] and found["sun"][0] in TEXTS[1:3]
    itself = [(TEXTS[1], TEXTS[0]), ("sea", TEXTS[1]), ("sea", TEXTS[2])]
    assert mine_negatives(itself, encoder, (1, 1), one_device())[TEXTS[1]] == [TEXTS[2]]
    with pytest.raises(UserError, match=r"are 3 different right texts, of which up to 2 belong"):
        mine_negatives(pairs, encoder, (1, 2), one_device())


def test_the_file_of_triples(drivers: Drivers, pretrained: Run, tmp_path: pathlib.Path) -> None:
    rows = [f"{TEXTS[n]}\t{TEXTS[n + 1]}\n" for n in range(12)]
    (tmp_path / "pairs.tsv").write_text("".join(["query\tanswer\n", *rows]))
    flags = [f"--checkpoint={pretrained[0]}", f"--data={tmp_path / 'pairs.tsv'}", "--ranks=1-3"]
    flags += ["--text_column=query", "--text_pair_column=answer"]
    output = tmp_path / "triples.jsonl"
    result = drivers.run("mine", *flags, f"--output={output}")
    assert result.status == 0 and not result.err, result
    triples = [json.loads(line) for line in output.read_text().splitlines()]
    assert [f"{each['query']}\t{each['answer']}\n" for each in triples] == rows
    for each in triples:
        assert len(set(each["negatives"])) == 3
        assert not {each["query"], each["answer"]} & set(each["negatives"])
    assert "exists: name a new file" in drivers.run("mine", *flags, f"--output={output}").error()
    new = f"--output={tmp_path / 'new.jsonl'}"
    for wrong, message in (
        ("--ranks=5-3", "--ranks=5-3: write the first and the last, such as 11-15"),
        ("--text_column=title", "no column 'title': it has 'query', 'answer'; set --text_column"),
        ("--text_column=answer", "--text_column and --text_pair_column are both answer"),
        (f"--output={tmp_path / 'new.tsv'}", "new.tsv must end in .jsonl"),
        (f"--output={tmp_path / 'pairs.tsv/new.jsonl'}", "a part of the path is a file: name"),
    ):
        assert message in drivers.run("mine", *flags, new, wrong).error()
    # A place that cannot be written is told before the rows are read.
    wrong = ["--data=nowhere.tsv", f"--output={tmp_path / 'pairs.tsv/new.jsonl'}"]
    assert "a part of the path is a file" in drivers.run("mine", *flags, *wrong).error()
    assert len(list(tmp_path.iterdir())) == 2


def test_search_of_lines(
    drivers: Drivers, pretrained: Run, encoder: SearchEncoder, tmp_path: pathlib.Path
) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f"{text}\n" for text in TEXTS))
    flags = [f"--checkpoint={pretrained[0]}", f"--corpus={lines}", f"--text={TEXTS[3]}"]
    shown = drivers.run("search", *flags, "--top_k=2")
    assert shown.status == 0 and not shown.err, shown
    query, first, _ = shown.out.splitlines()
    assert query == TEXTS[3] and first == f"   1.0000  4  {TEXTS[3]}"
    found = json.loads(drivers.run("search", *flags, "--json", "--top_k=7").out)["found"]
    near = encoder.texts(TEXTS) @ encoder.queries([TEXTS[3]])[0]
    assert [each["id"] for each in found] == [str(n + 1) for n in np.argsort(-near)[:7]]

    # The vectors of a file are searched as they are.
    vectors = tmp_path / "v.npy"
    np.save(vectors, encoder.texts(TEXTS)[::-1])
    stored = drivers.run("search", *flags, "--json", "--top_k=7", f"--vectors={vectors}")
    turned = json.loads(stored.out)["found"]
    places = [len(TEXTS) + 1 - int(each["id"]) for each in found]
    assert [each["id"] for each in turned] == [str(place) for place in places]
    # Plain ones, and their codes, are divided by their lengths.
    scores = {each["id"]: each["score"] for each in found}
    ranges = ["--dtype=int8", f"--range_sample={lines}"]
    for narrow, error in (([], 1e-6), (ranges, 0.02)):
        plain = tmp_path / f"plain{len(narrow)}.npy"
        made = ("--features=of_checkpoint", *narrow, f"--output={plain}")
        assert drivers.run("predict", flags[0], *made, f"--input={lines}").status == 0
        stored = drivers.run("search", *flags, "--json", "--top_k=7", f"--vectors={plain}")
        for each in json.loads(stored.out)["found"]:
            np.testing.assert_allclose(each["score"], scores[each["id"]], atol=error)
    texts = drivers.run("search", *flags, f"--vectors={plain}", "--text_prompt=x")
    assert "--text_prompt is of the texts, whose vectors are those of --ve" in texts.error()
    # A search by the product wants plain vectors.
    np.save(vectors, encoder.texts(TEXTS))
    wrong = drivers.run("search", *flags, f"--vectors={vectors}", "--similarity=product")
    assert "has vectors of length 1, and the search is by the product of" in wrong.error()
    by_product = (f"--vectors={tmp_path / 'plain0.npy'}", "--similarity=product")
    assert drivers.run("search", *flags, *by_product).status == 0
    np.save(vectors, np.zeros((3, 12), np.float32))
    for wrong, message in (
        (f"--vectors={vectors}", "has 3 vectors of 12, and the corpus has"),
        (f"--top_k={len(TEXTS) + 1}", f"lines.txt has {len(TEXTS)} texts: choose at most that"),
        (f"--input={lines}", "give the queries by one of --text and --input"),
        ("--text= ", "the text '' has no token"),
    ):
        assert message in drivers.run("search", *flags, wrong).error()


def test_a_line_that_is_a_pair_has_no_vector_of_a_search(tmp_path: pathlib.Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("red stone\nsun\tlight\n")
    documents = read_texts_to_search(lines, skip_bad_rows=False)
    np.save(tmp_path / "v.npy", np.eye(2, dtype=np.float32))
    with pytest.raises(UserError, match="line 2 of the corpus has a tab, which parts two texts"):
        vectors_of_lines(tmp_path / "v.npy", documents, 2, normalised=True)


def test_codes_of_normalised_vectors_are_known(tmp_path: pathlib.Path) -> None:
    lines, path = tmp_path / "lines.txt", tmp_path / "v.npy"
    lines.write_text("red\n" * 40)
    documents = read_texts_to_search(lines, skip_bad_rows=False)
    vectors = np.random.default_rng(4).normal(size=(40, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ranges = ranges_of([vectors[:36]], "a sample")  # some of the others are clipped
    np.save(path, ranges.encode(vectors))
    ranges.save(ranges_path(path))
    off = np.abs(np.linalg.norm(open_vectors(path).values(slice(None)), axis=1) - 1).max()
    assert 1e-3 < off < 0.05  # witness
    with pytest.raises(UserError, match="has vectors of length 1, and the search is by the prod"):
        vectors_of_lines(path, documents, 64, normalised=False)
