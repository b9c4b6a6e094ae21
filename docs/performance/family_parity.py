"""Differences between imported models and transformers: every family and head, both ways.

    python -m docs.performance.family_parity --vocab=vocab.txt

Random models of 4 layers of width 128, weights three times the initial ones. In the Markdown table
`import` and `export` are the largest differences of the outputs, in float32, to transformers on the
directory that was read, and on the one that was written.
"""

import pathlib
import tempfile
from typing import Any

import jax
import torch
import transformers
from absl import app, flags

from bert_jax.config import EncoderConfig, MeshConfig, from_dict
from bert_jax.distributed import sharding
from bert_jax.interop import huggingface, peer, verify
from bert_jax.interop.families.family import Family, Head
from bert_jax.interop.families.registry import FAMILIES
from bert_jax.text.tokenizer import load_tokenizer, tokenizer_from_dict

_VOCAB = flags.DEFINE_string("vocab", None, "vocab.txt of a WordPiece tokenizer", required=True)

_SIZES = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 160,
}
_OTHERS: dict[str, dict[str, Any]] = {
    "roberta": {"type_vocab_size": 1},
    "camembert": {"type_vocab_size": 1},
    "xlm-roberta": {"type_vocab_size": 1},
    "distilbert": {"dim": 128, "n_layers": 4, "n_heads": 4, "hidden_dim": 256},
    "electra": {"embedding_size": 64},
    "modernbert": {"local_attention": 16, "classifier_pooling": "mean"},
    "eurobert": {"num_key_value_heads": 2},
}


def make_model(family: Family, head: Head, pieces: int) -> Any:
    """Returns a random model of transformers, whose padding piece is 0 as in `--vocab`."""
    torch.manual_seed(0)
    values = _SIZES | _OTHERS.get(family.model_type, {})
    if family.model_type == "distilbert":
        values = _OTHERS["distilbert"] | {"max_position_embeddings": 160}
    labels = 3 if head in (Head.CLASSES, Head.TOKENS) else 2
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 1)
    make_config: Any = transformers.CONFIG_MAPPING[family.model_type]
    config = make_config(vocab_size=pieces, pad_token_id=0, num_labels=labels, **special, **values)
    model = getattr(transformers, family.architecture(head))(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
            else:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def measure(family: Family, head: Head) -> None:
    """Prints a row of the table."""
    mesh = sharding.make_mesh(MeshConfig(data=1), devices=jax.local_devices()[:1])
    tokenizer = load_tokenizer(_VOCAB.value)
    with tempfile.TemporaryDirectory() as made:
        first, second = pathlib.Path(made, "first"), pathlib.Path(made, "second")
        make_model(family, head, tokenizer.vocab_size).save_pretrained(first)
        model = huggingface.read_directory(first, mesh, tokenizer=tokenizer)
        second.mkdir()
        encoder = from_dict(EncoderConfig, model.metadata["encoder"])
        batch = verify.make_input_rows(
            tokenizer_from_dict(model.metadata["tokenizer"]), encoder, verify.SENTENCES
        )
        ours = verify.our_outputs(model, batch)
        differences = []
        for directory in (first, second):
            if directory is second:
                huggingface.write_directory(model, second)
            pooler = "pooler" in model.params
            theirs = peer.load_model(directory, family, head, pooler=pooler).run(batch)
            found = verify.compare(ours, theirs, batch)
            differences.append(max(each.greatest for each in found))
            largest = max(each.largest for each in found)
    name = family.architecture(head)
    print(f"| `{name}` | {differences[0]:.1e} | {differences[1]:.1e} | {largest:.3g} |", flush=True)


def main(_: list[str]) -> None:
    """Prints the table."""
    transformers.utils.logging.disable_progress_bar()
    print("| model | import | export | largest output |")
    print("|---|---|---|---|")
    for family in FAMILIES.values():
        for head in family.heads:
            measure(family, head)


if __name__ == "__main__":
    app.run(main)
