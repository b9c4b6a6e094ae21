"""All families by their `model_type`; a model of ours is written as the first one that it fits."""

from bert_jax.interop.families.bert import BERT
from bert_jax.interop.families.distilbert import DISTILBERT
from bert_jax.interop.families.electra import ELECTRA
from bert_jax.interop.families.eurobert import EUROBERT
from bert_jax.interop.families.modernbert import MODERNBERT
from bert_jax.interop.families.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA

FAMILIES = {
    family.model_type: family
    for family in (
        BERT,
        ROBERTA,
        DISTILBERT,
        ELECTRA,
        MODERNBERT,
        EUROBERT,
        XLM_ROBERTA,
        CAMEMBERT,
    )
}
