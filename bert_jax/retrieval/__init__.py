"""Search by vectors: exact neighbours, the scores of retrieval, hard negatives.

A `Collection` (documents, queries, judgements) goes in; out come runs, the best documents of each
query in the order of trec_eval, and their scores. `exact_search.py` finds the exact best documents
in blocks on the device, whatever the size of a block or the number of devices; `bm25.py` is the
baseline without a model. The drivers are `bert_jax/search.py`, `bert_jax/mine.py`, and `evaluate`
with `--retrieval`.

Read first: `collection.py`, then `scoring.py`.
"""
