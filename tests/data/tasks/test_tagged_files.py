"""Sentences with tags: CoNLL columns, CoNLL-U, JSON lines, TFDS."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from bert_jax.data.tasks.bad_rows import BadRows
from bert_jax.data.tasks.tagged_files import TaggedSentence, read_tagged
from bert_jax.errors import UserError
from tests.fixtures.damage import damaged
from tests.fixtures.tfds import build_dataset

CONLL_2003 = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC

-DOCSTART- -X- -X- O
Peter NNP B-NP B-PER
"""

CONLLU = """# sent_id = 1
# text = Vámonos al mar.
1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tVamos\tir\tVERB\tv\t_\t0\troot\t_\tx=1
2\tnos\tnosotros\tPRON\tp\t_\t1\tobj\t_\tx=2
2.1\tnada\tnada\tPRON\tp\t_\t_\t_\t_\t_
3\t#\tmar\tNOUN\tn\tA=b\t1\tobl\t_\t_

# nothing but a comment

# newpar
1\tSí\tsí\tINTJ\ti\t_\t0\troot\t_\t_

"""


def read(
    path: Path, content: str | bytes, word_column: str = "0", tag_column: str = "-1"
) -> list[TaggedSentence]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_source(str(path), word_column, tag_column)


def read_source(
    source: str, word_column: str, tag_column: str, *, header: bool = True, skip: bool = False
) -> list[TaggedSentence]:
    bad = BadRows(source, skip=skip)
    columns = {"word_column": word_column, "tag_column": tag_column, "header": header}
    sentences = read_tagged(source, **columns, bad=bad)  # pyright: ignore[reportArgumentType]
    bad.close(len(sentences), "sentences")
    return sentences


def pairs(sentences: list[TaggedSentence]) -> list[list[tuple[str, str]]]:
    return [list(zip(each.words, each.tags, strict=True)) for each in sentences]


def test_conll_columns_are_taken_by_number(tmp_path: Path) -> None:
    path = tmp_path / "eng.train"
    sentences = read(path, CONLL_2003)
    assert sentences == [
        TaggedSentence(["EU", "rejects", "German"], ["B-ORG", "O", "B-MISC"], f"{path}:3"),
        TaggedSentence(["Peter"], ["B-PER"], f"{path}:8"),
    ]
    assert pairs(read(path, CONLL_2003, "0", "1"))[0][0] == ("EU", "NNP")
    assert pairs(read(path, CONLL_2003, "-3", "-2"))[0][1] == ("VBZ", "B-VP")
    assert pairs(read(path, CONLL_2003, "tokens|0", "tags|3|1")) == pairs(sentences)
    for content in (
        CONLL_2003.replace("\n", "\r\n"),
        CONLL_2003.rstrip("\n"),
        "\ufeff" + CONLL_2003.replace(" ", "\t"),
        CONLL_2003.replace(" ", "   ").replace("\n", "  \n"),
        CONLL_2003.replace("\n\n", "\n \t \n\n\n").replace("O\nGerman", "O \nGerman"),
    ):
        assert pairs(read(path, content)) == pairs(sentences)


def test_words_keep_their_text(tmp_path: Path) -> None:
    words = ["e\u0301", "\u00e9", "a\u00a0b", "\u2028", "\ufb01\u200b", "New York", " x", '"', "#"]
    words = [word for word in words if word.strip()]
    content = "".join(f"{word}\tO \n" for word in words)
    (sentence,) = read(tmp_path / "a.conll", content)
    assert sentence.words == words and sentence.tags == ["O"] * len(words)
    (sentence,) = read(tmp_path / "a.conll", "a\u00a0b\u3000c\x0bd O\n")
    assert (sentence.words, sentence.tags) == (["a\u00a0b\u3000c\x0bd"], ["O"])
    row = json.dumps({"words": words, "tags": ["O"] * len(words)})
    (sentence,) = read(tmp_path / "a.jsonl", row, "words", "tags")
    assert sentence.words == words


def test_a_word_may_have_spaces(tmp_path: Path) -> None:
    content = "10 000\tB\nNew York\tB\nau sujet de\tO\nil\tO\n"
    (sentence,) = read(tmp_path / "a.tsv", content)
    assert sentence.words == ["10 000", "New York", "au sujet de", "il"]


