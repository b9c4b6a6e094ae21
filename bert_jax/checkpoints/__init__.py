"""Checkpoints: save, restore, transfer.

A run's state (parameters, optimizer state, step) and its metadata go in; out comes the same state
on any mesh, bit for bit, or only named parameter groups for another model. Every array is verified
against a fingerprint. `workdir.py` claims the directory of a run, `pretrained.py` and `transfer.py`
build on restored groups.

Read first: `checkpoint.py`.
"""
