"""Import and export of models: Hugging Face transformers, and Google's TensorFlow 1 checkpoints.

In: a directory of transformers, or the prefix of a TF1 checkpoint. Out: a `Model`, NumPy parameters
under our names ([L, ...] for stacked layers) with the metadata of a checkpoint; and the other way
round. `names.py` is the one table of parameter names and layouts: read it first. `huggingface.py`
reads and writes directories, `tf1.py` reads Google's, `verify.py` runs both libraries on the same
sentences and compares their outputs. The driver is `bert_jax/convert.py`.
"""
