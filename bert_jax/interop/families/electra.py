"""ELECTRA (Clark et al., 2020): its generator is a masked LM, its discriminator an encoder."""

from collections.abc import Mapping
from typing import Any

from bert_jax.config import Activation, EncoderConfig, PoolerKind
from bert_jax.interop.families.family import ABSOLUTE, BERT_FIELDS, Family, Head, bert_like


def _read(values: Mapping[str, Any]) -> dict[str, Any]:
    own, width = values["embedding_size"], values["hidden_size"]
    if type(own) is not int or own < 1:
        raise ValueError(f"embedding_size={own}", "is not a width")
    return {"embedding_width": 0 if own == width else own}


def _write(encoder: EncoderConfig, pad_id: int) -> dict[str, Any]:
    return {"embedding_size": encoder.embedding_width or encoder.width}


ELECTRA = Family(
    model_type="electra",
    classes="Electra",
    heads=(Head.MASKED_LM, Head.ENCODER, Head.CLASSES, Head.TOKENS, Head.SPANS),
    base="electra.",
    names=bert_like("electra.")
    | {
        "encoder/embeddings/projection": "electra.embeddings_project",
        "mlm_head/transform": "generator_predictions.dense",
        "mlm_head/norm": "generator_predictions.LayerNorm",
        "mlm_head/output": "generator_lm_head.weight",
        "mlm_head/bias": "generator_lm_head.bias",
        "pooler/dense": "classifier.dense",
        "classifier/dense": "classifier.out_proj",
    },
    fields=BERT_FIELDS | {"tie_word_embeddings": "mlm_tied"},
    mlm_activation=lambda encoder: Activation.GELU,
    defaults={
        "vocab_size": 30_522,
        "embedding_size": 128,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
    },
    read_more=_read,
    write_more=_write,
    more=frozenset({"embedding_width"}),
    only=ABSOLUTE,
    harmless=frozenset(
        f"summary_{name}" for name in ("type", "use_proj", "activation", "last_dropout")
    ),
    pooler=PoolerKind.GELU,
    copies={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
    encoders=("ElectraForPreTraining",),  # the discriminator
    unread=("discriminator_predictions.",),
)
