"""bert_jax: pretrain BERT-style encoders in JAX, then fine-tune them with a swapped head."""

__version__ = "0.1.0"
