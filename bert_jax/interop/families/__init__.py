"""The families of encoders that are read from transformers and written for it.

In: a config.json and tensors; out: an `EncoderConfig` and our parameters, and the other way round.
A family is one file: the fields of its config, the names of its tensors, what makes it another
model than BERT. Read `family.py`, then `eurobert.py`; `registry.py` lists them.
"""
