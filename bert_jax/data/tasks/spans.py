"""Extractive question answering, as BERT does SQuAD (Devlin et al., 2019, section 4).

A is the question, B a window of the context. The outputs of a token are its start and end logits;
those of [CLS] are for no answer in the window.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bert_jax.config import TaskDataConfig
from bert_jax.data.packing.windows import most_context, window_bounds
from bert_jax.data.tasks.metrics import answer_scores, best_no_answer_threshold
from bert_jax.data.tasks.question_files import Answer, Questions, read_questions
from bert_jax.data.tasks.rows import TaskInputs, input_sizes
from bert_jax.data.tasks.splits import Outputs, Split, Task, dev_sources
from bert_jax.errors import UserError
from bert_jax.text.tokenizer import Encoded, SpecialIds, Tokenizer

_LEAST_CONTEXT = 8  # tokens of context that a window must have room for


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction:
    """A predicted answer."""

    text: str  # context[begin:end], '' for no answer
    begin: int  # character (code point) of the context
    end: int
    score: float  # start logit + end logit of the best span, even if the answer is none
    null_score: float  # start logit + end logit of [CLS], in the window where it is smallest

    @property
    def null_difference(self) -> float:
        """The null score minus the score of the best span."""
        return self.null_score - self.score

    def unless_null(self, threshold: float) -> "Prediction":
        """Returns no answer if the null difference is above a threshold, else itself."""
        if self.null_difference > threshold:
            return dataclasses.replace(self, text="", begin=0, end=0)
        return self


@dataclasses.dataclass(frozen=True)
class QuestionInputs:
    """Q questions as I inputs of the encoder; `answers` maps its outputs back.

    Attributes:
      a: I int32 arrays, the question of each input.
      b: I int32 arrays, its window of the context.
      example_of: [I] int64, the question of each input, ascending.
      bounds: [I, 2] int64, begin and end of each window, in tokens of the context.
      contexts: the context of each question.
      encoded: its tokens and their offsets; one object for questions with the same context.
      special: tokens around question and context.
      cut: number of questions that were truncated.
    """

    a: list[np.ndarray]
    b: list[np.ndarray]
    example_of: np.ndarray
    bounds: np.ndarray
    contexts: list[str]
    encoded: list[Encoded]
    special: SpecialIds
    cut: int

    @property
    def windows(self) -> np.ndarray:
        """Number of inputs of each question, at least 1: [Q] int64."""
        return np.bincount(self.example_of, minlength=len(self.contexts))

    @property
    def before_context(self) -> int:
        """Special tokens before the context: [CLS] and the separators."""
        return self.special.of_pair - 1

    def answers(
        self, outputs: Outputs, answer_length: int, threshold: float = np.inf
    ) -> list[Prediction]:
        """Returns the best answer to each question.

        It is the span with the highest sum of start and end logits in any window; of equal ones the
        first. A start token counts only in the window that gives it the most context.

        Args:
          outputs: for each input [size, 2] float32, the start and end logits of its tokens.
          answer_length: tokens of an answer, at most.
          threshold: predicts no answer if the null difference is above it.

        Returns:
          Q predictions.

        Raises:
          ValueError: if the outputs do not fit the inputs, or are not finite.
        """
        sizes = input_sizes(self.a, self.b, self.special).tolist()
        if [(size, 2) for size in sizes] != [np.shape(output) for output in outputs]:
            raise ValueError("the outputs are not [size, 2] of each input")
        if not all(np.isfinite(output).all() for output in outputs):
            raise ValueError("an output is not finite")
        predictions = []
        ends = np.cumsum(self.windows)
        for number, (first, end) in enumerate(zip(ends - self.windows, ends, strict=True)):
            of_question = [np.asarray(output, np.float64) for output in outputs[first:end]]
            context = slice(len(self.a[first]) + self.before_context, -1)  # the last is a [SEP]
            score, first_token, last_token = _best_span(
                self.bounds[first:end], [output[context] for output in of_question], answer_length
            )
            null_score = min(float(output[0].sum()) for output in of_question)
            predictions.append(self._prediction(number, first_token, last_token, score, null_score))
        return [prediction.unless_null(threshold) for prediction in predictions]

    def _prediction(
        self, number: int, first: int, last: int, score: float, null_score: float
    ) -> Prediction:
        encoded = self.encoded[number]
        begin, end = int(encoded.begins[first]), int(encoded.ends[last])
        return Prediction(self.contexts[number][begin:end], begin, end, score, null_score)


def _best_span(
    bounds: np.ndarray, logits: Sequence[np.ndarray], answer_length: int
) -> tuple[float, int, int]:
    """Finds the best span of a text: (score, first token, last token).

    Args:
      bounds: [W, 2] of `window_bounds`.
      logits: for each window [tokens, 2].
      answer_length: tokens, at most.
    """
    chosen = most_context(bounds)
    best = (-np.inf, 0, 0)
    for window, ((begin, end), values) in enumerate(zip(bounds.tolist(), logits, strict=True)):
        starts, ends = values.T
        band = min(answer_length, end - begin)
        padded = np.append(ends, np.full(band - 1, -np.inf))
        ends_of_start = np.lib.stride_tricks.sliding_window_view(padded, band)
        scores = starts + ends_of_start.max(axis=1)
        scores[chosen[begin:end] != window] = -np.inf
        first = int(scores.argmax())
        if scores[first] > best[0]:
            last = first + int(ends_of_start[first].argmax())
            best = (float(scores[first]), begin + first, begin + last)
    return best


def encode_questions(
    pairs: Sequence[tuple[str, str]],
    tokenizer: Tokenizer,
    config: TaskDataConfig,
    locations: Sequence[str] = (),
) -> QuestionInputs:
    """Tokenises questions and the windows of their contexts.

    Args:
      pairs: (question, context) of each; a repeated context is encoded once.
      tokenizer: of the checkpoint.
      config: sets `length`, `stride` and `question_length`.
      locations: of each question, for messages; by default its index.

    Raises:
      UserError: if a context has no tokens, or a question leaves too little room for its context.
    """
    locations = locations or [f"question {number}" for number in range(len(pairs))]
    contexts = [context for _, context in pairs]
    encoded = _encode_contexts(contexts, tokenizer, locations)
    unknown = np.array([tokenizer.special.unk], np.int32)
    questions = [
        ids if len(ids) else unknown
        for ids in tokenizer.encode_batch([question for question, _ in pairs])
    ]
    kept = [ids[: config.question_length] for ids in questions]
    bounds = [
        _window_bounds(
            config.length - tokenizer.special.of_pair - len(ids),
            (len(ids), len(context.ids)),
            config,
            location,
        )
        for ids, context, location in zip(kept, encoded, locations, strict=True)
    ]
    example_of = np.repeat(np.arange(len(pairs)), [len(windows) for windows in bounds])
    all_bounds = np.concatenate([np.zeros((0, 2), np.int64), *bounds])
    windows = zip(example_of.tolist(), all_bounds.tolist(), strict=True)
    return QuestionInputs(
        a=[kept[number] for number in example_of],
        b=[encoded[number].ids[begin:end] for number, (begin, end) in windows],
        example_of=example_of,
        bounds=all_bounds,
        contexts=contexts,
        encoded=encoded,
        special=tokenizer.special,
        cut=sum(len(ids) > config.question_length for ids in questions),
    )


def _encode_contexts(
    contexts: Sequence[str], tokenizer: Tokenizer, locations: Sequence[str]
) -> list[Encoded]:
    encoded: dict[str, Encoded] = {}
    for context, location in zip(contexts, locations, strict=True):
        if context not in encoded:
            encoded[context] = tokenizer.encode_with_offsets(context)
            if not len(encoded[context].ids):
                raise UserError(f"{location} has a context without tokens: remove the question")
    return [encoded[context] for context in contexts]


def _window_bounds(
    most: int, sizes: tuple[int, int], config: TaskDataConfig, location: str
) -> np.ndarray:
    """Returns the windows of a context, of `most` tokens each; `sizes` are question and context."""
    question, tokens = sizes
    if most < _LEAST_CONTEXT:
        raise UserError(
            f"{location} has a question of {question} tokens, which leaves {max(most, 0)} of"
            f" --config.data.length={config.length} for the context, less than {_LEAST_CONTEXT}:"
            f" raise it, or lower --config.data.question_length={config.question_length}"
        )
    return window_bounds(tokens, most, min(config.stride, most))


class SpanSplit(Split):
    """A split of questions with answers.

    Attributes:
      answered: number of questions with an answer.
    """

    def __init__(self, questions: Questions, config: TaskDataConfig, tokenizer: Tokenizer) -> None:
        """Tokenises questions.

        Args:
          questions: from `read_questions`.
          config: as for `encode_questions`.
          tokenizer: of the checkpoint.

        Raises:
          UserError: as `encode_questions`.
        """
        self._questions = questions.questions
        self._golds = [[answer.text for answer in each.answers] for each in self._questions]
        self._answer_length = config.answer_length
        pairs = [(each.question, each.context) for each in self._questions]
        locations = [each.location for each in self._questions]
        self._encoded = encoded = encode_questions(pairs, tokenizer, config, locations)
        spans = [
            _answer_tokens(each.answers, tokens)
            for each, tokens in zip(self._questions, encoded.encoded, strict=True)
        ]
        labels = _labels(encoded, np.array(spans, np.int64))
        self.inputs = TaskInputs(
            encoded.a, encoded.b, labels, encoded.example_of, tokenizer.special
        )
        self.examples = len(pairs)
        self.answered = sum(map(bool, self._golds))
        self._threshold: float | None = None
        self.notes = _notes(questions, encoded, labels, config.question_length)

    def scores(self, outputs: Outputs) -> dict[str, float]:
        """Scores the answers as SQuAD does.

        If some questions are unanswerable, no answer is predicted where the null difference is
        above a threshold: that of `tuned_by`, or else the one that gives these outputs the best F1,
        as BERT chose it on the dev set. If all have answers, a span is always predicted.

        Args:
          outputs: for each input [size, 2] float32.

        Returns:
          The scores of `answer_scores`, `f1` first; with a threshold also `no_answer_threshold`, in
          logits. If it is best never to answer, that is the lowest float32, since JSON has no
          infinity. With the threshold of `tuned_by` also `best_f1` and `best_f1_threshold`: what
          a threshold chosen on these outputs would give.

        Raises:
          ValueError: if the outputs do not fit the inputs, or are not finite.
        """
        best = self._encoded.answers(outputs, self._answer_length)
        predictions, threshold = self._predictions(best)
        scores = answer_scores([each.text for each in predictions], self._golds)
        lowest = float(np.finfo(np.float32).min)
        found = {} if threshold is None else {"no_answer_threshold": max(threshold, lowest)}
        if self._threshold is not None and not all(self._golds):
            chosen, f1 = self._best_threshold(best)
            found |= {"best_f1": f1, "best_f1_threshold": max(chosen, lowest)}
        return {"f1": scores.pop("f1")} | scores | found

    def tuned_by(self, scores: dict[str, float]) -> None:
        """See `Split.tuned_by`: the threshold of no answer; 0 for a model that tells none."""
        has_all = all(self._golds)
        self._threshold = scores.get("dev_no_answer_threshold", None if has_all else 0.0)

    def gold_text(self) -> str:
        """See `Split.gold_text`."""
        return json.dumps([question.context for question in self._questions] + self._golds)

    def _predictions(self, best: list[Prediction]) -> tuple[list[Prediction], float | None]:
        """Returns the best answers, or none in their place, and the threshold, if one is used."""
        if self._threshold is not None:
            return [each.unless_null(self._threshold) for each in best], self._threshold
        if all(self._golds):
            return best, None
        threshold, _ = self._best_threshold(best)
        return [each.unless_null(threshold) for each in best], threshold

    def _best_threshold(self, answers: Sequence[Prediction]) -> tuple[float, float]:
        differences = np.array([each.null_difference for each in answers])
        return best_no_answer_threshold([each.text for each in answers], differences, self._golds)

    def predictions(self, outputs: Outputs) -> Iterator[dict[str, Any]]:
        """Yields each question with its predicted answer, as in `scores`, and its gold answers."""
        best = self._encoded.answers(outputs, self._answer_length)
        predictions, _ = self._predictions(best)
        for question, golds, each in zip(self._questions, self._golds, predictions, strict=True):
            yield {
                "id": question.id,
                "question": question.question,
                "answer": each.text,
                "begin": each.begin,
                "end": each.end,
                "score": each.score,
                "null_score": each.null_score,
                "golds": golds,
            }

    def constant_outputs(self) -> Outputs:
        """Returns outputs that give no answer in any window."""
        outputs = [np.zeros((size, 2), np.float32) for size in self.inputs.sizes]
        for output in outputs:
            output[0] = 1
        return outputs


def _answer_tokens(answers: Sequence[Answer], encoded: Encoded) -> tuple[int, int]:
    """Returns the first and the last token that overlap the first answer, or (-1, -1)."""
    if not answers:
        return -1, -1
    begin, end = answers[0].begin, answers[0].begin + len(answers[0].text)
    touching = np.flatnonzero((encoded.ends > begin) & (encoded.begins < end))
    return (int(touching[0]), int(touching[-1])) if len(touching) else (-1, -1)


def _labels(inputs: QuestionInputs, spans: np.ndarray) -> np.ndarray:
    """Maps answers, [Q, 2] tokens of the contexts, to tokens of the inputs: [I, 2] int32."""
    begins, ends = inputs.bounds.T
    spans = spans[inputs.example_of]
    whole = (spans[:, 0] >= begins) & (spans[:, 1] < ends)
    context_at = np.array([len(ids) for ids in inputs.a], np.int64) + inputs.before_context
    placed = spans + (context_at - begins)[:, None]
    return np.where(whole[:, None], placed, 0).astype(np.int32)


def _notes(
    questions: Questions, inputs: QuestionInputs, labels: np.ndarray, question_length: int
) -> str:
    several = np.count_nonzero(inputs.windows > 1)
    answered = sum(bool(question.answers) for question in questions.questions)
    unanswered = len(questions.questions) - answered
    hidden = answered - len(np.unique(inputs.example_of[labels[:, 0] > 0]))
    notes = {
        f"{several} in several windows": several,
        f"{inputs.cut} questions cut to {question_length} tokens": inputs.cut,
        f"{hidden} answers that fit no window": hidden,
        f"{unanswered:,} without an answer": unanswered,
        questions.note: len(questions.note),
    }
    return "; ".join(note for note, counts in notes.items() if counts)


def read_span_split(source: str, config: TaskDataConfig, tokenizer: Tokenizer) -> SpanSplit:
    """Reads and tokenises the questions of a source.

    Raises:
      UserError: as `read_questions` and `encode_questions`.
    """
    questions = read_questions(source, skip_bad_rows=config.skip_bad_rows)
    return SpanSplit(questions, config, tokenizer)


def read_span_task(config: TaskDataConfig, tokenizer: Tokenizer) -> Task:
    """Reads and tokenises the training source and each held-out one.

    Raises:
      UserError: as `read_questions` and `encode_questions`; if no training question has an answer.
    """
    sources = dev_sources(config)
    dev = {name: read_span_split(each, config, tokenizer) for name, each in sources.items()}
    train = read_span_split(config.train, config, tokenizer)
    if not train.answered:
        raise UserError(
            f"{config.train} has no question with an answer: name another file, or write the"
            " answers into 'answers'"
        )
    return Task([], train, dev)
