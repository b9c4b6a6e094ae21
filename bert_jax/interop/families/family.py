"""A family of encoders in transformers: the fields of its config, its classes, its tensors' names.

A family is one file with one `Family`; `names.py` and `huggingface_config.py` read them all alike.
"""

import dataclasses
import enum
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bert_jax.config import Activation, EncoderConfig, InputPooling, PoolerKind


class Head(enum.Enum):
    """The head on an encoder; its value ends the name of the class in transformers."""

    PRETRAINING = "ForPreTraining"  # masked LM and a sentence objective
    MASKED_LM = "ForMaskedLM"
    ENCODER = "Model"  # nothing, or a pooler
    CLASSES = "ForSequenceClassification"
    TOKENS = "ForTokenClassification"
    SPANS = "ForQuestionAnswering"


# The groups of parameters that a model with a head always has; the pooler where its family has one.
GROUPS = {
    Head.PRETRAINING: ("encoder", "pooler", "mlm_head", "nsp_head"),
    Head.MASKED_LM: ("encoder", "mlm_head"),
    Head.ENCODER: ("encoder",),
    Head.CLASSES: ("encoder", "pooler", "classifier"),
    Head.TOKENS: ("encoder", "tagger"),
    Head.SPANS: ("encoder", "span"),
}
TASK_HEADS = (Head.CLASSES, Head.TOKENS, Head.SPANS)


class Part(NamedTuple):
    """A module of ours whose rows are a part of a tensor of theirs: queries, keys and values."""

    name: str  # theirs
    number: int  # of the part, from 0
    parts: int  # that the tensor has, all of one size


# Theirs, for a module or array of ours: its name, a part of one, or the two of a gated pair.
Name = str | Part | tuple[str, str]


def _no_more(values: Mapping[str, Any]) -> dict[str, Any]:
    return {}


def _nothing_more(encoder: EncoderConfig, pad_id: int) -> dict[str, Any]:
    return {}


def _of_encoder(encoder: EncoderConfig) -> Activation:
    return encoder.activation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A family of encoders.

    Attributes:
      model_type: in config.json.
      classes: how the names of its classes begin: "Bert".
      heads: those that it has.
      base: prefix of the encoder's tensors in a model with a head.
      names: module or array of ours -> theirs; {layer} is the number of a layer.
      fields: field of config.json -> field of `EncoderConfig`, where the values are the same.
      activation: their field of the feed-forward activation.
      mlm_activation: encoder -> the activation of the transform that all models of it have.
      defaults: values of fields that a config.json leaves out, where they are not those of ours.
      fixed: fields of `EncoderConfig` that have one value, and another than BERT's.
      read_more: config.json -> more fields of `EncoderConfig`; it raises ValueError, with the field
        and the reason, for what is not implemented.
      write_more: encoder, id of the padding piece -> more fields of config.json.
      more: the fields of `EncoderConfig` that these two handle.
      only: fields of config.json that must have one value if they are there.
      harmless: fields that change no output, besides those that are so in all families.
      pooler: the map before the output layer of whole inputs.
      poolings: of whole inputs that its classes have.
      encoders: other classes, of which the encoder alone is read.
      has_encoder_pooler: True if the encoder's own class has a pooler.
      copies: tensors that some files have twice: the copy -> the original, if the output is tied.
      unread: how the names of tensors begin that no head here reads.
      first_position: id of the padding piece -> the row of the table of the first place.
      separators: special tokens between the two texts of a pair.
      special: field of config.json with the id of a special piece -> its role here.
    """

    model_type: str
    classes: str
    heads: tuple[Head, ...] = tuple(Head)
    base: str
    names: Mapping[str, Name]
    fields: Mapping[str, str]
    activation: str = "hidden_act"
    mlm_activation: Callable[[EncoderConfig], Activation] = _of_encoder
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    read_more: Callable[[Mapping[str, Any]], dict[str, Any]] = _no_more
    write_more: Callable[[EncoderConfig, int], dict[str, Any]] = _nothing_more
    more: frozenset[str] = frozenset()
    only: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    harmless: frozenset[str] = frozenset()
    pooler: PoolerKind = PoolerKind.TANH
    poolings: tuple[InputPooling, ...] = (InputPooling.CLS,)
    encoders: tuple[str, ...] = ()
    has_encoder_pooler: bool = False
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unread: tuple[str, ...] = ()
    first_position: Callable[[int], int] = lambda pad_id: 0
    separators: int = 1
    special: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def architecture(self, head: Head) -> str:
        """Returns the class of a head: "BertForMaskedLM"."""
        return f"{self.classes}{head.value}"

    def head_of(self, architecture: str) -> Head | None:
        """Returns the head of a class; None for one that is not implemented."""
        if architecture in self.encoders:
            return Head.ENCODER
        return next((h for h in self.heads if self.architecture(h) == architecture), None)

    def canonical(self, name: str) -> str:
        """Returns the name in `names` for any name that transformers has used.

        An encoder without a head has no prefix; the oldest files use gamma and beta for the scale
        and bias of a norm.
        """
        for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
            if name.endswith(f"LayerNorm{old}"):
                name = name.removesuffix(old) + new
        return f"{self.base}{name}" if name.partition(".")[0] in self._roots() else name

    def _roots(self) -> set[str]:
        """Returns the first words of names in an encoder without a head."""
        every = [
            one
            for name in self.names.values()
            for one in ([name] if isinstance(name, str) else name[:1])
        ]
        return {
            name.removeprefix(self.base).partition(".")[0]
            for name in (*every, *self.unread)
            if name.startswith(self.base)
        }


ABSOLUTE = {"position_embedding_type": "absolute"}
BERT_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp_width",
    "max_position_embeddings": "max_length",
    "type_vocab_size": "segments",
    "layer_norm_eps": "norm_epsilon",
    "initializer_range": "init_stddev",
    "hidden_dropout_prob": "dropout_rate",
    "attention_probs_dropout_prob": "attention_dropout_rate",
}


def bert_like(base: str) -> dict[str, Name]:
    """Returns the names of an encoder whose layers are named as BERT's, and of its task heads.

    Args:
      base: "bert." or another.
    """
    layer = f"{base}encoder.layer.{{layer}}"
    return {
        "encoder/embeddings/tokens": f"{base}embeddings.word_embeddings.weight",
        "encoder/embeddings/positions": f"{base}embeddings.position_embeddings.weight",
        "encoder/embeddings/segments": f"{base}embeddings.token_type_embeddings.weight",
        "encoder/embeddings/norm": f"{base}embeddings.LayerNorm",
        "encoder/layers/attention/query": f"{layer}.attention.self.query",
        "encoder/layers/attention/key": f"{layer}.attention.self.key",
        "encoder/layers/attention/value": f"{layer}.attention.self.value",
        "encoder/layers/attention/out": f"{layer}.attention.output.dense",
        "encoder/layers/attention_norm": f"{layer}.attention.output.LayerNorm",
        "encoder/layers/mlp/up": f"{layer}.intermediate.dense",
        "encoder/layers/mlp/down": f"{layer}.output.dense",
        "encoder/layers/mlp_norm": f"{layer}.output.LayerNorm",
        "tagger/dense": "classifier",
        "span/dense": "qa_outputs",
    }
