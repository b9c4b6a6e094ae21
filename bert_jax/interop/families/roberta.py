"""RoBERTa (Liu et al., 2019), and CamemBERT and XLM-R, which have its layout."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bert_jax.config import Activation, EncoderConfig
from bert_jax.interop.families.family import ABSOLUTE, BERT_FIELDS, Family, Head, bert_like

_ROWS = "max_position_embeddings"


def _first_position(pad_id: int) -> int:
    """Places count from the row after that of the padding piece; no token reads the rows before."""
    return pad_id + 1


def _read(values: Mapping[str, Any]) -> dict[str, Any]:
    rows, pad_id = values[_ROWS], values["pad_token_id"]
    if type(rows) is not int or type(pad_id) is not int or not 0 <= pad_id < rows - 1:
        raise ValueError(f"{_ROWS}={rows}", f"with pad_token_id={pad_id} leaves no place")
    return {"max_length": rows - _first_position(pad_id)}


def _write(encoder: EncoderConfig, pad_id: int) -> dict[str, Any]:
    return {_ROWS: encoder.max_length + _first_position(pad_id)}


ROBERTA = Family(
    model_type="roberta",
    classes="Roberta",
    heads=(Head.MASKED_LM, Head.ENCODER, Head.CLASSES, Head.TOKENS, Head.SPANS),
    base="roberta.",
    names=bert_like("roberta.")
    | {
        "pooler/dense": "classifier.dense",
        "mlm_head/transform": "lm_head.dense",
        "mlm_head/norm": "lm_head.layer_norm",
        "mlm_head/bias": "lm_head.bias",
        "classifier/dense": "classifier.out_proj",
    },
    fields={theirs: ours for theirs, ours in BERT_FIELDS.items() if theirs != _ROWS},
    mlm_activation=lambda encoder: Activation.GELU,
    defaults={_ROWS: 512, "pad_token_id": 1, "vocab_size": 50_265},
    read_more=_read,
    write_more=_write,
    more=frozenset({"max_length"}),
    only={**ABSOLUTE, "tie_word_embeddings": True},
    copies={
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    unread=("roberta.pooler.",),
    first_position=_first_position,
    separators=2,
    special={"bos_token_id": "cls", "eos_token_id": "sep"},
)
CAMEMBERT = dataclasses.replace(ROBERTA, model_type="camembert", classes="Camembert")
XLM_ROBERTA = dataclasses.replace(ROBERTA, model_type="xlm-roberta", classes="XLMRoberta")
