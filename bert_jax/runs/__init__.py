"""Whole runs: a config and a directory in, checkpoints, logs and results in that directory out.

`steps.py` builds the compiled step of a pretraining or fine-tuning run from model, loss and
optimizer; read it first. The other modules are the runs themselves, which the drivers start.
"""
