"""Tasks of vectors: texts that belong together, and pairs of texts with a score."""

import abc
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bert_jax.config import TaskDataConfig, VectorLoss, VectorsConfig, vector_widths
from bert_jax.data.packing.ragged import exclusive_cumsum
from bert_jax.data.tasks.bad_rows import BadRow, BadRows
from bert_jax.data.tasks.classes import check_filled, encode_inputs
from bert_jax.data.tasks.labels import is_blank
from bert_jax.data.tasks.metrics import regression_scores, undefined_of_numbers
from bert_jax.data.tasks.question_files import read_questions
from bert_jax.data.tasks.rows import RightNumbers, TaskInputs, TextRoles
from bert_jax.data.tasks.splits import Outputs, Split, Task, dev_sources
from bert_jax.data.tasks.tables import Row, column, number_value, read_rows, shown, text_value
from bert_jax.errors import UserError
from bert_jax.text.tokenizer import Tokenizer

SCORED = (VectorLoss.COSINE, VectorLoss.COSENT)  # losses of pairs with a score

_MOST_RIGHTS = 1024  # right texts of a query: each is compared with every text of a batch
_BLOCK = 256  # queries that are searched for at a time


@dataclasses.dataclass(frozen=True, slots=True)
class TextExample:
    """The texts of a row, as the file has them."""

    texts: tuple[str, ...]  # the query, its right text, and wrong ones
    score: float  # of the first two; 0 where the file has none
    location: str  # file:line, for messages


class _Reader:
    """The columns that are read of a file."""

    def __init__(self, data: TaskDataConfig, vectors: VectorsConfig, *, training: bool) -> None:
        loss = vectors.loss
        self._data, self._vectors, self._training = data, vectors, training
        self.is_single = training and loss is VectorLoss.SIMCSE
        self.is_scored = loss in SCORED if training else bool(data.label_column)
        self._negatives = data.negative_columns if training and loss not in SCORED else ""

    def example(self, row: Row, location: str) -> TextExample:
        """Reads a row.

        Raises:
          BadRow: if a text is empty, or the score is no number.
          UserError: if a column is missing, or a score is higher than `vectors.highest_score`.
        """
        data = self._data
        text = text_value(row, data.text_column, location, "text_column")
        if self.is_single:
            return TextExample((text, text), 0.0, location)
        pair = text_value(row, data.text_pair_column, location, "text_pair_column")
        score = 0.0
        if self.is_scored:
            score = number_value(row, data.label_column, location, "label_column")
            self._check_score(score, location)
        wrong = [
            each
            for name in filter(None, self._negatives.split(","))
            for each in _wrong_texts(row, name, location)
        ]
        return TextExample((text, pair, *wrong), score, location)

    def _check_score(self, score: float, location: str) -> None:
        highest = self._vectors.highest_score
        is_cosine = self._training and self._vectors.loss is VectorLoss.COSINE
        if is_cosine and abs(score) > highest:
            raise UserError(
                f"{location} has the score {score:g}, and --config.vectors.highest_score="
                f"{highest:g} stands for a cosine of 1: set it to the highest score of the file"
            )


def _wrong_texts(row: Row, names: str, location: str) -> list[str]:
    """Returns the texts of a column of wrong ones: one, or a list."""
    value = column(row, names, location, "negative_columns")
    if not isinstance(value, list):
        return [text_value(row, names, location, "negative_columns")]
    for each in value:
        if not isinstance(each, str):
            raise UserError(f"{location} has {shown(each)} in {names!r}: write texts")
        if is_blank(each):
            problem = f"has an empty text in {names!r}: leave it out of the list"
            raise BadRow(location, f"empty text in {names!r}", problem)
    return [each.strip() for each in value]


def _read(source: str, data: TaskDataConfig, reader: _Reader) -> tuple[list[TextExample], str]:
    """Returns the usable examples of a source, at least one, and a note of what was left out."""
    bad = BadRows(source, skip=data.skip_bad_rows)
    if source.endswith(".json"):
        rows, note = _rows_of_questions(source, data)
    else:
        rows, note = read_rows(source, header=data.header, bad=bad), ""
    examples = []
    for location, row in rows:
        with bad.caught():
            examples.append(reader.example(row, location))
    bad.close(len(examples), "examples")
    return examples, "; ".join(filter(None, (note, bad.note)))


