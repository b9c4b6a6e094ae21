"""A trained model as one object, for notebooks and scripts: `bert_jax.load` returns it."""

import functools
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from bert_jax.checkpoints.pretrained import (
    MaskedLM,
    TrainedEncoder,
    one_device,
    trained_length,
)
from bert_jax.config import FinetuneConfig, PretrainConfig, TaskKind, from_dict
from bert_jax.errors import UserError
from bert_jax.inspection.choices import OF_CHECKPOINT, TOKENS
from bert_jax.inspection.fill_mask import FillMask
from bert_jax.inspection.line_vectors import LineVectors
from bert_jax.inspection.scores import Scores
from bert_jax.inspection.stored import StoredCheckpoint
from bert_jax.inspection.text_vectors import chosen_settings, encode_lines, lowest_layers
from bert_jax.objectives.losses import Params
from bert_jax.tasks.finetuned import FineTuned
from bert_jax.tasks.predictors import PREDICTORS, Predictor, Tags, check_words
from bert_jax.text.tokenizer import Tokenizer

Text = str | tuple[str, str]  # a text, or a pair of texts
Texts = Text | Sequence[Text]
WordLists = Sequence[list[str]]  # of words, for a tagger

_BATCH_SIZE = 32  # texts of a fine-tuned model


class LoadedModel:
    """A trained model, on one device: pretrained, fine-tuned or imported.

        model = bert_jax.load("runs/base")
        model.fill_mask("the capital of france is [MASK] .")
        model.encode(["a first text", "a second one"])  # [2, D]
        bert_jax.load("runs/sst2").predict("this teddy bear is so cute.")

    Texts are plain: [CLS] and [SEP] are added. Each method takes one text, or a list of them; a
    pair of texts is a tuple. It returns a result for each, in order. Parts are restored when a
    method first needs them.

    Attributes:
      stored: the checkpoint on disk: `path`, `metadata`, arrays one by one, optimizer state.
    """

    def __init__(self, stored: StoredCheckpoint) -> None:
        """Wraps a checkpoint; see `bert_jax.load`."""
        self.stored = stored
        # What has been compiled, by the arguments that it was compiled for.
        self._fillers: dict[int, FillMask] = {}
        self._scorers: dict[int, Scores] = {}
        self._encoders: dict[tuple[str, int, int, bool], LineVectors] = {}

    @property
    def kind(self) -> str:
        """`pretraining`, `encoder` (imported without heads) or the kind of the task."""
        return self.stored.metadata["kind"]

    @functools.cached_property
    def config(self) -> PretrainConfig | FinetuneConfig:
        """The config of the run that made the checkpoint; of an import, what the model says."""
        is_task = self.kind in [kind.value for kind in TaskKind]
        return from_dict(
            FinetuneConfig if is_task else PretrainConfig, self.stored.metadata["config"]
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the pretraining corpus.

        `model.tokenizer.encode("a text")` gives token ids, [n] int32, without [CLS] and [SEP].
        """
        return self.stored.tokenizer

    @functools.cached_property
    def params(self) -> Params:
        """All parameters as a tree of NumPy arrays; those of layers are stacked, [L, ...].

        `model.params["encoder"]["embeddings"]["tokens"]` is the embedding table, [V, D].
        """
        return self.stored.params.read_tree()

    def fill_mask(self, texts: Texts, *, top_k: int = 5) -> list[dict[str, Any]]:
        """Finds the likeliest tokens at each [MASK].

            model.fill_mask("paris is the [MASK] of france .")[0]["masks"][0][0]["token"]

        Args:
          texts: each with at least one [MASK].
          top_k: number of tokens for each.

        Returns:
          For each text `text` and `masks`: for each [MASK] in order, a list of `token` and
          `probability`, the likeliest first. A pair has also `text_pair` and, if the model has a
          sentence objective, `pair`: the probability of each of its classes.

        Raises:
          UserError: if the model has no masked-LM head, or a text has no [MASK] or is too long.
        """
        if top_k not in self._fillers:
            self._fillers[top_k] = FillMask(self._masked_lm, top_k)
        return _predictions(self._fillers[top_k], texts)

    def score(self, texts: Texts, *, batch_size: int = 32) -> list[dict[str, Any]]:
        """Computes the pseudo-log-likelihood of texts, each token masked in turn.

            model.score("paris is a city .")[0]["score"]  # in nats, the sum over its tokens

        Args:
          texts: not empty.
          batch_size: masked texts in a batch.

        Returns:
          For each text `text`, `score` and `tokens`, each with `token` and `log_probability`.

        Raises:
          UserError: if the model has no masked-LM head, or a text is empty or too long.
        """
        if batch_size not in self._scorers:
            self._scorers[batch_size] = Scores(self._masked_lm, batch_size)
        inputs = _pairs(texts)
        a, b = encode_lines(
            inputs, self.tokenizer, self.stored.encoder.max_length, "text {}".format
        )
        return self._scorers[batch_size](inputs, a, b)

    def encode(
        self,
        texts: Texts,
        *,
        pooling: str = OF_CHECKPOINT,
        layer: int = -1,
        batch_size: int = 32,
        queries: bool = False,
    ) -> Any:
        """Computes vectors of texts.

            model.encode(["a first text", "a second one"])  # [2, D]

        Args:
          texts: not empty.
          pooling: `cls`, `mean` (over all tokens, [CLS] and [SEP] too), `last` or `tokens`, all of
            them plain; or `of_checkpoint`: as task=vectors trained it, with its prompt, and longer
            texts cut as it did; else as `mean`.
          layer: 1 is the lowest, -1 the last.
          batch_size: texts in a batch.
          queries: of `of_checkpoint`: the texts are queries, with their prompt.

        Returns:
          [I, D] float32; for `tokens` a list of [size, D] float32, [CLS] and [SEP] among them.

        Raises:
          UserError: if there is no such layer, or a text is empty or too long; if texts are to be
            queries where the pooling or the checkpoint has no prompts.
          ValueError: if `pooling` is none of these.
        """
        if queries and pooling != OF_CHECKPOINT:
            raise UserError(
                f"queries=True is of prompts that were trained, and pooling={pooling!r} has none:"
                f" leave it out, or set pooling={OF_CHECKPOINT!r}"
            )
        if queries and self.kind != TaskKind.VECTORS.value:
            raise UserError(
                f"queries=True is of prompts that were trained, and {self.stored.path} is of kind"
                f" {self.kind} and has none: leave it out, or load a run of task=vectors"
            )
        key = pooling, layer, batch_size, queries
        if key not in self._encoders:
            self._encoders[key] = self._line_vectors(*key)
        blocks = self._encoders[key].blocks(_pairs(texts), "text {}".format)
        vectors = [vector for block in blocks for vector in block.vectors]
        return vectors if pooling == TOKENS else np.stack(vectors)

    def predict(self, texts: Texts | WordLists) -> list[dict[str, Any]]:
        """Does the task that the model was fine-tuned for.

            bert_jax.load("runs/sst2").predict("this teddy bear is so cute.")
            bert_jax.load("runs/wnut").predict([["Angela", "Merkel", "visits", "Paris"]])

        Args:
          texts: as the task's training data had them; for questions, (question, text); for a tagger
            also a list of sentences, each a list of words, which are not split further.

        Returns:
          A JSON-ready prediction for each, as `python -m bert_jax.predict --json` prints it.

        Raises:
          UserError: if the model has no task head, or an input does not suit the task.
        """
        tagger = self._predictor
        if isinstance(tagger, Tags) and texts and all(isinstance(each, list) for each in texts):
            return tagger.tag_words([check_words(words) for words in texts])
        return _predictions(tagger, cast("Texts", texts))

    def __repr__(self) -> str:
        """Describes the model in one line."""
        return repr(self.stored)

    @functools.cached_property
    def _masked_lm(self) -> MaskedLM:
        return self.stored.restore_masked_lm()

    @functools.cached_property
    def _encoder(self) -> TrainedEncoder:
        return self.stored.restore_encoder()

    def _line_vectors(
        self, pooling: str, layer: int, batch_size: int, queries: bool
    ) -> LineVectors:
        settings = chosen_settings(pooling, self.stored.metadata)
        encoder = lowest_layers(self._encoder, layer)
        prompt, length = "", None
        if pooling == OF_CHECKPOINT and settings:
            prompt = settings.query_prompt if queries else settings.text_prompt
            length = trained_length(self.stored.metadata)
        return LineVectors(
            encoder, one_device(), settings, batch_size=batch_size, prompt=prompt, length=length
        )

    @functools.cached_property
    def _predictor(self) -> Predictor:
        tuned = FineTuned(self.stored.path, self.stored.metadata, one_device())
        return PREDICTORS[tuned.config.task](tuned, _BATCH_SIZE)


def _predictions(predict: FillMask | Predictor, texts: Texts) -> list[dict[str, Any]]:
    pairs = _pairs(texts)
    for pair in pairs:
        predict.check(*pair)
    return predict(pairs)


def _pairs(texts: Texts) -> list[tuple[str, str]]:
    """Returns (text, second text or '') for each input; raises UserError if one is neither."""
    one = isinstance(texts, str | tuple)
    each = cast("list[Text]", [texts] if one else list(texts))
    if not each:
        raise UserError("no text is given: give one, or a list of at least one")
    pairs = [(text, "") if isinstance(text, str) else text for text in each]
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(side, str) for side in pair):
            raise UserError(f"{pair!r} is no text and no pair: give a string, or two as a tuple")
    return pairs
