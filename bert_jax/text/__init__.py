"""Text: strings in, token ids out, and back.

`tokenizer` has the interface and its two kinds, SentencePiece and WordPiece: a text to [n] int32
ids, with offsets in characters on request. `training` trains one on a sample of text; `offsets`
maps tokens to characters.

Read `tokenizer.py` first.
"""
