"""bert_jax: pretrain BERT-style encoders in JAX, then fine-tune them with a swapped head."""

import time

__version__ = "0.1.0"
STARTED = time.monotonic()  # about when the process began: drivers import this first
