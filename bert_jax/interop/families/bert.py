"""BERT (Devlin et al., 2019)."""

from bert_jax.interop.families.family import ABSOLUTE, BERT_FIELDS, Family, bert_like

_POOLER_FIELDS = "fc_size num_attention_heads num_fc_layers size_per_head type"  # of Google's

BERT = Family(
    model_type="bert",
    classes="Bert",
    base="bert.",
    names=bert_like("bert.")
    | {
        "pooler/dense": "bert.pooler.dense",
        "mlm_head/transform": "cls.predictions.transform.dense",
        "mlm_head/norm": "cls.predictions.transform.LayerNorm",
        "mlm_head/bias": "cls.predictions.bias",
        "nsp_head/dense": "cls.seq_relationship",
        "sop_head/dense": "cls.seq_relationship",  # same shape, other classes
        "classifier/dense": "classifier",
    },
    fields=BERT_FIELDS,
    only={**ABSOLUTE, "tie_word_embeddings": True, "directionality": "bidi"},
    harmless=frozenset(f"pooler_{name}" for name in _POOLER_FIELDS.split()),
    has_encoder_pooler=True,
    # The output matrix is the token table, and its bias is one array.
    copies={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
)
