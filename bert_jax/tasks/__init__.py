"""Kinds of task on a model: classification, regression, tags, spans.

`kinds.py` binds each kind to its head, loss, metrics and file readers. `evaluation.py` runs a model
over E inputs and returns the outputs of each: [C] for tasks about whole inputs, [size, C] for tasks
about tokens. `finetuned.py` restores a fine-tuned checkpoint, and `predictors.py` turns its outputs
into predictions for new text; `plots.py` draws confusion and calibration.

Read first: `kinds.py`.
"""
