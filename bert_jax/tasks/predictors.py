"""Predictions of fine-tuned checkpoints for new text, one predictor for each kind of task."""

import abc
import functools
import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from scipy.special import softmax

from bert_jax.config import EncoderConfig, TaskKind
from bert_jax.data.tasks.classes import class_predictions, encode_inputs
from bert_jax.data.tasks.rows import TaskInputs, input_sizes
from bert_jax.data.tasks.spans import encode_questions
from bert_jax.data.tasks.splits import Outputs
from bert_jax.data.tasks.tables import as_text, shown
from bert_jax.data.tasks.tag_schemes import Tagging, entities, tagging_of_labels
from bert_jax.data.tasks.tags import encode_words, entities_of_words, split_words
from bert_jax.data.tasks.vectors import cosines
from bert_jax.errors import UserError
from bert_jax.tasks.finetuned import FineTuned
from bert_jax.text.tokenizer import check_unicode
from bert_jax.text.wordpiece import is_removed

_Word = tuple[str, int, int]  # the word, and the characters where it begins and ends


class Predictor(abc.ABC):
    """Predicts for inputs (text, second text or '') as the task's training data had them."""

    def __init__(self, tuned: FineTuned, batch_size: int) -> None:
        """Makes a predictor.

        Args:
          tuned: a checkpoint of the task's kind.
          batch_size: inputs in a batch.
        """
        self._tuned, self._batch_size = tuned, batch_size

    @abc.abstractmethod
    def check(self, text: str, pair: str) -> None:
        """Checks an input before any is predicted.

        Raises:
          UserError: for a text that is empty, or a second text that is missing or that the task
            does not have.
        """

    @abc.abstractmethod
    def __call__(self, inputs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Returns a JSON-ready prediction for each input, all of which pass `check`."""

    @staticmethod
    @abc.abstractmethod
    def show(prediction: dict[str, Any]) -> str:
        """Returns a prediction as text for people."""

    def _outputs(self, a: list[np.ndarray], b: list[np.ndarray]) -> Outputs:
        special = self._tuned.tokenizer.special
        labels = self._tuned.no_labels(input_sizes(a, b, special))
        inputs = TaskInputs(a, b, labels, np.arange(len(a)), special)
        return self._tuned.outputs(inputs, batch_size=self._batch_size)


class WholeInputs(Predictor):
    """Base of the tasks about whole inputs: a text or a pair of texts."""

    def check(self, text: str, pair: str) -> None:
        """See `Predictor.check`."""
        _check_not_empty(text)
        are_pairs = bool(self._tuned.config.data.text_pair_column)
        if is_empty(pair) == are_pairs:
            wanted = "pairs: TEXT, a tab, TEXT" if are_pairs else "single texts"
            raise UserError(f"{text!r} does not suit the task, whose inputs are {wanted}")

    def _read(self, inputs: Sequence[tuple[str, str]]) -> tuple[Outputs, list[dict[str, Any]]]:
        """Returns the outputs, and for each input its texts and, if it was cut, `cut_to`.

        Texts are cut to `data.length` tokens, as in training and by `evaluate`.
        """
        tuned, length = self._tuned, self._tuned.config.data.length
        # Tables are read without the white space around a text, too.
        firsts, seconds = ([text.strip() for text in side] for side in zip(*inputs, strict=True))
        a, b, cut = encode_inputs(firsts, seconds, tuned.tokenizer, length)
        told = [
            texts(*pair) | ({"cut_to": length} if is_cut else {})
            for pair, is_cut in zip(inputs, cut, strict=True)
        ]
        return self._outputs(a, b), told


class Classes(WholeInputs):
    """The probability of each label."""

    def __call__(self, inputs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Returns for each input `text`, `label` (the likeliest), and `probabilities` by label."""
        outputs, told = self._read(inputs)
        logits = np.stack(outputs).astype(np.float64)
        predicted = class_predictions(softmax(logits, axis=-1), self._tuned.labels)
        return [one | other for one, other in zip(told, predicted, strict=True)]

    @staticmethod
    def show(prediction: dict[str, Any]) -> str:
        """See `Predictor.show`."""
        ranked = sorted(prediction["probabilities"].items(), key=lambda item: -item[1])
        return "\n".join([shown_texts(prediction), *(f"  {p:.4f}  {label}" for label, p in ranked)])


class Numbers(WholeInputs):
    """A number."""

    def __call__(self, inputs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Returns for each input `text` and `value`."""
        outputs, told = self._read(inputs)
        return [one | {"value": float(each[0])} for one, each in zip(told, outputs, strict=True)]

    @staticmethod
    def show(prediction: dict[str, Any]) -> str:
        """See `Predictor.show`."""
        return f"{shown_texts(prediction)}\n  {prediction['value']:.4f}"


class Tags(Predictor):
    """Entities in raw text, or a class for each of its words."""

    def check(self, text: str, pair: str) -> None:
        """See `Predictor.check`."""
        _check_not_empty(text)
        if pair:
            raise UserError(f"{text!r} has a second text, but the task's inputs are single texts")

    def __call__(self, inputs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Returns for each input `text` and `entities`; or `words`, if labels mark no entities.

        An entity has `type`, `text`, `begin` and `end` (in characters), and `probability`, the
        lowest of its words. A word has `tag` instead of `type`.
        """
        labels, tagging = self._tuned.labels, self._tagging
        words = [split_words(text) for text, _ in inputs]
        probabilities = self._probabilities([[word for word, _, _ in each] for each in words])
        name, find = "words", _tag_words
        if tagging.marks_entities:
            name, find = "entities", functools.partial(_find_entities, tagging=tagging)
        return [
            {"text": text, name: find(text, spans, each, labels)}
            for (text, _), spans, each in zip(inputs, words, probabilities, strict=True)
        ]

    def tag_words(self, sentences: Sequence[list[str]]) -> list[dict[str, Any]]:
        """Predicts for words, as training and `evaluate` do; raw text is split by `split_words`.

        Args:
          sentences: the words of each, at least one, none of them blank.

        Returns:
          For each sentence `words`, and `tags` and `probabilities`, one for each word; if labels
          mark entities also `entities`, as `TagSplit.predictions` has them.
        """
        labels, tagging = self._tuned.labels, self._tagging
        predictions = []
        for words, rows in zip(sentences, self._probabilities(sentences), strict=True):
            tags = [labels[number] for number in rows.argmax(axis=1)]
            told = {"words": words, "tags": tags, "probabilities": rows.max(axis=1).tolist()}
            if tagging.marks_entities:
                told["entities"] = entities_of_words(words, tags, tagging)
            predictions.append(told)
        return predictions

    @property
    def _tagging(self) -> Tagging:
        return tagging_of_labels(self._tuned.labels, self._tuned.config.data.tag_scheme)

    def _probabilities(self, sentences: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Returns the probability of each label for each word: [words, C] float32 each."""
        data = self._tuned.config.data
        encoded = encode_words(sentences, self._tuned.tokenizer, data.length, data.stride)
        return encoded.probabilities(self._outputs(encoded.a, encoded.b))

    @staticmethod
    def show(prediction: dict[str, Any]) -> str:
        """See `Predictor.show`."""
        lines = []
        for each in prediction.get("entities", prediction.get("words", [])):
            kind = each.get("type", each.get("tag"))
            span = f"{each['begin']}-{each['end']}"
            lines.append(f"  {each['probability']:.4f}  {kind:14}{span:>9}  {each['text']}")
        return "\n".join([prediction["text"], *(lines or ["  no entity"])])

    @staticmethod
    def show_words(prediction: dict[str, Any]) -> str:
        """Returns a prediction of `tag_words` as text for people, a word a line."""
        columns = prediction["probabilities"], prediction["tags"], prediction["words"]
        lines = [f"  {p:.4f}  {tag:14}{word}" for p, tag, word in zip(*columns, strict=True)]
        return "\n".join(lines)


def check_words(words: object) -> list[str]:
    """Returns the words of a sentence as `tagged_files` reads them from a record.

    Raises:
      UserError: if it is no list of words, or one has half of a surrogate pair.
    """
    found = [as_text(word) for word in words] if isinstance(words, list) else []
    if not found or not all(word and word.strip() for word in found):
        raise UserError(
            f'{shown(words)} is no list of words: write a JSON list such as ["U.S.", "won"]'
        )
    sentence = cast("list[str]", found)
    check_unicode(sentence)
    return sentence


def _tag_words(
    text: str, words: list[_Word], probabilities: np.ndarray, labels: list[str]
) -> list[dict[str, Any]]:
    return [
        {
            "tag": labels[int(row.argmax())],
            "text": text[begin:end],
            "begin": begin,
            "end": end,
            "probability": float(row.max()),
        }
        for (_, begin, end), row in zip(words, probabilities, strict=True)
    ]


def _find_entities(
    text: str, words: list[_Word], probabilities: np.ndarray, labels: list[str], tagging: Tagging
) -> list[dict[str, Any]]:
    found = []
    tags = [labels[number] for number in probabilities.argmax(axis=1)]
    for kind, first, last in entities(tags, tagging):
        begin, end = words[first][1], words[last - 1][2]
        lowest = float(probabilities[first:last].max(axis=1).min())
        span = {"text": text[begin:end], "begin": begin, "end": end}
        found.append({"type": kind, **span, "probability": lowest})
    return found


class Answers(Predictor):
    """The span of a text that answers a question: inputs are (question, text)."""

    def check(self, text: str, pair: str) -> None:
        """See `Predictor.check`."""
        _check_not_empty(text)
        if is_empty(pair):
            raise UserError(
                f"{text!r} has no text to find the answer in: give QUESTION, a tab, TEXT"
            )

    def __call__(self, inputs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Returns for each `question`, `answer`, `begin`, `end`, `score` and `null_score`.

        `begin` and `end` are in characters. A model trained on questions without answers gives ""
        where `null_score` is above `score` by more than its threshold. An imported one stores no
        threshold: it always gives a span.
        """
        tuned, data = self._tuned, self._tuned.config.data
        encoded = encode_questions(inputs, tuned.tokenizer, data)
        threshold = tuned.scores.get("dev_no_answer_threshold", math.inf)
        outputs = self._outputs(encoded.a, encoded.b)
        answers = encoded.answers(outputs, data.answer_length, threshold)
        return [
            {
                "question": question,
                "answer": answer.text,
                "begin": answer.begin,
                "end": answer.end,
                "score": answer.score,
                "null_score": answer.null_score,
            }
            for (question, _), answer in zip(inputs, answers, strict=True)
        ]

    @staticmethod
    def show(prediction: dict[str, Any]) -> str:
        """See `Predictor.show`."""
        if not prediction["answer"]:
            return f"{prediction['question']}\n  no answer"
        span = f"{prediction['begin']}-{prediction['end']}"
        return f"{prediction['question']}\n  {prediction['answer']}  ({span})"


class Similarities(Predictor):
    """The cosine of the vectors of two texts: inputs are pairs."""

    def check(self, text: str, pair: str) -> None:
        """See `Predictor.check`."""
        _check_not_empty(text)
        if is_empty(pair):
            raise UserError(
                f"{text!r} has no second text to compare: give TEXT, a tab, TEXT; vectors of single"
                " texts are written by --features=of_checkpoint"
            )

    def __call__(self, inputs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Returns for each input `text`, `text_pair` and `cosine`.

        Texts are cut to `data.length` tokens, as in training and by `evaluate`.
        """
        config, tuned = self._tuned.config, self._tuned
        sides = []
        prompts = config.vectors.query_prompt, config.vectors.text_prompt
        for prompt, of_side in zip(prompts, zip(*inputs, strict=True), strict=True):
            whole, nothing = [prompt + text.strip() for text in of_side], [""] * len(of_side)
            a, b, _ = encode_inputs(whole, nothing, tuned.tokenizer, config.data.length)
            sides.append(np.stack(self._outputs(a, b)))
        near = cosines(*sides)
        return [
            texts(*pair) | {"cosine": float(each)} for pair, each in zip(inputs, near, strict=True)
        ]

    @staticmethod
    def show(prediction: dict[str, Any]) -> str:
        """See `Predictor.show`."""
        return f"{shown_texts(prediction)}\n  {prediction['cosine']:.4f}"


PREDICTORS: dict[TaskKind, type[Predictor]] = {
    TaskKind.CLASSIFICATION: Classes,
    TaskKind.REGRESSION: Numbers,
    TaskKind.TAGS: Tags,
    TaskKind.SPANS: Answers,
    TaskKind.VECTORS: Similarities,
}


def check_fits(text: str, size: int, encoder: EncoderConfig) -> None:
    """Raises UserError if a text has more tokens than the encoder has positions."""
    if size > encoder.max_length:
        raise UserError(
            f"{text[:40]!r}... has {size} tokens, and the model has positions for"
            f" {encoder.max_length}: shorten or split it"
        )


def is_empty(text: str) -> bool:
    """Returns True for a text of white space, and of what tokenizers remove as invisible."""
    return all(character.isspace() or is_removed(character) for character in text)


def _check_not_empty(text: str) -> None:
    if is_empty(text):
        raise UserError("the input is empty: give it some text")


def texts(text: str, pair: str) -> dict[str, Any]:
    """Returns the texts of an input by name, for a prediction."""
    return {"text": text} | ({"text_pair": pair} if pair else {})


def shown_texts(prediction: dict[str, Any]) -> str:
    """Returns the texts of a prediction's input, for people."""
    shown = "\t".join(prediction[name] for name in ("text", "text_pair") if name in prediction)
    length = prediction.get("cut_to")
    return f"{shown}\n  (cut to {length} tokens, as in training)" if length else shown
