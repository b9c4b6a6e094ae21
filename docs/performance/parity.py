"""Differences between converted models and transformers: every head, both ways, against float64.

    python -m docs.performance.parity --vocab=vocab.txt

Models of 2, 6 and 12 layers have random weights, of the initial size (standard deviation 0.02) and
larger ones (0.06, with norms and biases away from 1 and 0), whose activations are as large as those
of trained models. In the Markdown table, `ours` and `theirs` are the distances of both libraries,
in float32, from transformers in float64.
"""

import pathlib
import shutil
import tempfile
from typing import Any

import jax
import torch
import transformers
from absl import app, flags

from bert_jax.config import EncoderConfig, MeshConfig, from_dict
from bert_jax.distributed import sharding
from bert_jax.interop import huggingface, peer, verify
from bert_jax.interop.families.bert import BERT
from bert_jax.interop.families.family import Head
from bert_jax.text.tokenizer import tokenizer_from_dict

_VOCAB = flags.DEFINE_string("vocab", None, "vocab.txt of a WordPiece tokenizer", required=True)
_LAYERS = flags.DEFINE_list("layers", ["2", "6", "12"], "sizes of models")

_WIDTH_OF_A_HEAD = 64
_HEADS = {2: 2, 6: 6, 12: 12}


def make_model(architecture: str, layers: int, vocab_size: int, *, trained: bool) -> Any:
    """Returns a random model of transformers."""
    torch.manual_seed(layers)
    width = _HEADS[layers] * _WIDTH_OF_A_HEAD
    make_config: Any = transformers.BertConfig  # its keywords are not all declared
    config = make_config(
        vocab_size=vocab_size,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=_HEADS[layers],
        intermediate_size=4 * width,
        num_labels=3 if "Classification" in architecture else 2,
    )
    model = getattr(transformers, architecture)(config).eval()
    if trained:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(3)
                else:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def run_float64(
    directory: pathlib.Path, head: Head, batch: verify.InputRows
) -> verify.ModelOutputs:
    """Runs transformers in double precision."""
    return peer.load_model(directory, BERT, head, pooler=True, dtype="float64").run(batch)


def distance(
    one: verify.ModelOutputs, other: verify.ModelOutputs, batch: verify.InputRows
) -> float:
    """Returns the largest difference over all outputs."""
    return max(each.greatest for each in verify.compare(one, other, batch))


def measure(head: Head, layers: int, *, trained: bool) -> None:
    """Prints two rows: for the import, and for the export."""
    mesh = sharding.make_mesh(MeshConfig(data=1), devices=jax.local_devices()[:1])
    architecture = BERT.architecture(head)
    pieces = pathlib.Path(_VOCAB.value).read_text(encoding="utf-8").count("\n")
    with tempfile.TemporaryDirectory() as made:
        first, second = pathlib.Path(made, "first"), pathlib.Path(made, "second")
        make_model(architecture, layers, pieces, trained=trained).save_pretrained(first)
        shutil.copyfile(_VOCAB.value, first / "vocab.txt")
        model = huggingface.read_directory(first, mesh)
        second.mkdir()
        huggingface.write_directory(model, second)
        encoder = from_dict(EncoderConfig, model.metadata["encoder"])
        tokenizer = tokenizer_from_dict(model.metadata["tokenizer"])
        batch = verify.make_input_rows(tokenizer, encoder, verify.SENTENCES)
        ours = verify.our_outputs(model, batch)
        exact = run_float64(first, head, batch)
        for way, directory in (("to ours", first), ("to theirs", second)):
            theirs = peer.load_model(directory, BERT, head, pooler=True).run(batch)
            found = verify.compare(ours, theirs, batch)
            largest = max(each.largest for each in found)
            greatest = max(each.greatest for each in found)
            print(
                f"| {architecture} | {layers} | {'trained-like' if trained else 'initial'} | {way}"
                f" | {greatest:.1e} | {largest:.3g} | {greatest / largest:.1e}"
                f" | {distance(ours, exact, batch):.1e} | {distance(theirs, exact, batch):.1e} |",
                flush=True,
            )


def main(_: list[str]) -> None:
    """Prints the table."""
    transformers.utils.logging.disable_progress_bar()
    print("| architecture | layers | weights | way | greatest | largest | ratio | ours | theirs |")
    print("|---|---|---|---|---|---|---|---|---|")
    for layers in map(int, _LAYERS.value):
        for trained in (False, True):
            for head in Head:
                measure(head, layers, trained=trained)


if __name__ == "__main__":
    app.run(main)
