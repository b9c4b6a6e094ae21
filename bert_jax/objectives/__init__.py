"""Training objectives: logits and labels of a batch in, (sum, weight) pairs out, divided once.

`masking.py` chooses and hides the targets of the language model on the device: token ids [B, T]
in, `mlm_positions`, `mlm_labels` and `mlm_weights` [B, M] out. `losses.py` has the losses of
pretraining and of the tasks, and binds them to a model. Read `losses.py` first.
"""