def test_conllu_has_words_and_names(tmp_path: Path) -> None:
    path = tmp_path / "a.conllu"
    assert read(path, CONLLU, "form", "upos") == [
        TaggedSentence(["Vamos", "nos", "#"], ["VERB", "PRON", "NOUN"], f"{path}:4"),
        TaggedSentence(["Sí"], ["INTJ"], f"{path}:12"),
    ]
    names = "id form lemma upos xpos feats head deprel deps misc".split()
    for number, name in enumerate(names):
        if name != "lemma":
            by_name = read(path, CONLLU, "lemma", name)
            assert by_name == read(path, CONLLU, "2", str(number))
            assert by_name == read(path, CONLLU, "tokens|lemma", str(number - 10))
    assert read(path, CONLLU, "form", "deprel")[0].tags == ["root", "obj", "obl"]


def test_lists_are_taken_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [
        {"id": 7, "tokens": ["a", "b", 1984], "ner": ["O", " B-x", "I-x"], "numbers": [0, 3, 1]},
        {"id": 8, "tokens": [], "ner": [], "numbers": []},
        {"id": 9, "tokens": ["c"], "ner": ["O"], "numbers": [0]},
    ]
    content = "\n".join(map(json.dumps, rows))
    assert read(path, content, "tokens", "ner") == [
        TaggedSentence(["a", "b", "1984"], ["O", "B-x", "I-x"], f"{path}:1"),
        TaggedSentence(["c"], ["O"], f"{path}:3"),
    ]
    sentences = read(path, content, "0|tokens", "1|numbers")
    assert [sentence.tags for sentence in sentences] == [["0", "3", "1"], ["0"]]