def _rows_of_questions(source: str, data: TaskDataConfig) -> tuple[Iterator[tuple[str, Row]], str]:
    """Returns place and columns of each answered question of a SQuAD file, and a note."""
    read = read_questions(source, skip_bad_rows=data.skip_bad_rows)
    answered = [question for question in read.questions if question.answers]
    more = len(read.questions) - len(answered)
    left_out = f"left out: questions without an answer ({more:,})" if more else ""
    rows: list[tuple[str, Row]] = [
        (each.location, {"question": each.question, "context": each.context}) for each in answered
    ]
    return iter(rows), "; ".join(filter(None, (read.note, left_out)))


class VectorSplit(Split):
    """A split of examples of several texts, of which the encoder sees each by itself.

    Attributes:
      texts: of each example, as the file has them.
      texts_of: [E, G] int64, the texts of each example by number; held out, they are the inputs.
    """

    _has_rights = True  # the second texts are right for the first ones

    def __init__(
        self,
        examples: Sequence[TextExample],
        tokenizer: Tokenizer,
        data: TaskDataConfig,
        vectors: VectorsConfig,
        *,
        training: bool,
        note: str = "",
    ) -> None:
        """Tokenises the texts, with the prompts of their columns.

        Args:
          examples: at least one.
          tokenizer: of the checkpoint.
          data: `length`; longer texts are truncated, and counted in `notes`.
          vectors: the prompts and widths.
          training: True makes inputs of all texts, with their roles; False an input of each
            different one.
          note: of what was left out.

        Raises:
          UserError: if nothing of a text is left, or one has too many right texts.
        """
        self.examples = len(examples)
        self.texts = [example.texts for example in examples]
        self.gold = np.array([example.score for example in examples], np.float32)
        self._widths = vector_widths(vectors.widths)
        self._normalised = vectors.normalised
        is_single = training and vectors.loss is VectorLoss.SIMCSE
        prompt = vectors.query_prompt if is_single else vectors.text_prompt
        encoded = _Encoded(examples, tokenizer, data.length, (vectors.query_prompt, prompt))
        self.texts_of = encoded.texts_of
        self._numbers = np.where(self.texts_of >= 0, encoded.numbers[self.texts_of], 0)
        pairs = self._numbers if self._has_rights else self._numbers[:0]
        self._rights = _right_numbers(pairs, int(self._numbers.max()))
        if self._rights.most > _MOST_RIGHTS:
            number = int(np.diff(self._rights.bounds).argmax())
            text = self.texts[int((self._numbers[:, 0] == number).argmax())][0]
            raise UserError(
                f"{shown(text)} has {self._rights.most:,} right texts, and {_MOST_RIGHTS:,} are the"
                " most: leave out some of its rows"
            )
        notes = [note, f"{encoded.cut:,} texts cut to {data.length} tokens" if encoded.cut else ""]
        self.notes = "; ".join(filter(None, notes))
        self.inputs = self._occurrences(encoded) if training else self._different(encoded)

    def _different(self, encoded: "_Encoded") -> TaskInputs:
        """Returns an input of each text."""
        tokens = encoded.tokens
        labels = np.zeros(len(tokens), np.float32)  # required, but not read
        return _inputs(tokens, labels, np.arange(len(tokens)), encoded.tokenizer)

    def _occurrences(self, encoded: "_Encoded") -> TaskInputs:
        """Returns an input of each text of each example, with its role."""
        example_of, columns = np.nonzero(self.texts_of >= 0)
        texts = self.texts_of[example_of, columns]
        tokens = [encoded.tokens[text] for text in texts]
        inputs = _inputs(tokens, self.gold[example_of], example_of, encoded.tokenizer)
        numbers = self._numbers[example_of, columns]
        roles = TextRoles(columns, self.texts_of.shape[1], numbers, self._rights)
        return dataclasses.replace(inputs, roles=roles)

    def gold_text(self) -> str:
        """See `Split.gold_text`."""
        parts = self.texts_of, self._numbers, self.gold
        return hashlib.blake2b(b"".join(part.tobytes() for part in parts)).hexdigest()

    def _sides(self, outputs: Outputs) -> tuple[np.ndarray, np.ndarray]:
        """Returns the vectors of queries and of their right texts, [E, D] float32 each."""
        vectors = np.stack(outputs)
        return vectors[self.texts_of[:, 0]], vectors[self.texts_of[:, 1]]

    @abc.abstractmethod
    def _scores_at(self, outputs: Outputs) -> dict[str, float]:
        """Returns the scores of vectors of one width."""

    def scores(self, outputs: Outputs) -> dict[str, float]:
        """See `Split.scores`; those of narrower vectors have the width in their names."""
        scores = self._scores_at(outputs)
        for width in self._widths:
            if width < len(outputs[0]):
                narrow = self._scores_at(self._narrowed(outputs, width))
                scores |= {f"{name}_{width}": score for name, score in narrow.items()}
        return scores

    def _narrowed(self, outputs: Outputs, width: int) -> Outputs:
        """Returns the beginnings of vectors, as the model would give them: [width] each."""
        narrow = np.stack(outputs)[:, :width]
        if not self._normalised:
            return list(narrow)
        lengths = np.linalg.norm(narrow, axis=1, keepdims=True)
        return list(narrow / np.where(lengths > 0, lengths, 1))

    def constant_outputs(self) -> Outputs:
        """See `Split.constant_outputs`: all texts have one vector."""
        return [np.ones(1, np.float32)] * len(self.inputs)

    def _with_texts(self, predictions: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for texts, prediction in zip(self.texts, predictions, strict=True):
            yield {"text": texts[0], "text_pair": texts[1]} | prediction


class ScoredPairs(VectorSplit):
    """A split of pairs with a score each, which the cosine of their vectors is compared with."""

    _has_rights = False

    def _scores_at(self, outputs: Outputs) -> dict[str, float]:
        found = regression_scores(self.gold, self._cosines(outputs))
        return {name: found[name] for name in ("spearman", "pearson")}

    def undefined(self, outputs: Outputs) -> dict[str, str]:
        """See `Split.undefined`."""
        return undefined_of_numbers(self.gold, self._cosines(outputs))

    def predictions(self, outputs: Outputs) -> Iterator[dict[str, Any]]:
        """See `Split.predictions`."""
        pairs = zip(self.gold.tolist(), self._cosines(outputs).tolist(), strict=True)
        return self._with_texts([{"gold": gold, "cosine": cosine} for gold, cosine in pairs])

    def _cosines(self, outputs: Outputs) -> np.ndarray:
        return cosines(*self._sides(outputs))


class RightTexts(VectorSplit):
    """A split of queries with a right text each, to be found among the right texts of all."""

    def _scores_at(self, outputs: Outputs) -> dict[str, float]:
        ranks = self._ranks(outputs)
        return {"mrr": float(np.mean(1 / ranks)), "accuracy": float(np.mean(ranks == 1))}

    def predictions(self, outputs: Outputs) -> Iterator[dict[str, Any]]:
        """See `Split.predictions`."""
        pairs = zip(self._ranks(outputs).tolist(), cosines(*self._sides(outputs)), strict=True)
        return self._with_texts([{"rank": rank, "cosine": float(near)} for rank, near in pairs])

    def _ranks(self, outputs: Outputs) -> np.ndarray:
        """Returns the rank of each right text from 1, [E] int64; of equals it is the last.

        Other right texts of the query, and texts equal to it, are left out.
        """
        queries, _ = self._sides(outputs)
        texts, column_of = np.unique(self.texts_of[:, 1], return_inverse=True)
        candidates = np.stack([outputs[text] for text in texts])
        numbers = np.zeros(len(texts), np.int64)
        numbers[column_of] = self._numbers[:, 1]
        ranks = np.zeros(self.examples, np.int64)
        for begin in range(0, self.examples, _BLOCK):
            block = slice(begin, begin + _BLOCK)
            near = queries[block] @ candidates.T
            own = np.take_along_axis(near, column_of[block, None], axis=1)
            asked = self._numbers[block, 0]
            left_out = numbers == asked[:, None]
            for rights in self._rights.of(asked).T:
                left_out |= numbers == rights[:, None]
            ranks[block] = 1 + np.count_nonzero((near >= own) & ~left_out, axis=1)
        return ranks


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the cosine of each pair of vectors, [E] float64; 0 where one of them is 0.

    Args:
      first: [E, D].
      second: [E, D].
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.sum(first * second, axis=1) / np.where(lengths > 0, lengths, 1)


class _Encoded:
    """The different texts of examples, tokenised.

    Attributes:
      texts_of: [E, G] int64, the texts of each example; -1 fills up.
      tokens: ids of each text with its prompt, int32 arrays.
      numbers: [texts] int64 from 1, equal for texts whose tokens are, prompts aside.
      cut: texts that were cut.
    """

    def __init__(
        self,
        examples: Sequence[TextExample],
        tokenizer: Tokenizer,
        length: int,
        prompts: tuple[str, str],
    ) -> None:
        """Tokenises; `prompts` are those of first texts and of all others."""
        self.tokenizer = tokenizer
        index: dict[tuple[str, str], int] = {}  # prompt and text
        self.texts_of = np.full((len(examples), max(len(each.texts) for each in examples)), -1)
        first_of: list[TextExample] = []
        for number, example in enumerate(examples):
            for place, text in enumerate(example.texts):
                found = index.setdefault((prompts[place > 0], text), len(index))
                if found == len(first_of):
                    first_of.append(example)
                self.texts_of[number, place] = found
        whole = ["".join(each) for each in index]
        self.tokens, _, cut = encode_inputs(whole, [""] * len(whole), tokenizer, length)
        self.cut = int(cut.sum())
        bare = self.tokens
        if any(prompts):
            texts = [text for _, text in index]
            bare = encode_inputs(texts, [""] * len(texts), tokenizer, length)[0]
        for ids, example in zip(bare, first_of, strict=True):
            check_filled([ids], example.location)
        seen: dict[bytes, int] = {}
        numbers = [seen.setdefault(ids.tobytes(), len(seen) + 1) for ids in bare]
        self.numbers = np.array(numbers)


def _inputs(
    tokens: list[np.ndarray], labels: np.ndarray, example_of: np.ndarray, tokenizer: Tokenizer
) -> TaskInputs:
    nothing = [np.zeros(0, np.int32)] * len(tokens)
    return TaskInputs(tokens, nothing, labels, example_of, tokenizer.special)


def _right_numbers(numbers: np.ndarray, last: int) -> RightNumbers:
    """Collects the right texts of queries, of examples [E, G]; `last` is the highest number."""
    pairs = np.unique(numbers[:, :2], axis=0)
    counts = np.bincount(pairs[:, 0], minlength=last + 1)
    return RightNumbers(np.append(exclusive_cumsum(counts), len(pairs)), pairs[:, 1])


def read_vector_task(data: TaskDataConfig, vectors: VectorsConfig, tokenizer: Tokenizer) -> Task:
    """Reads a task of kind VECTORS; the loss decides which columns of the training file are read.

    Raises:
      UserError: with the file and the line, as `classes.read_examples`; if a score is too high for
        a cosine, or all are the same.
    """
    reader = _Reader(data, vectors, training=True)
    examples, note = _read(data.train, data, reader)
    kind = ScoredPairs if reader.is_scored else RightTexts
    train = kind(examples, tokenizer, data, vectors, training=True, note=note)
    if vectors.loss is VectorLoss.COSENT and np.ptp(train.gold) == 0:
        raise UserError(
            f"{data.train} has the score {train.gold[0]:g} everywhere, and loss=cosent learns the"
            " order of scores: name another label_column, or --config.vectors.loss=contrastive"
        )
    dev = {
        name: read_vector_split(source, data, vectors, tokenizer)
        for name, source in dev_sources(data).items()
    }
    return Task([], train, dev)


def read_vector_split(
    source: str, data: TaskDataConfig, vectors: VectorsConfig, tokenizer: Tokenizer
) -> VectorSplit:
    """Reads held-out pairs: with a score each, or without if `data.label_column` is ''.

    Raises:
      UserError: as `read_vector_task`; or if the config names no column of second texts.
    """
    if not data.text_pair_column:
        raise UserError(
            f"{source}: vectors are scored on pairs: set --config.data.text_pair_column to the"
            " column of the second texts"
        )
    reader = _Reader(data, vectors, training=False)
    examples, note = _read(source, data, reader)
    kind = ScoredPairs if reader.is_scored else RightTexts
    return kind(examples, tokenizer, data, vectors, training=False, note=note)
