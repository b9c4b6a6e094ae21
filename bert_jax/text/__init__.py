"""Text: strings in, token ids out, and back.

`interface` says what a tokenizer does: a text to [n] int32 ids, with offsets in characters on
request. `sentence_pieces` and `wordpiece` are its two kinds, `vocabulary` reads the rows of the
latter, and `tokenizer` loads either. `training` trains one on a sample of text; `offsets` maps
tokens to characters.

Read `interface.py` first.
"""
