"""The peer's models: BERT as transformers has it, at our sizes."""

import pathlib
from typing import Any

from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertTokenizer, PreTrainedModel

from benchmarks.sizes import SIZES


def bert_config(size: str, vocab_size: int, **changes: Any) -> Any:
    """Returns the config of a size, with other fields as given."""
    layers, width, heads = SIZES[size]
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        **changes,
    )


def save_model(
    model_type: type[PreTrainedModel],
    size: str,
    vocab: str,
    folder: pathlib.Path,
    *,
    length: int = 512,
) -> None:
    """Saves a BERT with random weights and its tokenizer.

    Args:
      model_type: such as `BertModel`.
      size: one of `SIZES`.
      vocab: path of a vocab.txt.
      folder: to save into.
      length: tokens that its tokenizer cuts texts to.
    """
    config = bert_config(size, BertWordPieceTokenizer(vocab).get_vocab_size())
    model_type(config).save_pretrained(folder)
    BertTokenizer(vocab=vocab, model_max_length=length).save_pretrained(folder)
