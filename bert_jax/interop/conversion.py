"""Conversion of models between checkpoints and other libraries, with a proof on sentences."""

import os
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.checkpoints.checkpoint import (
    Checkpoints,
    find_checkpoint,
    groups_in,
    read_metadata,
    restore_groups,
)
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

_HF, _TF1 = "hf", "tf1"


class ImportOptions(NamedTuple):
    """Properties of a model that the files of the other library do not tell."""

    tokenizer: str = ""  # a saved tokenizer, a *.model or a vocab.txt; '': the model's own
    pairs: bool = False  # the classifier takes pairs of texts
    padded_vocabulary: bool = False  # the embedding has more rows than the vocabulary pieces


def read_sentences(path: str) -> Sequence[str]:
    """Returns the lines of a file that are not blank; for '' some sentences of our own."""
    if not path:
        return verify.SENTENCES
    try:
        lines = pathlib.Path(path).expanduser().read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"--sentences={path} is not UTF-8 at byte {error.start}: convert it first"
        ) from None
    if not (sentences := [line for line in lines if line.strip()]):
        raise UserError(f"--sentences={path} has no line with a text: name another file")
    return sentences


def import_model(source: str, options: ImportOptions, mesh: Mesh) -> Model:
    """Reads the model of the other library: hf:DIR or tf1:PREFIX."""
    kind, _, path = source.partition(":")
    read = huggingface.read_directory if kind == _HF else tf1.read_tf1_checkpoint
    model = read(
        pathlib.Path(path).expanduser(),
        mesh,
        tokenizer=load_tokenizer(options.tokenizer) if options.tokenizer else None,
        pairs=options.pairs,
        padded_vocabulary=options.padded_vocabulary,
    )
    return model._replace(metadata=model.metadata | {"imported": source})


def write_checkpoint(model: Model, workdir: pathlib.Path) -> None:
    """Writes step 0 of a run: parameters and metadata, no optimizer state; and the tokenizer."""
    checkpoints = Checkpoints(workdir, keep=1)
    params = jax.device_put(model.params)
    checkpoints.save(TrainState(np.int32(0), params, None), model.metadata)
    checkpoints.close()
    tokenizer_from_dict(model.metadata["tokenizer"]).save(workdir / "tokenizer")


def read_groups(directory: pathlib.Path, mesh: Mesh, groups: Sequence[str] | None = None) -> Model:
    """Reads some groups of a checkpoint; None: those that the other library has a place for."""
    checkpoint = find_checkpoint(directory)
    metadata, stored = read_metadata(checkpoint), groups_in(checkpoint)
    groups = groups_of_export(metadata, stored) if groups is None else groups
    params = restore_groups(checkpoint, abstract_groups(metadata, groups, mesh), groups)
    notes = []
    if unused := [group for group in stored if group not in groups]:
        notes.append(f"{architecture_of(metadata)} has no place for {', '.join(unused)}: left out")
    return Model(jax.tree.map(np.asarray, params), metadata, notes)


def convert(
    source: str,
    target: str,
    options: ImportOptions = ImportOptions(),
    *,
    verify: bool = True,
    sentences: str = "",
) -> None:
    """Converts into a directory beside the target, which is renamed when it is complete.

    Args:
      source: a checkpoint, hf:DIR or tf1:PREFIX.
      target: hf:DIR where the source is a checkpoint, else the directory of a new run.
      options: of an import.
      verify: run both models and print their maximum absolute difference.
      sentences: a text file, on whose lines both run; '': `verify.SENTENCES`.

    Raises:
      UserError: for what cannot be converted; nothing is left behind.
    """
    inwards, outwards = source.startswith((f"{_HF}:", f"{_TF1}:")), target.startswith(f"{_HF}:")
    if inwards == outwards:
        raise UserError(
            f"--from={source} --to={target}: one must be hf:DIR (or --from tf1:PREFIX), and the"
            " other a checkpoint"
        )
    if outwards and options != ImportOptions():
        raise UserError(
            "--tokenizer, --pairs and --padded_vocabulary are for imported models: leave them out"
        )
    path = pathlib.Path(target.removeprefix(f"{_HF}:")).expanduser().absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"--to={target} is there already: name a new or an empty directory")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow logs much that is no error
    mesh = sharding.make_mesh(MeshConfig(data=1), devices=jax.local_devices()[:1])
    lines = read_sentences(sentences) if verify else None
    with locked_staging(path, is_worth_keeping=lambda _: False) as staging:
        try:
            if inwards:
                _import(source, path, options, staging, mesh, lines)
            else:
                _export(source, path, staging, mesh, lines)
        except Misfit as misfit:
            print(misfit.table, file=sys.stderr)
            raise
        os.replace(staging, path)


def _import(
    source: str,
    target: pathlib.Path,
    options: ImportOptions,
    staging: pathlib.Path,
    mesh: Mesh,
    sentences: Sequence[str] | None,
) -> None:
    """Makes a checkpoint of a model of the other library, and compares both on sentences."""
    model = import_model(source, options, mesh)
    write_checkpoint(model, staging)
    _print_groups(model, f"{source} -> {target}")
    if sentences is None:
        print("not verified: --noverify")
        return
    written = read_groups(staging, mesh, tuple(model.params))
    kind, _, path = source.partition(":")
    original = pathlib.Path(path).expanduser()
    if kind == _HF:
        proof = peer.compare_with_transformers(written, original, sentences, exported=False)
    else:
        proof = tf1_forward.compare_with_tensorflow(written, original, sentences)
    for line in proof:
        print(line)


def _export(
    source: str,
    target: pathlib.Path,
    staging: pathlib.Path,
    mesh: Mesh,
    sentences: Sequence[str] | None,
) -> None:
    """Makes a directory for transformers of a checkpoint, and compares both on sentences."""
    model = read_groups(pathlib.Path(source).expanduser(), mesh)
    huggingface.write_directory(model, staging)
    _print_groups(model, f"{source} -> {_HF}:{target}")
    if sentences is None:
        print("not verified: --noverify")
        return
    for line in peer.compare_with_transformers(model, staging, sentences, exported=True):
        print(line)


def _print_groups(model: Model, heading: str) -> None:
    """Prints the groups of a converted model with their sizes, and the notes about it."""
    print(f"{heading}: {architecture_of(model.metadata)}")
    for group, tree in model.params.items():
        leaves = jax.tree.leaves(tree)
        tensors = len(tensor_mappings({group: tree}))
        print(f"  {group:12}{sum(leaf.size for leaf in leaves):>14,} parameters, {tensors} tensors")
    for note in model.notes:
        print(f"  {note}")
