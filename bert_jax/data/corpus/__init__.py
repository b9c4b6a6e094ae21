"""Corpora: documents of any source in, tokenised shards on disk out.

A source (`sources`) is cut into pieces; each piece becomes shards (`pieces`, `shards`), in this
process, in workers, or on Beam. `corpus.Corpus` memory-maps the result and looks up documents,
sentences and tokens by index: [n] int64 to [n] int64, token ids [n] int32.

Read `corpus.py` first: it has the format on disk and the reader.
"""
