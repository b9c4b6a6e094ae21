"""Packing: examples of different lengths in, rows of T tokens out.

`packing.pack` assigns examples to rows, lengths [E] to rows [E]; `layout.lay_out` writes them as
`token_ids`, `example_ids`, `segment_ids`, `positions` [R, T] and `pool_positions` [R, N], int32.
`draws` has the random numbers of all data, `subsets` draws some of a task's examples, `windows`
splits long texts, `loader` makes batches on threads.

Read `layout.py` first.
"""
