"""Reader and writer for directories of transformers."""

import json
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from safetensors.numpy import save_file

from bert_jax.checkpoints.fingerprint import fingerprints, json_digest
from bert_jax.config import EncoderConfig, FinetuneConfig, PretrainConfig, from_dict
from bert_jax.errors import UserError
from bert_jax.files import read_json
from bert_jax.interop.architectures import (
    ENCODER_KIND,
    PRETRAINING_KIND,
    Model,
    abstract_groups,
    family_of,
    head_of,
)
from bert_jax.interop.families.family import Family, Head
from bert_jax.interop.families.registry import FAMILIES
from bert_jax.interop.foreign import (
    check_vocabulary,
    pad_id_of,
    read_foreign,
    read_labels,
    tokenizer_metadata,
)
from bert_jax.interop.huggingface_config import (
    find_family,
    read_encoder_config,
    write_encoder_config,
)
from bert_jax.interop.model_card import make_card
from bert_jax.interop.names import Tensor, check_tensors, from_theirs, to_theirs
from bert_jax.interop.tokenizers.huggingface_tokenizer import (
    TOKENIZER_FILE,
    check_segments,
    read_max_length,
    read_tokenizer,
    write_tokenizer,
)
from bert_jax.interop.weights import SAFETENSORS_FILE, open_weights
from bert_jax.text.library import library_from_values
from bert_jax.text.tokenizer import SentencePieceTokenizer, Tokenizer, tokenizer_from_dict

HF_CONFIG_FILE = "config.json"
OWN_METADATA_FILE = "bert_jax.json"  # of an exported model: metadata that no other file has
CARD_FILE = "README.md"


def read_directory(
    directory: pathlib.Path,
    mesh: Mesh,
    *,
    tokenizer: Tokenizer | None = None,
    pairs: bool = False,
    padded_vocabulary: bool = False,
) -> Model:
    """Reads a model that transformers, or `write_directory`, wrote.

    Args:
      directory: with config.json, weights and a tokenizer.
      mesh: of one device.
      tokenizer: the model's; None: from the directory.
      pairs: True if a classifier reads pairs of texts; an exported one tells it itself.
      padded_vocabulary: True if the embedding may have more rows than the vocabulary has pieces.

    Raises:
      UserError: if it is not a BERT, is damaged or incomplete, or its files do not fit together.
    """
    path = directory / HF_CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{directory} has no {HF_CONFIG_FILE}: name a directory of transformers")
    values = read_json(path)
    family = find_family(values, FAMILIES, path)
    encoder = read_encoder_config(family, values, path)
    tensors = open_weights(directory, family)
    model = _read_own(directory, family, values, encoder, tensors, mesh)
    if model is None:
        model = read_foreign(str(directory), family, values, encoder, tensors, mesh, pairs=pairs)
        tokenizer = tokenizer or read_tokenizer(directory, rows=encoder.vocab_size)
        model.notes.extend(tokenizer.notes)
    else:
        if pairs and not _reads_pairs(model.metadata):
            raise UserError(
                f"--pairs: {directory / OWN_METADATA_FILE} says that the model reads one text:"
                " leave it out, or remove that file to read the directory without it"
            )
        stored = tokenizer_from_dict(model.metadata["tokenizer"])
        padded_vocabulary |= stored.vocab_size < encoder.vocab_size
        source = "--tokenizer" if tokenizer else "the files, which have changed"
        tokenizer = tokenizer or _exported_tokenizer(directory, stored, encoder)
        if tokenizer.fingerprint != stored.fingerprint:
            model.notes.append(f"not the tokenizer of the export, but that of {source}")
            model.notes.extend(tokenizer.notes)
    if encoder.segments > 1 and tokenizer.special.segments and _reads_pairs(model.metadata):
        check_segments(directory)
    check_vocabulary(tokenizer, encoder, directory, padded=padded_vocabulary)
    model.metadata["tokenizer"] = tokenizer_metadata(tokenizer)
    if max_length := read_max_length(directory):
        model.metadata["max_length"] = min(max_length, encoder.max_length)
    return model


def _read_own(
    directory: pathlib.Path,
    family: Family,
    values: Mapping[str, Any],
    encoder: EncoderConfig,
    tensors: Mapping[str, Tensor],
    mesh: Mesh,
) -> Model | None:
    """Reads a model that this project exported, with its full metadata.

    Returns:
      None if it is not such a model, or its weights or config have changed since the export.
    """
    path = directory / OWN_METADATA_FILE
    if not path.is_file():
        return None
    metadata, of_params = _read_metadata(path)
    stored = from_dict(EncoderConfig, metadata["encoder"])
    architecture = family.architecture(head_of(metadata))
    pad_id = pad_id_of(family, values)
    # The encoder that the config of the exported one tells.
    written = write_encoder_config(family, stored, pad_id) | {"pad_token_id": pad_id}
    told = read_encoder_config(family, written, path)
    if told != encoder or values.get("architectures") != [architecture]:
        return None
    if metadata.get("labels"):
        metadata["labels"] = read_labels(values, directory)
    groups = dict.fromkeys(name.partition("/")[0] for name in of_params)
    abstract = abstract_groups(metadata, groups, mesh)
    check_tensors(str(directory), family, tensors, abstract, pad_id)
    params = from_theirs(family, abstract, lambda name: tensors[name].read(), pad_id)
    return Model(params, metadata, []) if fingerprints(params) == of_params else None


