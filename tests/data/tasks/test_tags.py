"""Labelled words: windows and back, schemes of tags, and what a file can get wrong."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_jax.config import TagReading, TaskDataConfig
from bert_jax.data.tasks.rows import NO_LABEL
from bert_jax.data.tasks.splits import Task
from bert_jax.data.tasks.tag_schemes import entities, tagging_of_labels
from bert_jax.data.tasks.tag_tasks import read_tag_split, read_tag_task
from bert_jax.data.tasks.tags import TagSplit, encode_words, split_words
from bert_jax.errors import UserError
from tests.fixtures.data import LETTER_TOKENIZER as TOKENIZER
from tests.fixtures.data import LETTERS, PIECES

UNK = TOKENIZER.special.unk
COLUMNS = TaskDataConfig(word_column="0", tag_column="-1")

Sentences = list[list[tuple[str, str]]]  # of words and tags


def write(path: Path, sentences: Sentences) -> str:
    blocks = ["".join(f"{word}\t{tag}\n" for word, tag in sentence) for sentence in sentences]
    path.write_text("\n".join(blocks))
    return str(path)


def parse(text: str) -> Sentences:
    """Reads "a/O b/B-x, c/O": two sentences."""
    sentences = [[pair.split("/") for pair in part.split()] for part in text.split(",")]
    return [[(word, tag) for word, tag in sentence] for sentence in sentences]


def read(tmp_path: Path, train: Sentences, *dev: Sentences, **config: Any) -> Task:
    sources = [write(tmp_path / f"dev{number}.conll", each) for number, each in enumerate(dev)]
    path = write(tmp_path / "train.conll", train)
    config |= {"train": path, "dev": " , ".join(sources)}
    return read_tag_task(dataclasses.replace(COLUMNS, **config), TOKENIZER)


def read_one(tmp_path: Path, sentences: Sentences, **config: Any) -> TagSplit:
    split = read(tmp_path, sentences, **config).train
    assert isinstance(split, TagSplit)
    return split


def as_gold(split: TagSplit) -> list[np.ndarray]:
    """Outputs that are right where a word is asked about, and wrong, and louder, elsewhere."""
    outputs = []
    for labels in split.inputs.labels:
        logits = np.zeros((len(labels), len(split.labels)), np.float32)
        asked = labels != NO_LABEL
        logits[asked, labels[asked]] = 1
        logits[~asked, 0] = 9
        outputs.append(logits)
    return outputs


def random_sentences(count: int, most: int, seed: int = 0) -> Sentences:
    """Makes IOB2 sentences of words of one to four letters."""
    rng = np.random.default_rng(seed)
    sentences = []
    for words in rng.integers(1, most, count):
        tags = ["O"]
        for _ in range(words):
            kinds = ["O", "B-x", "B-y"] + ([f"I-{tags[-1][2:]}"] * 2 if tags[-1] != "O" else [])
            tags.append(str(rng.choice(kinds)))
        letters = ["".join(rng.choice(list(LETTERS), rng.integers(1, 5))) for _ in range(words)]
        sentences.append(list(zip(letters, tags[1:], strict=True)))
    return sentences


@pytest.mark.parametrize(("length", "stride"), [(256, 64), (8, 3), (8, 64), (8, 1), (3, 1)])
def test_gold_scores_one_and_each_word_is_asked_once(
    length: int, stride: int, tmp_path: Path
) -> None:
    sentences = random_sentences(40, 30)
    split = read_one(tmp_path, sentences, length=length, stride=stride)
    assert split.examples == 40 and set(split.labels) == {"O", "B-x", "I-x", "B-y", "I-y"}
    assert split.labels == sorted(split.labels)
    assert (len(split.inputs) > 40) == (length < 256) == ("windows" in split.notes)
    asked = [[] for _ in sentences]
    for ids, labels, example in zip(
        split.inputs.a, split.inputs.labels, split.inputs.example_of, strict=True
    ):
        assert len(labels) == len(ids) + 2 <= length
        assert ids.dtype == labels.dtype == np.int32 and (labels != NO_LABEL).any()
        for place in np.flatnonzero(labels != NO_LABEL):
            asked[example].append((PIECES[ids[place - 1]], split.labels[labels[place]]))
    assert asked == [[(word[0], tag) for word, tag in sentence] for sentence in sentences]
    scores = split.scores(as_gold(split))
    assert scores == {"precision": 1, "recall": 1, "f1": 1, "accuracy": 1}
    predictions = list(split.predictions(as_gold(split)))
    for sentence, found in zip(sentences, predictions, strict=True):
        words, tags = map(list, zip(*sentence, strict=True))
        assert (found["words"], found["gold"], found["tags"]) == (words, tags, tags)
        assert found["entities"] == [
            {"type": kind, "begin": begin, "end": end, "text": " ".join(words[begin:end])}
            for kind, begin, end in entities(tags, tagging_of_labels(split.labels))
        ]


def test_a_word_is_asked_about_where_most_is_around_it(tmp_path: Path) -> None:
    sentence = [(letter, "O" if letter in "ab" else "B-x") for letter in "abcdefghi"]
    split = read_one(tmp_path, [[("z", "O")], sentence], length=8, stride=3)
    # abcdef and defghi: of d 2 tokens follow and 0 come before; of e it is 1 and 1; of f 0 and 2.
    assert [len(ids) for ids in split.inputs.a] == [1, 6, 6]
    none = NO_LABEL
    assert [labels.tolist() for labels in split.inputs.labels] == [
        [none, 1, none],
        [none, 1, 1, 0, 0, 0, none, none],
        [none, none, none, 0, 0, 0, 0, none],
    ]
    assert split.inputs.example_of.tolist() == [0, 1, 1]
    assert split.notes == "1 in several windows; IOB2 entities"
    outputs = as_gold(split)
    before = split.scores(outputs)
    outputs[1][[0, 6, 7]] = outputs[2][[0, 1, 2, 7]] = [0, 99]  # poison: "O" where "B-x" is right
    assert split.scores(outputs) == before and before["f1"] == 1
    outputs[2][3] = [0, 99]  # f, in its own window
    assert split.scores(outputs)["recall"] == pytest.approx(6 / 7)


def test_windows_without_a_word_are_left_out() -> None:
    inputs = encode_words([["a" * 40, "b"], [], ["c"]], TOKENIZER, 8, 2)
    assert [len(ids) for ids in inputs.a] == [6, 6, 1]
    assert inputs.example_of.tolist() == [0, 0, 2] and inputs.words.tolist() == [2, 0, 1]
    assert inputs.token_of.tolist() == [1, 6, 1]
    outputs = [np.zeros((len(ids) + 2, 3), np.float32) for ids in inputs.a]
    outputs[1][6] = [0, 1, 2]
    assert [each.tolist() for each in inputs.classes(outputs)] == [[0, 2], [], [0]]
    (_, second), *others = inputs.probabilities(outputs)
    assert second == pytest.approx(np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum())
    assert [each.shape for each in others] == [(0, 3), (1, 3)] and second.dtype == np.float32


def test_probabilities_of_large_logits_are_finite() -> None:
    inputs = encode_words([["a"]], TOKENIZER, 8, 2)
    outputs = [np.array([[0, 0], [1e4, -1e4], [0, 0]], np.float32)]
    assert inputs.probabilities(outputs)[0].tolist() == [[1, 0]]


def test_texts_without_any_word_have_no_inputs() -> None:
    for sentences in ([], [[], []]):
        inputs = encode_words(sentences, TOKENIZER, 8, 2)
        assert not inputs.a and inputs.token_of.dtype == np.int64
        assert [len(each) for each in inputs.classes([])] == [0] * len(sentences)
        assert [len(each) for each in inputs.probabilities([])] == [0] * len(sentences)


def test_outputs_of_other_inputs_are_refused(tmp_path: Path) -> None:
    split = read_one(tmp_path, parse("a/O b/B-x, c/O"), length=8)
    outputs = split.constant_outputs()
    for wrong in (outputs[:1], outputs[::-1], [*outputs, outputs[0]]):
        with pytest.raises(ValueError, match="are not .size, C. of each input"):
            split.scores(wrong)


def test_words_without_tokens_are_unknown(tmp_path: Path) -> None:
    split = read_one(tmp_path, parse("a/O \u200b/B-x bc/I-x, \u200b/O"), length=8)
    a, bc = PIECES.index("a"), [PIECES.index("b"), PIECES.index("##c")]
    assert [ids.tolist() for ids in split.inputs.a] == [[a, UNK, *bc], [UNK]]
    assert split.scores(as_gold(split))["f1"] == 1


def test_a_long_sentence_is_read_in_seconds(tmp_path: Path) -> None:
    words = random_sentences(1, 2)[0] * 100_000
    begin = time.perf_counter()
    split = read_one(tmp_path, [words, [("a", "O"), ("b", "B-z")]], length=16, stride=7)
    scores = split.scores(as_gold(split))
    assert time.perf_counter() - begin < 30  # what is quadratic takes far longer
    asked = sum(np.count_nonzero(labels != NO_LABEL) for labels in split.inputs.labels)
    assert asked == 100_002 and scores["accuracy"] == 1


def test_iob1_is_read_as_iob2(tmp_path: Path) -> None:
    # That it is IOB1 shows in one of the files alone.
    plain, opened = parse("a/B-x b/I-x c/O, d/O"), parse("a/I-x b/B-x c/I-x d/O")
    notes = ("IOB1 entities, read as IOB2", "IOB2 entities")
    for train, dev in ((plain, opened), (opened, plain)):
        task = read(tmp_path, train, dev, dev)
        assert task.labels == ["B-x", "I-x", "O"] and list(task.dev) == ["dev", "dev2"]
        for split in (task.train, *task.dev.values()):
            assert isinstance(split, TagSplit)
            assert split.notes in notes and split.scores(as_gold(split))["f1"] == 1
    source = str(tmp_path / "train.conll")
    split = read_tag_split(source, COLUMNS, TOKENIZER, task.labels)
    (found,) = split.predictions(as_gold(split))
    assert split.notes == "IOB1 entities, read as IOB2"
    assert found["gold"] == ["B-x", "B-x", "I-x", "O"] == found["tags"]
    assert [(each["begin"], each["end"]) for each in found["entities"]] == [(0, 1), (1, 3)]


def test_plain_tags_score_accuracy(tmp_path: Path) -> None:
    task = read(tmp_path, parse("a/N b/V, c/O d/I-x"), parse("a/N c/V d/V"), parse("a/O b/I-x"))
    assert task.labels == ["I-x", "N", "O", "V"]
    assert task.train.notes == task.dev["dev2"].notes == "tags that mark no entities"
    dev, other = task.dev["dev"], task.dev["dev2"]
    assert isinstance(dev, TagSplit) and isinstance(other, TagSplit)
    assert dev.scores(dev.constant_outputs()) == {"accuracy": pytest.approx(2 / 3)}
    (found,) = dev.predictions(as_gold(dev))
    assert found == {"words": ["a", "c", "d"], "gold": ["N", "V", "V"], "tags": ["N", "V", "V"]}
    # By itself the other file would be read as IOB1.
    alone = read_tag_split(str(tmp_path / "dev1.conll"), COLUMNS, TOKENIZER, task.labels)
    for split in (other, alone):
        assert split.scores(split.constant_outputs()) == {"accuracy": 0.5}
        assert [found["gold"] for found in split.predictions(as_gold(split))] == [["O", "I-x"]]


def test_the_constant_is_the_commonest_tag(tmp_path: Path) -> None:
    split = read_one(tmp_path, parse("a/O b/B-x c/O, d/O eee/B-x"), length=8)
    outputs = split.constant_outputs()
    assert [output.shape for output in outputs] == [(5, 2), (6, 2)]
    assert all(output.dtype == np.float32 for output in outputs)
    assert split.scores(outputs) == {"precision": 0, "recall": 0, "f1": 0, "accuracy": 0.6}


def test_tags_that_training_lacks_are_named(tmp_path: Path) -> None:
    train, dev = parse("a/O b/B-x"), parse("a/O, b/O c/B-y")
    with pytest.raises(UserError) as raised:
        read(tmp_path, train, train, dev)
    assert str(raised.value) == (
        f"{tmp_path}/dev1.conll:4: word 2 of the sentence, 'c', has the tag 'B-y', which the"
        " training file does not have: remove the sentence, or write one of 'B-x', 'O'"
    )
    source = str(tmp_path / "dev1.conll")
    with pytest.raises(
        UserError, match="dev1.conll:4: word 2 .* 'B-y', which the training file does"
    ):
        read_tag_split(source, COLUMNS, TOKENIZER, ["B-x", "O"])
    many = [[("a", f"t{number:02}") for number in range(11)]]
    with pytest.raises(UserError, match="write one of 't00', .* 't09', ...$"):
        read(tmp_path, many, dev)


def test_one_tag_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        read(tmp_path, parse("a/O, b/O"), parse("a/O b/B-x"))
    assert str(raised.value) == (
        f"all words from {tmp_path}/train.conll:1 on have the tag 'O': add sentences with another"
        " tag, or correct --config.data.tag_column=-1"
    )


def test_the_fingerprint_covers_tags_and_words(tmp_path: Path) -> None:
    texts = ["a/O b/B-x", "a/B-x b/O", "c/O b/B-x"]
    digests = {read(tmp_path, parse(text), parse(text)).fingerprint() for text in texts}
    assert len(digests) == 3


def test_some_examples_keep_their_windows(tmp_path: Path) -> None:
    split = read_one(tmp_path, random_sentences(5, 30), length=8, stride=3)
    part = split.inputs.of_examples(np.array([1, 3]))
    asked = sum(np.count_nonzero(labels != NO_LABEL) for labels in part.labels)
    assert asked == split.words.words[[1, 3]].sum()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \n\u00a0", []),
        ("Mr. O'Neil's co-op", ["Mr", ".", "O", "'", "Neil", "'", "s", "co", "-", "op"]),
        ("@user_1: 3.5%!?", ["@", "user_1", ":", "3", ".", "5", "%", "!", "?"]),
        ("Va\u0301monos al mar", ["Va\u0301monos", "al", "mar"]),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", ["\u0939\u093f\u0928\u094d\u0926\u0940"]),
        ("\u0645\u06cc\u200c\u0631\u0648\u0645", ["\u0645\u06cc\u200c\u0631\u0648\u0645"]),
        ("\u2764\ufe0fab \u0301c", ["\u2764\ufe0f", "ab", "\u0301", "c"]),
        ("\u6771\u4eac\u3002", ["\u6771\u4eac", "\u3002"]),
    ],
)
def test_split_words(text: str, words: list[str]) -> None:
    found = split_words(text)
    assert [word for word, _, _ in found] == words
    assert [text[begin:end] for _, begin, end in found] == words


@pytest.mark.parametrize(
    "mark", "\ufeff\u200b\u00ad\u200f\u202e\u2060\ufffd\x07\x1c\x85\ue000\ufe0f\u200d"
)
def test_words_of_a_text_with_invisible_characters(mark: str) -> None:
    text = "Mr. O'Neil's co-op \u0939\u093f\u0902 \u6771\u4eac, 3.5%"
    plain = split_words(text)
    places = [[0], [len(text)], [2], [3], [5, 5], [12], range(len(text) + 1)]
    for where in places:
        marked, of_plain = "", []  # the place in the text of each character of the marked one
        for at in range(len(text) + 1):
            marked += mark * list(where).count(at)
            of_plain += [at] * (len(marked) - len(of_plain))
            marked, of_plain = marked + text[at : at + 1], [*of_plain, at]
        found = split_words(marked)
        if mark in "\ufe0f\u200d":  # they belong to the character before, and stay with it
            assert [word.replace(mark, "") for word, _, _ in found] == [w for w, _, _ in plain]
        else:
            assert [(w, of_plain[b], of_plain[e - 1] + 1) for w, b, e in found] == plain


@pytest.mark.parametrize("tag", ["0", "o", "B_x", "b-x", "B-", "x", "B", "x-B", "-X-", "U-x"])
def test_a_tag_that_breaks_the_scheme_is_named_with_its_line(tag: str, tmp_path: Path) -> None:
    good = parse("a/B-x b/I-x c/O, a/O b/B-y, c/B-x c/O")
    bad = [("a", "O"), ("b", tag)]
    settings = {"skip_bad_rows": True}
    for train, dev, name, line in (
        ([*good, bad], good, "train", 12),
        (good, [good[0], bad, *good], "dev0", 6),
    ):
        with pytest.raises(UserError) as caught:
            read(tmp_path, train, dev)
        message = str(caught.value)
        problem = f"{tmp_path}/{name}.conll:{line} has the tag {tag!r}, which breaks the scheme of"
        assert message.startswith(problem) and "(IOB2 entities" in message
        task = read(tmp_path, train, dev, **settings)
        splits = {"train": task.train, "dev0": task.dev["dev"]}
        assert task.labels == ["B-x", "B-y", "I-x", "O"]
        assert splits[name].notes == "IOB2 entities; left out: tag that breaks the scheme (1)"
        config = dataclasses.replace(COLUMNS, **settings)
        again = read_tag_split(f"{tmp_path}/{name}.conll", config, TOKENIZER, task.labels)
        assert again.notes == splits[name].notes
    # They may be classes of words.
    task = read(tmp_path, [*good, bad], [bad], tag_scheme=TagReading.PLAIN)
    assert tag in task.labels
    assert task.dev["dev"].scores(task.dev["dev"].constant_outputs()).keys() == {"accuracy"}


def test_files_of_a_task_may_be_in_several_schemes(tmp_path: Path) -> None:
    iob2, iob1 = parse("a/B-x b/I-x c/B-x"), parse("a/I-x b/I-x c/B-x")
    bilou, suffix = parse("a/B-x b/L-x c/U-x"), parse("a/x-B b/x-E c/x-S")
    train = [*iob2, [("d", "O")]]
    task = read(tmp_path, train, iob1, bilou, suffix)
    assert task.labels == ["B-x", "I-x", "O"]
    for split in task.dev.values():
        (found,) = split.predictions(as_gold(split))  # pyright: ignore[reportArgumentType]
        assert found["gold"] == ["B-x", "I-x", "B-x"]
    notes = [split.notes for split in task.dev.values()]
    assert notes == [
        "IOB1 entities, read as IOB2",
        "BILOU entities, read as IOB2",
        "IOBES entities, written TYPE-I, read as IOB2",
    ]
    # Where the labels cannot tell entities apart, nothing is made to fit.
    labels = ["I-x", "O"]
    with pytest.raises(UserError, match="has the tag 'B-x', which the training file does not"):
        read_tag_split(write(tmp_path / "a.conll", iob2), COLUMNS, TOKENIZER, labels)
    split = read_tag_split(
        write(tmp_path / "a.conll", parse("a/B-x, d/O")), COLUMNS, TOKENIZER, labels
    )
    assert [found["gold"] for found in split.predictions(as_gold(split))] == [["I-x"], ["O"]]


def test_types_alone_are_entities_where_the_config_says_so(tmp_path: Path) -> None:
    sentences = parse("a/PER b/PER c/O, d/O eee/LOC")
    task = read(tmp_path, sentences, sentences)
    assert task.train.notes == "tags that mark no entities"
    task = read(tmp_path, sentences, sentences, tag_scheme=TagReading.TYPES)
    dev = task.dev["dev"]
    assert isinstance(dev, TagSplit) and dev.notes == "type-only entities"
    assert dev.scores(as_gold(dev))["f1"] == 1


def test_spellings_of_a_tag_are_one_class(tmp_path: Path) -> None:
    composed, apart = "B-\u00e9", "B-e\u0301"
    task = read(tmp_path, [[("a", composed), ("b", apart), ("c", "O")]], [[("a", apart)]])
    assert task.labels == ["B-\u00e9", "O"]
    # A checkpoint may have the other spelling.
    source = f"{tmp_path}/train.conll"
    split = read_tag_split(source, COLUMNS, TOKENIZER, [apart, "O"])
    assert split.scores(as_gold(split))["f1"] == 1
    with pytest.raises(UserError, match="look the same"):
        read(tmp_path, [[("a", "B-x"), ("b", "B-x\u200b"), ("c", "O")]], [[("a", "O")]])