@pytest.mark.parametrize(
    ("name", "content", "word_column"),
    [
        ("a.conll", "one\ntwo\n\nthree\n", "0"),
        ("a.conll", "0\tone\n1\ttwo\n\n0\tthree\n", "-1"),
        ("a.conllu", "1\tone\n2\ttwo\n\n1\tthree\n", "form"),
        ("a.jsonl", '{"w": ["one", "two"]}\n{"w": ["three"]}', "w"),
    ],
)
def test_without_tags_every_word_is_outside(
    name: str, content: str, word_column: str, tmp_path: Path
) -> None:
    sentences = read(tmp_path / name, content, word_column, "")
    assert pairs(sentences) == [[("one", "O"), ("two", "O")], [("three", "O")]]


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("a.conll", "a O\nb\n", ("0", "-1"), "a.conll:2 has 1 columns, but its sentence began"),
        ("a.conll", "a O\n\nNew York O\nb O\n", ("0", "-1"), "a.conll:4 has 2 columns, but its"),
        ("a.conll", "a\tO\n#hashtag\n", ("0", "1"), "a.conll:2 has 1 columns, but its"),
        ("a.conll", "\n\na\nb\n", ("0", "-1"), "a.conll:3 has 1 columns, too few for --config."),
        ("a.conll", "a\n", ("-1", "0"), "a.conll:1 has 1 columns, too few for --config.data.word_"),
        ("a.conll", "a O\n", ("0", "2"), "--config.data.word_column=0 and tag_column='2'"),
        ("a.conll", "a O\n", ("-3", "1"), "a.conll:1 has 2 columns, too few"),
        ("a.conll", "a O\n", ("2", ""), "a.conll:1 has 2 columns, too few"),
        ("a.conll", "a\tO\nb\t \n", ("0", "1"), "a.conll:2 has an empty tag: fill it in"),
        ("a.conll", "a\tO\n\tO\n", ("0", "1"), "a.conll:2 has an empty word: fill it in"),
        ("a.conll", "\u00a0\n", ("0", ""), "a.conll:1 has an empty word"),
        ("a.conll", "a O\n", ("form", "1"), "--config.data.word_column='form' is not a column of "),
        ("a.conll", "a O\n", ("0", "ner"), "a.conll: write its index, from 0, or -1 for the last"),
        ("a.conll", "a O\n", ("0", "1.5"), "--config.data.tag_column='1.5' is not a column of "),
        ("a.conll", "", ("0", "1"), "a.conll has no sentences: choose another file"),
        ("a.tsv", "Bad.\t0\nIt is dull.\t0\nIt is good.\t1\n", ("0", "1"), "a.tsv has texts, such "
         "as 'It is dull.', for --config.data.word_column=0: write one word a line"),
        ("a.csv", "id,text\n1,A good film\n", ("text", ""), "has texts, such as 'A good film'"),
        ("a.conll", "\n \n-DOCSTART- O\n\t\n", ("0", "1"), "a.conll has no sentences"),
        ("a.conll", b"a O\n\xe9 O\n", ("0", "1"), "a.conll is not UTF-8 at byte 4 in line 2: conv"),
        ("a.conllu", CONLLU, ("form", "ner"), "a.conllu: write its index, from 0, or -1 for the "
         "last, or one of id form lemma"),
        ("a.conllu", "1\ta\tO\n2 b O\n", ("1", "2"), "a.conllu:2 begins with '2 b O', not"),
        ("a.conllu", "a\tO\n", ("0", "1"), "a.conllu:1 begins with 'a', not with an id of CoNLL-U"),
        ("a.conllu", "1\ta\n", ("form", "upos"), "a.conllu:1 has 2 columns, too few"),
        ("a.conllu", "1\ta\tb\n2\ta\n", ("1", "2"), "a.conllu:2 has 2 columns, but its sentence"),
        ("a.conllu", "# a\n", ("1", "2"), "a.conllu has no sentences"),
        ("a.conllup", "# global.columns = \na\tO\n", ("0", "1"), "not with an id of CoNLL-U"),
        ("a.jsonl", '{"w": ["a"], "t": []}', ("w", "t"), "a.jsonl:1 has 1 words and 0 tags: give"),
        ("a.jsonl", '{"w": [], "t": ["O"]}', ("w", "t"), "a.jsonl:1 has 0 words and 1 tags: give"),
        ("a.jsonl", '{"w": "a", "t": ["O"]}', ("w", "t"), "a.jsonl:1 has 'a' for --config.data."
         "word_column=w: write a list"),
        ("a.jsonl", '{"w": ["a"], "t": {}}', ("w", "t"), "a.jsonl:1 has {} for --config.data.tag_"),
        ("a.jsonl", '{"w": ["a", " "], "t": [0, 0]}', ("w", "t"), "a.jsonl:1 has ' ' as item 1 for "
         "--config.data.word_column=w: write text"),
        ("a.jsonl", '{"w": ["a"], "t": [null]}', ("w", "t"), "a.jsonl:1 has None as item 0 for --"),
        ("a.jsonl", '{"w": [["a"]], "t": ["O"]}', ("w", "t"), "a.jsonl:1 has ['a'] as item 0 for"),
        ("a.jsonl", '{"w": ["a"]}', ("w", "t"), "a.jsonl:1 has no column 't': it has 'w'; set --con"
         "fig.data.tag_column"),
        ("a.jsonl", '{"t": ["a"]}', ("w", "t"), "has no column 'w': it has 't'; set --con"),
        ("a.jsonl", '{"w": []}', ("w", ""), "a.jsonl has no sentences"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named(
    name: str, content: str | bytes, columns: tuple[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path / name, content, *columns)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for name in ("a.conll", "a.conllu", "a.jsonl"):
        with pytest.raises(UserError, match=f"cannot read .*{name}: No such file or directory"):
            read_source(str(tmp_path / name), "0", "1")


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    rng = random.Random(16)
    rows = [{"w": ["\u00e9", "b c", "d"][:n], "t": ["B-x", "O", "I-y"][:n]} for n in (2, 1, 3, 0)]
    for name, content, columns in (
        ("a.conll", CONLL_2003 * 2, ("0", "-1")),
        ("a.tab", CONLL_2003.replace(" ", "\t"), ("0", "3")),
        ("a.conllu", CONLLU, ("form", "upos")),
        ("a.jsonl", "\n".join(map(json.dumps, rows)), ("w", "t")),
    ):
        results = Counter()
        for _ in range(300):
            stored = damaged(content.encode(), rng)
            try:
                sentences = read(tmp_path / name, stored, *columns)
            except UserError as error:
                assert "\n" not in str(error)
                results["refused"] += 1
                continue
            results["read"] += 1
            for sentence in sentences:
                assert len(sentence.words) == len(sentence.tags) > 0
                assert all(text.strip() for text in sentence.words + sentence.tags)
                assert name == "a.jsonl" or all(word.encode() in stored for word in sentence.words)
        assert min(results.values()) > 10 and len(results) == 2


class Entities(tfds.core.GeneratorBasedBuilder):
    """A dataset of this test, as TFDS makes one of a CoNLL file: its last record is empty."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        feature = tfds.features
        tags = feature.Sequence(feature.ClassLabel(names=["O", "B-PER", "I-PER"]))
        features = {"tokens": feature.Sequence(feature.Text()), "ner": tags}
        return tfds.core.DatasetInfo(
            builder=self, features=feature.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, _: object) -> dict[str, Iterator]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
        yield 0, {"tokens": ["Zo\u00eb", "Q", "ran"], "ner": [1, 2, 0]}
        yield 1, {"tokens": ["Yes"], "ner": [0]}
        yield 2, {"tokens": [], "ner": []}


def test_tfds_tags_are_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_dataset(Entities, tmp_path, monkeypatch)
    source = "tfds:entities:train"
    sentences = read_source(source, "0|tokens", "1|ner")
    assert sentences == [
        TaggedSentence(["Zo\u00eb", "Q", "ran"], ["B-PER", "I-PER", "O"], f"{source} record 0"),
        TaggedSentence(["Yes"], ["O"], f"{source} record 1"),
    ]
    with pytest.raises(UserError, match="record 0 has no column 'pos': it has 'ner', 'tokens'; se"):
        read_source(source, "tokens", "pos")


WORDS = [[("a", "B-x"), ("b", "O")], [("#", "O"), ("c", "I-x")]]


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        # Headers
        ("a.tsv", "token\tlabel\na\tB-x\nb\tO\n\n#\tO\nc\tI-x\n", ("token", "label")),
        ("a.tsv", "token\tlabel\na\tB-x\nb\tO\n\n#\tO\nc\tI-x\n", ("0", "-1")),
        ("a.tsv", "\ufeffToken\tLabel\r\n\r\na\tB-x\r\nb\tO\r\n\r\n#\tO\r\nc\tI-x\r\n", ("0", "1")),
        ("a.tsv", "n\tWord\tPOS\tTag\n1\ta\tN\tB-x\n2\tb\tN\tO\n\n1\t#\tN\tO\n2\tc\tN\tI-x",
         ("word", "tag")),
        ("a.conll", "words ner\na B-x\nb O\n\n# O\nc I-x\n", ("words|0", "tags|-1")),
        ("a.txt", "x\tmy tags\na\tB-x\nb\tO\n\n#\tO\nc\tI-x\n", ("0", "my tags")),
        ("a.csv", 'word,tag\na,B-x\nb,O\n,\n"#",O\nc,I-x\n', ("word", "tag")),
        ("a.csv", "a,B-x\nb,O\n\n#,O\nc,I-x\n", ("0", "-1")),
        # Comments
        ("a.conll", "# sent_id = 12\na B-x\nb O\n\n# sent_id = 13\n# O\nc I-x\n", ("0", "-1")),
        ("a.conll", "# id = 7\na B-x\nb O\n\n# x = y\n# O\n# id = 8\nc I-x\n", ("0", "-1")),
        ("a.conll", "# newdoc\n\n#begin document (x); part 000\na\tB-x\nb\tO\n\n#\tO\nc\tI-x\n"
         "#end document", ("0", "-1")),
        ("a.conll", "# made by hand, checked twice\n\na B-x\nb O\n\n# the next one\n# O\nc I-x\n",
         ("0", "-1")),
        ("a.tsv", "#\thttp://example.org\t[2009]\na\tB-x\nb\tO\n\n#\tO\nc\tI-x\n", ("0", "-1")),
        ("a.tsv", "# text = a b\na\tB-x\nb\tO\n\n# text = # c\n#\tO\nc\tI-x\n", ("0", "-1")),
        # Documents
        ("a.conll", "-DOCSTART-\na B-x\nb O\n-DOCSTART- -X- -X- O\n# O\nc I-x\n", ("0", "-1")),
        ("a.conll", "-DOCSTART- O\n\na B-x\nb O\n--DOCSTART--\tO\n# O\nc I-x\n", ("0", "-1")),
        ("a.tsv", "-docstart-\t-X-\tO\na\tN\tB-x\nb\tN\tO\n0\t-DOCSTART-\tO\n#\tN\tO\nc\tN\tI-x\n",
         ("0", "-1")),
        ("a.jsonl", '{"w": ["-DOCSTART-"], "t": ["O"]}\n{"w": ["a", "b"], "t": ["B-x", "O"]}\n'
         '{"w": ["#", "c"], "t": ["O", "I-x"]}', ("w", "t")),
        # CoNLL-U and CoNLL-U Plus
        ("a.conllup", "# global.columns = ID FORM X:NER\n1\ta\tB-x\n2\tb\tO\n\n1-2\t#c\t_\n"
         "1\t#\tO\n2\tc\tI-x\n", ("form", "x:ner")),
        ("a.conllup", "# global.columns = FORM NER\na\tB-x\nb\tO\n\n# text = # c\nc\tI-x\n",
         ("FORM", "ner")),
    ],
)  # fmt: skip
def test_what_is_no_word_is_passed_over(
    name: str, content: str, columns: tuple[str, str], tmp_path: Path
) -> None:
    expected = WORDS
    if "# text = # c\nc" in content:  # a word # needs a name of its own in such a file
        expected = [WORDS[0], WORDS[1][1:]]
    assert pairs(read(tmp_path / name, content, *columns)) == expected


def test_tabs_separate_the_columns_of_a_whole_file(tmp_path: Path) -> None:
    content = "# document 1\n-DOCSTART- -X- O\n#a\tO\n# of three words\nb c\tO\n \n\nd\tO\n"
    assert pairs(read(tmp_path / "a.tsv", content)) == [[("#a", "O"), ("b c", "O")], [("d", "O")]]


def test_the_header_of_a_joined_file_is_named(tmp_path: Path) -> None:
    header = "word tag\n"
    for again in (header, f"\ufeff{header}"):
        content = f"{header}a O\n\n{again}b O\n"
        with pytest.raises(UserError, match=r"a.conll:4 names the columns again, as joined"):
            read(tmp_path / "a.conll", content)
        (sentence,) = read_source(f"{tmp_path}/a.conll", "0", "-1", skip=True)
        assert sentence.words == ["a"]


def test_words_that_look_like_headers_and_comments_stay(tmp_path: Path) -> None:
    for content in (
        "Token B-x\nlabel O\n",
        "form NOUN\ntag NOUN\n",
        "#hashtag O\n#1 O\n",
        "#\t=\tO\n#\tNN\tO\n",
        "# # B-NP O\n1 CD I-NP O\n",
        "-\tO\n-LRB-\tO\n",
    ):
        (sentence,) = read(tmp_path / "a.conll", content)
        assert len(sentence.words) == 2
    (sentence,) = read_source(str(tmp_path / "a.conll"), "0", "-1", header=False)
    (tmp_path / "a.tsv").write_text("token\tlabel\n")
    (sentence,) = read_source(str(tmp_path / "a.tsv"), "0", "-1", header=False)
    assert sentence.words == ["token"]
    (sentence,) = read(tmp_path / "a.txt", "word\nform\n", "form|0", "")[0:1]
    assert sentence.words == ["word", "form"]


def test_words_have_lines(tmp_path: Path) -> None:
    content = "token tag\n# id = 1\na O\n# id = 2\nb O\n\n\nc O\n"
    one, two = read(tmp_path / "a.conll", content)
    path = tmp_path / "a.conll"
    assert [one.location_of(at) for at in range(2)] == [f"{path}:3", f"{path}:5"]
    assert two.location_of(0) == two.location == f"{path}:8"
    (row,) = read(tmp_path / "a.jsonl", '{"w": ["a", "b"], "t": ["O", "O"]}', "w", "t")
    assert row.location_of(1) == row.location


@pytest.mark.parametrize(
    ("name", "bad", "reason"),
    [
        ("a.conll", "b\n", "wrong number of columns"),
        ("a.conll", "b O O\n", "wrong number of columns"),
        ("a.tsv", "b\n", "wrong number of columns"),
        ("a.tsv", "New York\n", "wrong number of columns"),
        ("a.tsv", "b\t \n", "empty tag"),
        ("a.tsv", "\tO\n", "empty word"),
        ("a.csv", "b,\n", "empty tag"),
        ("a.jsonl", '{"w": ["b"], "t": []}', "other number of tags than words"),
        ("a.jsonl", '{"w": ["b"], "t": null}', "no gold label"),
        ("a.jsonl", '{"w": null, "t": ["O"]}', "no words"),
        ("a.jsonl", '{"w": ["b"], "t": [""]}', "empty tag"),
        ("a.jsonl", '{"w": [" "], "t": ["O"]}', "empty word"),
    ],
)
def test_sentences_that_cannot_be_used_are_left_out(
    name: str, bad: str, reason: str, tmp_path: Path
) -> None:
    good = {".conll": "a O\n", ".tsv": "a\tO\n", ".csv": "a,O\n"}.get(Path(name).suffix)
    columns = ("0", "-1") if good else ("w", "t")
    content = f"{good}\n{good}{bad}" if good else '{"w": ["a"], "t": ["O"]}\n' + bad
    (tmp_path / name).write_text(content)
    (left,) = read_source(f"{tmp_path}/{name}", *columns, skip=True)
    assert left.words == ["a"]
    with pytest.raises(UserError) as caught:
        read_source(f"{tmp_path}/{name}", *columns)
    assert f"; unusable in all: {reason} (1, from {tmp_path}/{name}:" in str(caught.value)