def _reads_pairs(metadata: Mapping[str, Any]) -> bool:
    head = head_of(metadata)
    pairs = head is Head.CLASSES and metadata["config"]["data"].get("text_pair_column")
    return bool(pairs) or head is Head.SPANS


def _exported_tokenizer(
    directory: pathlib.Path, stored: Tokenizer, encoder: EncoderConfig
) -> Tokenizer:
    """Returns the stored tokenizer if the files have the one that was exported, else theirs.

    Raises:
      UserError: as `read_tokenizer`, which cannot read a changed SentencePiece model either.
    """
    name, _ = stored.model_file()
    if not any((directory / each).is_file() for each in (TOKENIZER_FILE, name)):
        return stored  # a copy without a tokenizer, which says nothing else
    with tempfile.TemporaryDirectory() as made:
        written = pathlib.Path(made)
        write_tokenizer(stored, written, encoder.max_length)
        if isinstance(stored, SentencePieceTokenizer):
            path = directory / TOKENIZER_FILE
            if not path.is_file() or _as_library(path) == _as_library(written / TOKENIZER_FILE):
                return stored
            raise UserError(
                f"{path} is not as it was exported, and no SentencePiece model can be read from"
                f" it: copy it again, or give --tokenizer={directory / name}"
            )
        rows = encoder.vocab_size
        found, exported = (read_tokenizer(each, rows=rows) for each in (directory, written))
    return stored if found.fingerprint == exported.fingerprint else found


def _as_library(path: pathlib.Path) -> str:
    """Returns a tokenizer.json as the installed library writes it, whichever version wrote it."""
    return library_from_values(read_json(path) | {"padding": None}, str(path)).to_str()


def _read_metadata(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Returns the metadata of an exported model, and the fingerprints of its parameters."""
    metadata = read_json(path)
    try:
        if metadata.pop("digest") != json_digest(metadata):
            raise ValueError
        tokenizer_from_dict(metadata["tokenizer"])
        pretrained = metadata["kind"] in (PRETRAINING_KIND, ENCODER_KIND)
        from_dict(PretrainConfig if pretrained else FinetuneConfig, metadata["config"])
        return metadata, dict(metadata.pop("fingerprints"))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is damaged: remove it to read the directory without it") from None


def write_directory(model: Model, directory: pathlib.Path) -> None:
    """Writes a directory for transformers, with a model card and this project's metadata.

    Args:
      model: with exactly the groups of its architecture.
      directory: exists and is empty.

    Raises:
      UserError: if no family of transformers, or no tokenizer.json, can represent the model.
    """
    metadata = model.metadata
    encoder = from_dict(EncoderConfig, metadata["encoder"])
    tokenizer = tokenizer_from_dict(metadata["tokenizer"])
    family, head = family_of(metadata), head_of(metadata)
    special = tokenizer.special
    values = {
        "architectures": [family.architecture(head)],
        **write_encoder_config(family, encoder, special.pad),
        **_write_labels(metadata, head),
        "pad_token_id": special.pad,
        **{field: getattr(special, role) for field, role in family.special.items()},
    }
    write_tokenizer(
        tokenizer,
        directory,
        metadata.get("max_length", encoder.max_length),
        segments=special.segments and encoder.segments > 1,
    )
    own = {name: metadata[name] for name in _OWN_METADATA if name in metadata}
    own["fingerprints"] = fingerprints(model.params)
    own["digest"] = json_digest(own)
    _write_json(directory / HF_CONFIG_FILE, values)
    _write_json(directory / OWN_METADATA_FILE, own)
    (directory / CARD_FILE).write_text(make_card(model, family, head), encoding="utf-8")
    prefix = family.base if head is Head.ENCODER else ""  # transformers writes it without
    tensors = {
        name.removeprefix(prefix): np.ascontiguousarray(tensor)
        for name, tensor in to_theirs(family, model.params, special.pad).items()
    }
    save_file(tensors, directory / SAFETENSORS_FILE, metadata={"format": "pt"})
    # The library creates files that only their owner can read.
    (directory / SAFETENSORS_FILE).chmod((directory / HF_CONFIG_FILE).stat().st_mode)


_OWN_METADATA = "kind config encoder family tokenizer labels scores max_length similarity".split()


def _write_labels(metadata: Mapping[str, Any], head: Head) -> dict[str, Any]:
    labels: Sequence[str] = metadata.get("labels", [])
    if head is Head.TOKENS:
        return _named(labels)
    if head is Head.CLASSES and labels:
        return _named(labels) | {"problem_type": "single_label_classification"}
    if head is Head.CLASSES:
        return _named(["LABEL_0"]) | {"problem_type": "regression"}
    return _named(["LABEL_0", "LABEL_1"]) if head is Head.SPANS else {}


def _named(labels: Sequence[str]) -> dict[str, Any]:
    return {
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }


def _write_json(path: pathlib.Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
