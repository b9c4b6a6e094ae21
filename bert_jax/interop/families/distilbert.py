"""DistilBERT (Sanh et al., 2019): BERT without segments and pooler."""

from bert_jax.config import PoolerKind
from bert_jax.interop.families.family import Family, Head

_BASE = "distilbert."
_LAYER = f"{_BASE}transformer.layer.{{layer}}"

DISTILBERT = Family(
    model_type="distilbert",
    classes="DistilBert",
    heads=(Head.MASKED_LM, Head.ENCODER, Head.CLASSES, Head.TOKENS, Head.SPANS),
    base=_BASE,
    names={
        "encoder/embeddings/tokens": f"{_BASE}embeddings.word_embeddings.weight",
        "encoder/embeddings/positions": f"{_BASE}embeddings.position_embeddings.weight",
        "encoder/embeddings/norm": f"{_BASE}embeddings.LayerNorm",
        "encoder/layers/attention/query": f"{_LAYER}.attention.q_lin",
        "encoder/layers/attention/key": f"{_LAYER}.attention.k_lin",
        "encoder/layers/attention/value": f"{_LAYER}.attention.v_lin",
        "encoder/layers/attention/out": f"{_LAYER}.attention.out_lin",
        "encoder/layers/attention_norm": f"{_LAYER}.sa_layer_norm",
        "encoder/layers/mlp/up": f"{_LAYER}.ffn.lin1",
        "encoder/layers/mlp/down": f"{_LAYER}.ffn.lin2",
        "encoder/layers/mlp_norm": f"{_LAYER}.output_layer_norm",
        "mlm_head/transform": "vocab_transform",
        "mlm_head/norm": "vocab_layer_norm",
        "mlm_head/output": "vocab_projector.weight",
        "mlm_head/bias": "vocab_projector.bias",
        "pooler/dense": "pre_classifier",
        "classifier/dense": "classifier",
        "tagger/dense": "classifier",
        "span/dense": "qa_outputs",
    },
    fields={
        "vocab_size": "vocab_size",
        "dim": "width",
        "n_layers": "layers",
        "n_heads": "heads",
        "hidden_dim": "mlp_width",
        "max_position_embeddings": "max_length",
        "initializer_range": "init_stddev",
        "dropout": "dropout_rate",
        "attention_dropout": "attention_dropout_rate",
        "tie_word_embeddings": "mlm_tied",
    },
    activation="activation",
    defaults={"n_layers": 6, "vocab_size": 30_522},
    fixed={"segments": 0},
    harmless=frozenset("sinusoidal_pos_embds qa_dropout seq_classif_dropout tie_weights_".split()),
    pooler=PoolerKind.RELU,
    copies={"vocab_projector.weight": f"{_BASE}embeddings.word_embeddings.weight"},
)
