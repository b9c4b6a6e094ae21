"""Data: from text to NumPy batches. Nothing here imports jax, but `packing.loader`, through Grain.

`corpus` tokenises documents once and memory-maps them; `pretraining` cuts them into examples;
`packing` packs examples into rows; `tasks` reads labelled files for fine-tuning.

A batch is a dictionary of arrays that share their first axis: `token_ids`, `example_ids`,
`segment_ids`, `positions` [R, T] int32, `pool_positions` [R, N] int32, `labels` and `weights`.
Read `pretraining/plan.py` first.
"""
