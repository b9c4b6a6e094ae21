"""Questions answered by spans: windows, labels, decoding, thresholds, scores."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_jax.config import TaskDataConfig
from bert_jax.data.packing.layout import RowFormat
from bert_jax.data.tasks.question_files import Answer, Question, Questions
from bert_jax.data.tasks.rows import make_token_rows
from bert_jax.data.tasks.spans import (
    Prediction,
    SpanSplit,
    encode_questions,
    read_span_split,
    read_span_task,
)
from bert_jax.errors import UserError
from bert_jax.text.tokenizer import Tokenizer, WordPieceTokenizer
from bert_jax.text.training import ModelType, train_sentencepiece
from tests.fixtures.data import LETTERS, PIECES

WORDPIECE = WordPieceTokenizer([*PIECES, "station", "cafe", "中", "."], lower_case=True)
WORDS = "river town house green old new king city under over station village music record".split()
NOTHING = "\u200b"  # not white space, but no tokenizer here sees it


@pytest.fixture(scope="module")
def sentencepiece() -> Tokenizer:
    rng = np.random.default_rng(0)
    sentences = [" ".join(rng.choice(WORDS, 9)) + f" {LETTERS}" for _ in range(300)]
    return train_sentencepiece(sentences, vocab_size=39, model_type=ModelType.UNIGRAM)


def question(
    context: str, *answers: str, text: str = "q", id: str = "", location: str = "there"
) -> Question:
    """A question whose answers are where they come first."""
    found = tuple(Answer(answer, context.index(answer)) for answer in answers)
    return Question(id, text, context, found, location)


def make_split(
    *questions: Question, tokenizer: Tokenizer = WORDPIECE, **settings: Any
) -> SpanSplit:
    return SpanSplit(Questions(list(questions), ""), TaskDataConfig(**settings), tokenizer)


def blank_outputs(split: SpanSplit) -> list[np.ndarray]:
    return [np.zeros((size, 2), np.float32) for size in split.inputs.sizes]


def gold_outputs(split: SpanSplit) -> list[np.ndarray]:
    """Logits that are 1 at the labels; [CLS] has them where there is no answer."""
    outputs = blank_outputs(split)
    for output, (begin, end) in zip(outputs, split.inputs.labels, strict=True):
        output[begin, 0] = output[end, 1] = 1
    return outputs


def random_questions(count: int, seed: int) -> list[Question]:
    """Questions on random words; the answer is some of them, at a place that may come twice."""
    rng = np.random.default_rng(seed)
    questions = []
    for number in range(count):
        words = rng.choice(WORDS, rng.integers(1, 40)).tolist()
        first = int(rng.integers(len(words)))
        answer = " ".join(words[first : first + rng.integers(1, 4)])
        begin = len(" ".join([*words[:first], ""]))
        text = " ".join(rng.choice(WORDS, rng.integers(1, 6)))
        questions.append(
            Question(f"q{number}", text, " ".join(words), (Answer(answer, begin),), "")
        )
    return questions


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_gold_places_give_every_point(kind: str, sentencepiece: Tokenizer) -> None:
    tokenizer = sentencepiece if kind == "sentencepiece" else WORDPIECE
    split = make_split(
        *random_questions(70, seed=1),
        tokenizer=tokenizer,
        length=67,
        stride=17,
        question_length=11,
        answer_length=40,
    )
    outputs = gold_outputs(split)
    assert split.scores(outputs) == {"f1": 100, "exact_match": 100}
    assert split.inputs.sizes.max() == 67 and split.examples == 70
    labels = np.asarray(split.inputs.labels)
    held = np.bincount(split.inputs.example_of, labels[:, 0] > 0)
    assert held.min() == 1 and held.max() > 1  # in every question, and in several windows of some
    assert (labels == 0).all(axis=1).sum() > 10

    for output in outputs:  # the points are those of the labels
        output[:] = output[::-1].copy()
    assert split.scores(outputs)["exact_match"] < 30


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_labels_are_the_tokens_of_the_answer(kind: str, sentencepiece: Tokenizer) -> None:
    tokenizer = sentencepiece if kind == "sentencepiece" else WORDPIECE
    questions = random_questions(40, seed=2)
    split = make_split(*questions, tokenizer=tokenizer, length=61, stride=13, question_length=30)
    inputs = split.inputs
    row_format = RowFormat(61, 1, tokenizer.special, pool_last=False)
    rows, (row, slot) = make_token_rows(
        inputs.a, inputs.b, np.ones(len(inputs), np.int64), row_format
    )
    assert isinstance(inputs.labels, np.ndarray)
    assert inputs.labels.dtype == np.int32 and inputs.labels.shape == (len(inputs), 2)
    assert row.tolist() == list(range(len(inputs))) and not slot.any()
    seen = 0
    for ids, number, (begin, end) in zip(
        rows["token_ids"], inputs.example_of, inputs.labels, strict=True
    ):
        ids = ids.tolist()
        a = tokenizer.encode(questions[number].question).tolist()
        answer = tokenizer.encode(questions[number].answers[0].text).tolist()
        assert ids[: len(a) + 2] == [tokenizer.special.cls, *a, tokenizer.special.sep]
        assert begin == end == 0 or ids[begin : end + 1] == answer
        seen += begin > 0
    assert seen > 40


def test_windows_share_a_row_length_with_the_question() -> None:
    context = " ".join(LETTERS[:20])
    split = make_split(question(context, "h i j"), length=14, stride=5)
    ids = WORDPIECE.encode(context).tolist()
    assert [b.tolist() for b in split.inputs.b] == [ids[0:10], ids[5:15], ids[10:20]]
    assert [a.tolist() for a in split.inputs.a] == [WORDPIECE.encode("q").tolist()] * 3
    assert split.inputs.example_of.tolist() == [0, 0, 0]
    # [CLS] q [SEP] and then tokens 7 to 9, from 0 and from 5.
    assert np.asarray(split.inputs.labels).tolist() == [[10, 12], [5, 7], [0, 0]]
    assert split.notes == "1 in several windows"

    # A stride beyond the window leaves no gap.
    split = make_split(question(" ".join(LETTERS), "t"), length=14, stride=99)
    assert [len(b) for b in split.inputs.b] == [10, 10, 10]
    assert [b[0] for b in split.inputs.b] == [WORDPIECE.encode(c)[0] for c in "akq"]


def test_an_answer_across_an_edge_is_taught_where_it_is_whole() -> None:
    asked = question(" ".join(LETTERS[:20]), "i j k l")
    split = make_split(asked, length=14, stride=5)
    assert np.asarray(split.inputs.labels).tolist() == [[0, 0], [6, 9], [0, 0]]
    assert split.scores(gold_outputs(split))["exact_match"] == 100
    split = make_split(asked, asked, length=14, stride=10)
    assert not np.any(split.inputs.labels)
    assert split.notes == "2 in several windows; 2 answers that fit no window"


def test_the_first_answer_is_taught_and_all_are_right() -> None:
    split = make_split(question("a b c d e f", "d e", "b", "a"))
    assert np.asarray(split.inputs.labels).tolist() == [[6, 7]]
    outputs = blank_outputs(split)
    outputs[0][4] = 1
    assert split.scores(outputs) == {"f1": 100, "exact_match": 100}


def test_an_answer_inside_a_token_takes_the_whole_token() -> None:
    split = make_split(question("a station. b", "tation. b"))
    (found,) = split.predictions(gold_outputs(split))
    assert (found["answer"], found["begin"], found["end"]) == ("station. b", 2, 12)
    assert split.scores(gold_outputs(split)) == {"f1": 50, "exact_match": 0}


def test_offsets_are_characters_of_any_text() -> None:
    context = "\U0001f600\U0001f469\u200d\U0001f467 Cafe\u0301 CAF\u00c9 \u4e2d\u4e2d. \U0001f600x"
    for answer in ("Cafe\u0301", "CAF\u00c9", "\u4e2d\u4e2d", "\u4e2d.", "\u00c9 \u4e2d", "x"):
        split = make_split(question(f"b {context}", answer), length=12, stride=3)
        (found,) = split.predictions(gold_outputs(split))
        begin = context.index(answer) + 2
        if answer == "\u00c9 \u4e2d":  # its first token is all of CAFÉ
            begin, answer = begin - 3, "CAF\u00c9 \u4e2d"
        if answer == "x":  # a word with the character before it, unknown
            begin, answer = begin - 1, "\U0001f600x"
        assert (found["answer"], found["begin"]) == (answer, begin)
        assert found["end"] == begin + len(answer)


def naive_answer(
    bounds: list[tuple[int, int]], logits: list[np.ndarray], answer_length: int
) -> tuple[float, int, int]:
    """The best span by trying all of them: (-score, first token, last token)."""
    tokens = bounds[-1][1]

    def context(window: int, at: int) -> float:
        begin, end = bounds[window]
        left = at - begin if begin > 0 else np.inf
        right = end - 1 - at if end < tokens else np.inf
        return min(left, right) if begin <= at < end else -1

    spans = []
    for window, ((begin, end), values) in enumerate(zip(bounds, logits, strict=True)):
        for first in range(begin, end):
            contexts = [context(other, first) for other in range(len(bounds))]
            if contexts.index(max(contexts)) == window:
                for last in range(first, min(end, first + answer_length)):
                    score = float(values[first - begin, 0] + values[last - begin, 1])
                    spans.append((-score, first, last))
    return min(spans)


def test_the_best_span_is_that_of_a_search_through_all() -> None:
    rng = np.random.default_rng(3)
    ends_at_limit = later_windows = 0
    for tokens, question_tokens, stride, answer_length in itertools.product(
        (1, 2, 8, 13, 26), (1, 3), (1, 4, 8), (1, 2, 5, 30)
    ):
        context = " ".join(LETTERS[:tokens])
        split = make_split(
            question(context, "a", text="q " * question_tokens),
            length=question_tokens + 11,
            stride=stride,
            answer_length=answer_length,
        )
        begins = [*range(0, max(tokens - 8, 0), stride), max(tokens - 8, 0)]
        bounds = [(begin, min(begin + 8, tokens)) for begin in begins]
        for levels in (2, 4, 1000):  # with few, most scores are equal to another
            outputs = [
                rng.integers(levels, size=(size, 2)).astype(np.float32)
                for size in split.inputs.sizes
            ]
            outputs[0][: question_tokens + 2] += 5000  # no answer is there, nor in the last [SEP]
            outputs[-1][-1] += 5000
            parts = [output[question_tokens + 2 : -1] for output in outputs]
            score, first, last = naive_answer(bounds, parts, answer_length)
            (found,) = split.predictions(outputs)
            assert found["answer"] == context[2 * first : 2 * last + 1]
            assert (found["begin"], found["end"]) == (2 * first, 2 * last + 1)
            assert found["score"] == -score
            assert found["null_score"] == min(float(output[0].sum()) for output in outputs)
            ends_at_limit += last - first + 1 == answer_length > 1
            later_windows += first >= 8
    assert min(ends_at_limit, later_windows) > 10


def test_a_start_with_little_context_is_not_believed() -> None:
    split = make_split(question(" ".join(LETTERS[:20]), "c"), length=14, stride=5)
    # Token 6 is in the windows from 0 and from 5, the second of which begins just before it.
    outputs = gold_outputs(split)
    outputs[1][3 + 1] = 9
    assert next(split.predictions(outputs))["answer"] == "c"
    outputs[0][3 + 6] = 9
    assert next(split.predictions(outputs))["answer"] == "g"


def test_answers_are_limited_in_tokens() -> None:
    for answer_length, answer in ((1, "c"), (3, "c"), (4, "c d e f"), (30, "c d e f")):
        split = make_split(question("a b c d e f g", "c d e f"), answer_length=answer_length)
        assert next(split.predictions(gold_outputs(split)))["answer"] == answer


def test_no_answer_is_predicted_over_the_best_threshold() -> None:
    context = "a b c d"
    questions = [
        question(context, "c", id="0"),
        question(context, id="1"),
        question(context, "b c", "b", id="2"),
        question(context, id="3"),
    ]
    split = make_split(*questions)
    assert np.asarray(split.inputs.labels).tolist() == [[5, 5], [0, 0], [4, 5], [0, 0]]
    outputs = gold_outputs(split)
    for output, null in zip(outputs, (1.0, 2.5, 1.5, 2.25), strict=True):
        output[:, :] = 0
        output[0, 0] = null
    for output, (begin, end) in zip(outputs, ((5, 5), (4, 4), (4, 4), (3, 6)), strict=True):
        output[begin, 0] = output[end, 1] = 1
    # Differences of -1, 0.5, -0.5 and 0.25.
    scores = split.scores(outputs)
    assert scores == {
        "f1": 100,
        "exact_match": 100,
        "has_answer_exact_match": 100,
        "has_answer_f1": 100,
        "no_answer_exact_match": 100,
        "no_answer_threshold": -0.125,
    }
    assert list(scores)[:2] == ["f1", "exact_match"]
    rows = list(split.predictions(outputs))
    assert rows[2] == {
        "id": "2",
        "question": "q",
        "answer": "b",
        "begin": 2,
        "end": 3,
        "score": 2.0,
        "null_score": 1.5,
        "golds": ["b c", "b"],
    }
    assert rows[3] | {"question": ""} == {
        "id": "3",
        "question": "",
        "answer": "",
        "begin": 0,
        "end": 0,
        "score": 2.0,
        "null_score": 2.25,
        "golds": [],
    }
    json.dumps(rows)

    # A threshold of the run, or 0 where it has none, is not chosen on what is scored.
    for stored, f1 in (({}, 100), ({"dev_no_answer_threshold": 9.0}, 50)):
        split.tuned_by(stored)
        scores = split.scores(outputs)
        assert scores["f1"] == f1
        assert scores["no_answer_threshold"] == stored.get("dev_no_answer_threshold", 0)
        assert scores["best_f1"] == 100 and scores["best_f1_threshold"] == -0.125

    split = make_split(*questions)
    outputs[0][0] = 9  # now an answer costs more than it gains
    outputs[2][0] = 9
    scores = split.scores(outputs)
    assert scores["f1"] == 50 and scores["no_answer_threshold"] == np.finfo(np.float32).min


def test_an_answer_is_always_given_where_all_questions_have_one() -> None:
    split = make_split(question("a b c", "b"), question("a b c", "c"))
    outputs = gold_outputs(split)
    for output in outputs:
        output[0] = 9
    assert split.scores(outputs) == {"f1": 100, "exact_match": 100}
    assert [row["answer"] for row in split.predictions(outputs)] == ["b", "c"]


def test_one_window_with_an_answer_is_enough() -> None:
    context = " ".join(LETTERS[:20])
    split = make_split(question(context, "b"), question(context), length=14, stride=5)
    outputs = gold_outputs(split)
    for window, null in enumerate((7, 1, 3)):
        outputs[window][0] = null, 1
    first, second = split.predictions(outputs)
    assert first["null_score"] == 2 and first["answer"] == "b"
    assert second["null_score"] == 2 and second["answer"] == ""


def test_constant_outputs_answer_nothing() -> None:
    questions = [question("a b", "a"), question("a b"), question("b c")]
    split = make_split(*questions)
    assert split.scores(split.constant_outputs())["no_answer_exact_match"] == 100
    rows = list(split.predictions(split.constant_outputs()))
    assert [row["answer"] for row in rows] == ["", "", ""]
    assert all(row["null_score"] > row["score"] for row in rows)
    scores = make_split(questions[0], question("c d", "d")).scores
    assert scores(make_split(*questions[:2]).constant_outputs())["exact_match"] == 50


def test_questions_are_cut_and_never_empty() -> None:
    texts = ["a b c", "a b c d", NOTHING, "abcdef"]
    split = make_split(*(question("a b", "b", text=text) for text in texts), question_length=3)
    a = [WORDPIECE.encode(text)[:3].tolist() for text in texts]
    a[2] = [WORDPIECE.special.unk]
    assert [each.tolist() for each in split.inputs.a] == a
    assert np.asarray(split.inputs.labels)[:, 0].tolist() == [6, 6, 4, 6]
    assert split.notes == "2 questions cut to 3 tokens"


def test_what_has_no_tokens_is_named_or_counted() -> None:
    with pytest.raises(UserError, match="a.json: x has a context without tokens: remove"):
        make_split(question("a b", "b"), question(NOTHING * 2, NOTHING, location="a.json: x"))
    split = make_split(question(f"a {NOTHING} b", NOTHING), question("a", "a"))
    assert np.asarray(split.inputs.labels).tolist() == [[0, 0], [3, 3]]
    assert split.notes == "1 answers that fit no window"


def test_a_question_must_leave_room() -> None:
    asked = question("a b c", "b", text="a b c d e", location="a.json: x")
    assert len(make_split(asked, length=16).inputs) == 1
    with pytest.raises(UserError) as raised:
        make_split(asked, length=15)
    assert str(raised.value) == (
        "a.json: x has a question of 5 tokens, which leaves 7 of --config.data.length=15"
        " for the context, less than 8: raise it, or lower --config.data.question_length=64"
    )
    assert len(make_split(asked, length=15, question_length=4).inputs) == 1
    with pytest.raises(UserError, match="which leaves 0 of --config.data.length=7"):
        make_split(asked, length=7)


def write_rows(path: Path, questions: list[Question]) -> str:
    rows = []
    for number, each in enumerate(questions):
        answers = {
            "text": [answer.text for answer in each.answers],
            "answer_start": [answer.begin for answer in each.answers],
        }
        row = {"id": number, "question": each.question, "context": each.context}
        rows.append(json.dumps(row | {"answers": answers}))
    path.write_text("\n".join(rows))
    return str(path)


def test_misplaced_answers_are_refused_or_counted(tmp_path: Path) -> None:
    good, bad = Answer("b", 2), Answer("b", 3)
    answers = [(good,), (bad, good), (bad,), (bad, bad), ()]
    questions = [Question("", "q", "a b c", each, "") for each in answers]
    source = write_rows(tmp_path / "a.jsonl", questions)
    with pytest.raises(
        UserError, match=r"a.jsonl:2 has the answer 'b' of question '1', which is not at"
    ):
        read_span_split(source, TaskDataConfig(), WORDPIECE)
    split = read_span_split(source, TaskDataConfig(skip_bad_rows=True), WORDPIECE)
    assert split.notes == (
        "1 without an answer; left out: answer that is not in its text (4), question without a"
        " right answer (2)"
    )
    assert split.examples == 3
    assert np.asarray(split.inputs.labels).tolist() == [[4, 4], [4, 4], [0, 0]]
    assert [row["golds"] for row in split.predictions(gold_outputs(split))] == [["b"], ["b"], []]


def test_a_task_has_a_training_and_several_held_out_sources(tmp_path: Path) -> None:
    sources = [
        write_rows(tmp_path / f"{name}.jsonl", random_questions(count, seed=count))
        for name, count in (("train", 5), ("first", 3), ("second", 2))
    ]
    config = TaskDataConfig(train=sources[0], dev=", ".join(sources[1:]), length=128)
    task = read_span_task(config, WORDPIECE)
    assert task.labels == [] and task.train.examples == 5
    assert {name: split.examples for name, split in task.dev.items()} == {"dev": 3, "dev2": 2}
    assert read_span_task(config, WORDPIECE).fingerprint() == task.fingerprint()
    config.length = 100
    assert read_span_task(config, WORDPIECE).fingerprint() != task.fingerprint()


def test_a_long_context_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    words = 100_000
    context = " ".join(itertools.islice(itertools.cycle(LETTERS), words - 2)) + " station cafe"
    encoded = []
    encode = WORDPIECE.encode_with_offsets
    monkeypatch.setattr(
        WORDPIECE, "encode_with_offsets", lambda text: encoded.append(text) or encode(text)
    )
    asked = [question(context, "station"), question("a b", "b"), question(context, "z a")]
    split = make_split(*asked, length=384, stride=128)
    assert encoded == [context, "a b"]
    windows = -(-(words - 380) // 128) + 1
    assert len(split.inputs) == 2 * windows + 1
    assert split.scores(gold_outputs(split)) == {"f1": 100, "exact_match": 100}
    (found, *_) = split.predictions(gold_outputs(split))
    assert found["begin"] == 2 * (words - 2)


def test_questions_without_gold_are_answered() -> None:
    pairs = [("q", "a b station"), ("q r", "c d")]
    inputs = encode_questions(pairs, WORDPIECE, TaskDataConfig())
    assert inputs.bounds.tolist() == [[0, 3], [0, 2]] and inputs.windows.tolist() == [1, 1]
    assert inputs.cut == 0 and inputs.contexts == ["a b station", "c d"]
    outputs = [np.zeros((7, 2), np.float32), np.zeros((7, 2), np.float32)]
    outputs[0][5, 0], outputs[0][5, 1], outputs[0][0, 0] = 3, 2, 6
    outputs[1][0, 0] = 0.5
    answers = [Prediction("station", 4, 11, 5.0, 6.0), Prediction("c", 0, 1, 0.0, 0.5)]
    nothing = [Prediction("", 0, 0, each.score, each.null_score) for each in answers]
    assert inputs.answers(outputs, 30) == answers
    assert inputs.answers(outputs, 30, threshold=1.0) == answers
    assert inputs.answers(outputs, 30, threshold=0.9) == [nothing[0], answers[1]]
    assert inputs.answers(outputs, 30, threshold=-np.inf) == nothing

    empty = encode_questions([], WORDPIECE, TaskDataConfig())
    assert empty.answers([], 30) == [] and empty.bounds.shape == (0, 2)
    with pytest.raises(UserError, match="^question 1 has a context without tokens"):
        encode_questions([("q", "a"), ("q", NOTHING)], WORDPIECE, TaskDataConfig())


def test_foreign_outputs_are_refused() -> None:
    split = make_split(question("a b c", "b"))
    for outputs in ([], [np.zeros((7, 3))], [np.zeros((8, 2))], [np.zeros((7, 2))] * 2):
        with pytest.raises(ValueError, match="not .size, 2. of each input"):
            split.scores(outputs)
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not finite"):
            split.scores([np.full((7, 2), value)])
