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
    find_checkpoint,
    groups_in,
    read_metadata,
    restore_groups,
    write_parameters,
)
from bert_jax.checkpoints.literal_path import literal_path
from bert_jax.config import MeshConfig
from bert_jax.data.tasks.tables import read_lines
from bert_jax.distributed import sharding
from bert_jax.errors import UserError
from bert_jax.files import check_new, given_path, new_folder
from bert_jax.interop import huggingface, peer, sentence_encoder, tf1, tf1_forward, verify
from bert_jax.interop.architectures import (
    Model,
    abstract_groups,
    architecture_of,
    family_of,
    groups_of_export,
)
from bert_jax.interop.names import Misfit, tensor_mappings
from bert_jax.text.tokenizer import load_tokenizer

_HF, _TF1, _ST = "hf", "tf1", "sentence-transformers"


class ImportOptions(NamedTuple):
    """Properties of a model that the files of the other library do not tell."""

    tokenizer: str = ""  # a saved tokenizer, a *.model or a vocab.txt; '': the model's own
    pairs: bool = False  # the classifier takes pairs of texts
    padded_vocabulary: bool = False  # the embedding has more rows than the vocabulary pieces


def kind_and_path(given: str) -> tuple[str, pathlib.Path]:
    """Returns the kind of a model, '' for a checkpoint, and its path."""
    kind, _, path = given.partition(":")
    if kind not in (_HF, _TF1, _ST) or os.path.lexists(given):
        return "", given_path(given)
    return kind, given_path(path)


def read_sentences(path: str) -> Sequence[str]:
    """Returns the lines of a file that are not blank; for '' some sentences of our own."""
    if not path:
        return verify.SENTENCES
    lines = [line for _, line in read_lines(str(given_path(path)))]
    if not (sentences := [line for line in lines if line.strip()]):
        raise UserError(f"--sentences={path} has no line with a text: name another file")
    return sentences


def import_model(source: str, options: ImportOptions, mesh: Mesh) -> Model:
    """Reads the model of the other library: hf:DIR, tf1:PREFIX or sentence-transformers:DIR."""
    kind, path = kind_and_path(source)
    if kind == _ST:
        return _import_sentence_encoder(source, path, options, mesh)
    read = huggingface.read_directory if kind == _HF else tf1.read_tf1_checkpoint
    model = read(
        path,
        mesh,
        tokenizer=load_tokenizer(options.tokenizer) if options.tokenizer else None,
        pairs=options.pairs,
        padded_vocabulary=options.padded_vocabulary,
    )
    return model._replace(metadata=model.metadata | {"imported": source})


def _import_sentence_encoder(
    source: str, path: pathlib.Path, options: ImportOptions, mesh: Mesh
) -> Model:
    if options.pairs:
        raise UserError(f"--pairs is of classifiers, and {source} makes vectors: leave it out")
    model = sentence_encoder.read_sentence_encoder(
        path,
        mesh,
        tokenizer=load_tokenizer(options.tokenizer) if options.tokenizer else None,
        padded_vocabulary=options.padded_vocabulary,
    )
    return model._replace(metadata=model.metadata | {"imported": source})


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
      source: a checkpoint, hf:DIR, tf1:PREFIX or sentence-transformers:DIR.
      target: hf:DIR or sentence-transformers:DIR where the source is a checkpoint, else the
        directory of a new run.
      options: of an import.
      verify: run both models and print their maximum absolute difference.
      sentences: a text file, on whose lines both run; '': `verify.SENTENCES`.

    Raises:
      UserError: for what cannot be converted; nothing is left behind.
    """
    (kind, _), (target_kind, path) = kind_and_path(source), kind_and_path(target)
    inwards, outwards = bool(kind), target_kind in (_HF, _ST)
    if inwards == outwards or target_kind == _TF1:
        raise UserError(
            f"--from={source} --to={target}: one must be hf:DIR, sentence-transformers:DIR (or"
            " --from tf1:PREFIX), and the other a checkpoint"
        )
    if outwards and options != ImportOptions():
        raise UserError(
            "--tokenizer, --pairs and --padded_vocabulary are for imported models: leave them out"
        )
    path = check_new(path, "to")
    if inwards:
        literal_path(path)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow logs much that is no error
    mesh = sharding.make_mesh(MeshConfig(data=1), devices=jax.local_devices()[:1])
    lines = read_sentences(sentences) if verify else None
    with new_folder(path) as made:
        try:
            if inwards:
                _import(source, path, options, made, mesh, lines)
            else:
                _export(source, target_kind, path, made, mesh, lines)
        except Misfit as misfit:
            print(misfit.table, file=sys.stderr)
            raise


def _import(
    source: str,
    target: pathlib.Path,
    options: ImportOptions,
    made: pathlib.Path,
    mesh: Mesh,
    sentences: Sequence[str] | None,
) -> None:
    """Makes a checkpoint of a model of the other library, and compares both on sentences."""
    model = import_model(source, options, mesh)
    write_parameters(made, model.params, model.metadata)
    _print_groups(model, f"{source} -> {target}")
    if sentences is None:
        print("not verified: --noverify")
        return
    written = read_groups(made, mesh, tuple(model.params))
    kind, original = kind_and_path(source)
    if kind == _HF:
        proof = peer.compare_with_transformers(written, original, sentences, exported=False)
    elif kind == _ST:
        proof = sentence_encoder.compare_with_library(written, original, sentences)
    else:
        proof = tf1_forward.compare_with_tensorflow(written, original, sentences)
    for line in proof:
        print(line)


def _export(
    source: str,
    kind: str,
    target: pathlib.Path,
    made: pathlib.Path,
    mesh: Mesh,
    sentences: Sequence[str] | None,
) -> None:
    """Makes a directory for another library of a checkpoint, and compares both on sentences."""
    if kind == _ST:
        model = read_groups(given_path(source), mesh, ("encoder",))
        metadata = sentence_encoder.with_vectors(model.metadata)
        model = Model(model.params, metadata, ["the encoder alone: a vector has no head"])
        sentence_encoder.write_sentence_encoder(model, made)
    else:
        model = read_groups(given_path(source), mesh)
        huggingface.write_directory(model, made)
    _print_groups(model, f"{source} -> {kind}:{target}")
    if sentences is None:
        print("not verified: --noverify")
        return
    for line in peer.compare_with_transformers(model, made, sentences, exported=True):
        print(line)
    if kind == _ST:
        for line in sentence_encoder.compare_with_library(model, made, sentences):
            print(line)


def _print_groups(model: Model, heading: str) -> None:
    """Prints the groups of a converted model with their sizes, and the notes about it."""
    family = family_of(model.metadata)
    print(f"{heading}: {architecture_of(model.metadata)}")
    for group, tree in model.params.items():
        leaves = jax.tree.leaves(tree)
        tensors = len({each.name for each in tensor_mappings(family, {group: tree})})
        print(f"  {group:12}{sum(leaf.size for leaf in leaves):>14,} parameters, {tensors} tensors")
    for note in model.notes:
        print(f"  {note}")
