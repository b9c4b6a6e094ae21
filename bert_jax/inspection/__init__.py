"""Inspection of checkpoints and of what models compute, for notebooks and the command line.

A checkpoint or a text goes in; out come rows (lists of dictionaries), NumPy arrays and figures:
parameters and their changes, attention [L, H, T, T] and hidden states [L + 1, T, D] of a text, its
vectors and its pseudo-log-likelihood. All runs on one device, whichever mesh wrote the checkpoint.

    from bert_jax.inspection.stored import open_checkpoint

Read first: `stored.py`, then `tables.py`.
"""
