"""Converts a model: from transformers or Google's TF1 code to a checkpoint, and to transformers.

    python -m bert_jax.convert --from=hf:DIR --to=CHECKPOINT
    python -m bert_jax.convert --from=tf1:uncased_L-12_H-768_A-12/bert_model.ckpt --to=CHECKPOINT
    python -m bert_jax.convert --from=runs/base --to=hf:DIR

A checkpoint is a directory that `finetune`, `predict`, `evaluate` and `pretrain --init` take. After
the conversion both sides run on the same sentences, where the other library is installed, and the
greatest difference is told; --noverify (or --verify=false) leaves that out.
"""

import os
import pathlib
import sys
from collections.abc import Sequence

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh

from bert_jax.checkpoints.checkpoint import (
    Checkpoints,
    find_checkpoint,
    groups_in,
    read_metadata,
    restore_groups,
)
from bert_jax.cli import app
from bert_jax.config import MeshConfig
from bert_jax.data.corpus.staging import locked_staging
from bert_jax.distributed import sharding
from bert_jax.errors import UserError
from bert_jax.interop import huggingface, peer, tf1, tf1_forward, verify
from bert_jax.interop.architectures import (
    Model,
    abstract_groups,
    architecture_of,
    groups_of_export,
)
from bert_jax.interop.names import Misfit, tensor_mappings
from bert_jax.text.tokenizer import load_tokenizer, tokenizer_from_dict
from bert_jax.training.state import TrainState

_FROM = flags.DEFINE_string("from", None, "hf:DIR, tf1:PREFIX, or a run or one of its checkpoints")
_TO = flags.DEFINE_string("to", None, "a new directory: of a checkpoint, or hf:DIR")
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", "", "of an imported model that has none: a saved one, a *.model or a vocab.txt"
)
_PAIRS = flags.DEFINE_bool("pairs", False, "the imported classifier reads pairs of texts")
_PADDED = flags.DEFINE_bool(
    "padded_vocabulary", False, "the imported embedding has more rows than the vocabulary pieces"
)
_VERIFY = flags.DEFINE_bool("verify", True, "run both sides and tell how far apart they are")
_SENTENCES = flags.DEFINE_string(
    "sentences", "", "a text file of lines to compare both sides on, instead of a few of our own"
)

_HF, _TF1 = "hf", "tf1"


def read_sentences(path: str) -> Sequence[str]:
    """Returns the lines of a file that hold something, or our own sentences for ''."""
    if not path:
        return verify.SENTENCES
    try:
        lines = pathlib.Path(path).expanduser().read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"--sentences={path} is not UTF-8 at byte {error.start}") from None
    if not (sentences := [line for line in lines if line.strip()]):
        raise UserError(f"--sentences={path} has no line with a text")
    return sentences


def import_model(source: str, mesh: Mesh) -> Model:
    """Reads the model of the other library."""
    kind, _, place = source.partition(":")
    read = huggingface.read_directory if kind == _HF else tf1.read_tf1_checkpoint
    model = read(
        pathlib.Path(place).expanduser(),
        mesh,
        tokenizer=load_tokenizer(_TOKENIZER.value) if _TOKENIZER.value else None,
        pairs=_PAIRS.value,
        padded_vocabulary=_PADDED.value,
    )
    return model._replace(metadata=model.metadata | {"imported": source})


def write_checkpoint(model: Model, workdir: pathlib.Path) -> None:
    """Writes step 0 of a run: parameters and metadata, no optimizer state; and the tokenizer."""
    checkpoints = Checkpoints(workdir, keep=1)
    params = jax.device_put(model.params)
    checkpoints.save(TrainState(np.int32(0), params, None), model.metadata)
    checkpoints.close()
    tokenizer_from_dict(model.metadata["tokenizer"]).save(workdir / "tokenizer")


def read_checkpoint(
    directory: pathlib.Path, mesh: Mesh, groups: Sequence[str] | None = None
) -> Model:
    """Reads some groups of a checkpoint; None: those that its model of theirs has a place for."""
    checkpoint = find_checkpoint(directory)
    metadata, stored = read_metadata(checkpoint), groups_in(checkpoint)
    groups = groups_of_export(metadata, stored) if groups is None else groups
    params = restore_groups(checkpoint, abstract_groups(metadata, groups, mesh), groups)
    notes = []
    if unused := [group for group in stored if group not in groups]:
        notes.append(f"{architecture_of(metadata)} has no place for {', '.join(unused)}: left out")
    return Model(jax.tree.map(np.asarray, params), metadata, notes)


def convert_in(source: str, target: pathlib.Path, staging: pathlib.Path, mesh: Mesh) -> None:
    """Makes a checkpoint of a model of the other library, and proves it."""
    sentences = read_sentences(_SENTENCES.value)
    model = import_model(source, mesh)
    write_checkpoint(model, staging)
    tell(model, f"{source} -> {target}")
    if not _VERIFY.value:
        print("not verified: --noverify")
        return
    written = read_checkpoint(staging, mesh, tuple(model.params))
    kind, _, place = source.partition(":")
    path = pathlib.Path(place).expanduser()
    if kind == _HF:
        proof = peer.compare_with_transformers(written, path, sentences, exported=False)
    else:
        proof = tf1_forward.compare_with_tensorflow(written, path, sentences)
    for line in proof:
        print(line)


def convert_out(source: str, target: pathlib.Path, staging: pathlib.Path, mesh: Mesh) -> None:
    """Makes a directory of transformers of a checkpoint, and proves it."""
    sentences = read_sentences(_SENTENCES.value)
    model = read_checkpoint(pathlib.Path(source).expanduser(), mesh)
    huggingface.write_directory(model, staging)
    tell(model, f"{source} -> {_HF}:{target}")
    if not _VERIFY.value:
        print("not verified: --noverify")
        return
    for line in peer.compare_with_transformers(model, staging, sentences, exported=True):
        print(line)


def tell(model: Model, said: str) -> None:
    """Says what was converted, group by group."""
    print(f"{said}: {architecture_of(model.metadata)}")
    for group, tree in model.params.items():
        leaves = jax.tree.leaves(tree)
        tensors = len(tensor_mappings({group: tree}))
        print(f"  {group:12}{sum(leaf.size for leaf in leaves):>14,} parameters, {tensors} tensors")
    for note in model.notes:
        print(f"  {note}")


def main(_: Sequence[str]) -> None:
    """Converts beside the target, and moves it there when all is well."""
    source = app.require("from", _FROM.value, "hf:DIR")
    target = app.require("to", _TO.value, "runs/imported")
    inwards, outwards = source.startswith((f"{_HF}:", f"{_TF1}:")), target.startswith(f"{_HF}:")
    if inwards == outwards:
        raise UserError(
            f"--from={source} --to={target}: one must be hf:DIR (or --from tf1:PREFIX), and the"
            " other a checkpoint"
        )
    if outwards and (_TOKENIZER.value or _PAIRS.value or _PADDED.value):
        raise UserError("--tokenizer, --pairs and --padded_vocabulary are of what is imported")
    path = pathlib.Path(target.removeprefix(f"{_HF}:")).expanduser().absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"--to={target} is there already: name a new or an empty directory")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow tells much that is no error
    mesh = sharding.make_mesh(MeshConfig(data=1), devices=jax.local_devices()[:1])
    with locked_staging(path, worth_keeping=lambda _: False) as staging:
        try:
            (convert_in if inwards else convert_out)(source, path, staging, mesh)
        except Misfit as misfit:
            print(misfit.table, file=sys.stderr)
            raise
        os.replace(staging, path)


if __name__ == "__main__":
    app.run(main)
