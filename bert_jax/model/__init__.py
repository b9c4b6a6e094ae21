"""The model: token ids [B, T] in, vectors [B, T, D] and the logits of heads out.

Pure functions of parameters and a batch (Flax Linen modules). Read `encoder.py` first, the whole of
BERT in the order in which data flows; `heads.py` puts heads on it. `layers.py` has the parts that
both are made of, `stack.py` runs the layers in a scan, `attention.py`, `fused_attention.py` and
`dropout.py` are what their names say, `by_platform.py` chooses what a config leaves to the devices,
and `flops.py` counts the operations.
"""
