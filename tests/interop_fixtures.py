"""Small directories of transformers, with a WordPiece vocabulary and weights of real size."""

import json
import pathlib
import string
from typing import Any

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["red", "blue", "light", "sun", "wind", "stone", "the", "river", "night", ".", ",", "?"]
LETTERS = [*string.ascii_lowercase, *string.digits]
VOCAB = [*SPECIAL, *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS), "##er", "##ing"]

LABELS = ["cold", "warm", "B-place"]
SHAPE = dict(
    vocab_size=len(VOCAB),
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=44,
    max_position_embeddings=50,
)


def make_peer(architecture: str, *, seed: int = 0, spread: float = 0.4, **config: Any) -> Any:
    """Makes a model of transformers whose every parameter matters to the output."""
    import torch
    import transformers

    torch.manual_seed(seed)
    labels = dict(enumerate(LABELS)) if "Classification" in architecture else {}
    if labels:
        config = {"id2label": labels, "label2id": {v: k for k, v in labels.items()}, **config}
    values = {**SHAPE, **config}
    model = getattr(transformers, architecture)(transformers.BertConfig(**values)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            parameter.copy_(centre + spread * torch.randn(parameter.shape))
    return model


def save_peer(model: Any, directory: pathlib.Path, **options: Any) -> pathlib.Path:
    """Saves a model with its vocabulary, as old directories have it."""
    model.save_pretrained(directory, **options)
    write_vocab(directory)
    return directory


def write_vocab(directory: pathlib.Path, settings: dict[str, Any] | None = None) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "vocab.txt").write_text("".join(f"{piece}\n" for piece in VOCAB))
    settings = {"do_lower_case": True} if settings is None else settings
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def edit_json(path: pathlib.Path, **changes: Any) -> None:
    """Sets fields of a JSON file; None removes one."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
