"""Tokenizers in directories of transformers, read and written.

In: tokenizer.json, vocab.txt, vocab.json with merges.txt or sentencepiece.bpe.model, and the
settings beside them; out: a `text.Tokenizer`, and the other way round. Read
`huggingface_tokenizer.py` first.
"""
