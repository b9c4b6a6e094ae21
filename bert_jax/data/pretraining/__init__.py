"""Pretraining data: a corpus and a config in, batches of unmasked rows out.

`prepare.make_corpus` makes the corpus with the modules of `data.corpus`.
`plan.plan_block` makes the examples of a block of documents and packs them; `rows.RowStream` writes
planned rows as batches ([R, T] and [R, N] fields, `row_ids` [R, 2] uint32); `feed.Feed` mixes
corpora, follows the phases and gives each host its rows. A run resumes from a `feed.Cursor`.

Read `plan.py` first, then `examples.py` and `rows.py`.
"""
