"""Models that other libraries trained: their metadata and parameters, from tensors and config."""

from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from bert_jax.config import EncoderConfig, TaskKind
from bert_jax.errors import UserError
from bert_jax.interop.architectures import (
    Model,
    abstract_groups,
    fine_tuned_metadata,
    groups_of_file,
    pretrained_metadata,
)
from bert_jax.interop.families.family import Family, Head
from bert_jax.interop.names import Tensor, check_tensors, from_theirs
from bert_jax.text.tokenizer import Tokenizer

_MOST_LABELS = 1_000_000  # that have no names


def check_vocabulary(
    tokenizer: Tokenizer, encoder: EncoderConfig, where: object, *, padded: bool
) -> None:
    """Checks that the embedding has as many rows as the vocabulary has pieces.

    Args:
      tokenizer: the model's.
      encoder: its shape.
      where: the file or directory, for errors.
      padded: True to allow more rows.

    Raises:
      UserError: if it has not.
    """
    pieces, rows = tokenizer.vocab_size, encoder.vocab_size
    if pieces > rows or (pieces < rows and not padded):
        padding = (
            f"; if its last {rows - pieces:,} rows are padding, add --padded_vocabulary"
            if pieces < rows
            else ""
        )
        raise UserError(
            f"{where}: the vocabulary has {pieces:,} pieces and the embedding {rows:,} rows: give"
            f" the tokenizer that the model was trained with{padding}"
        )


def tokenizer_metadata(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the entry of a tokenizer in the metadata of a checkpoint."""
    return tokenizer.to_dict() | {"fingerprint": tokenizer.fingerprint}


def read_foreign(
    where: str,
    family: Family,
    values: Mapping[str, Any],
    encoder: EncoderConfig,
    tensors: Mapping[str, Tensor],
    mesh: Mesh,
    *,
    pairs: bool,
) -> Model:
    """Builds a model, without a tokenizer, from tensors and the config's fields for the head.

    Args:
      where: the file or directory, for errors.
      family: of the model.
      values: `architectures`, `id2label`, `num_labels`, `problem_type` and `pad_token_id`, as far
        as known.
      encoder: its shape.
      tensors: by canonical name.
      mesh: of one device.
      pairs: True if a classifier reads pairs of texts.

    Raises:
      UserError: if the tensors do not fit, or this project has no such model.
    """
    declared = values.get("architectures") or [None]
    if not isinstance(declared, list):
        raise UserError(f"{where}: architectures={declared} is not a list: correct config.json")
    declared = declared[0]
    groups = groups_of_file(family, declared, tensors, where)
    head = None if declared is None else family.head_of(declared)
    if head is Head.CLASSES:
        labels = read_labels(values, where)
        one_number = len(labels) == 1
        task = TaskKind.REGRESSION if one_number else TaskKind.CLASSIFICATION
        metadata = fine_tuned_metadata(encoder, task, [] if one_number else labels, pairs=pairs)
    elif head is Head.TOKENS:
        labels = read_labels(values, where)
        metadata = fine_tuned_metadata(encoder, TaskKind.TAGS, labels, pairs=False)
    elif head is Head.SPANS:
        metadata = fine_tuned_metadata(encoder, TaskKind.SPANS, [], pairs=False)
    else:
        metadata = pretrained_metadata(encoder, groups)
    if pairs and head is not Head.CLASSES:
        raise UserError(
            f"--pairs is for {family.architecture(Head.CLASSES)}, and {where} is {declared}: leave"
            " it out"
        )
    metadata["family"] = family.model_type
    abstract, pad_id = abstract_groups(metadata, groups, mesh), pad_id_of(family, values)
    notes = []
    if unread := check_tensors(where, family, tensors, abstract, pad_id):
        notes.append(f"not read, as no head here has them: {', '.join(unread)}")
    if short := sorted({t.dtype for t in tensors.values()} & {"float16", "bfloat16"}):
        notes.append(f"{' and '.join(short)} converted to float32, with the same values")
    params = from_theirs(family, abstract, lambda name: tensors[name].read(), pad_id)
    return Model(params, metadata, notes)


def pad_id_of(family: Family, values: Mapping[str, Any]) -> int:
    """Returns the id of the padding piece by a config.json."""
    found = values.get("pad_token_id")
    found = family.defaults.get("pad_token_id", 0) if found is None else found
    return found if isinstance(found, int) else 0


def read_labels(values: Mapping[str, Any], where: object) -> list[str]:
    """Returns the names of the classes, one for each output of the head.

    Raises:
      UserError: if they are not numbered from 0, or the head predicts several labels or numbers.
    """
    problem = values.get("problem_type")
    if problem not in (None, "single_label_classification", "regression"):
        raise UserError(
            f"{where}: problem_type={problem} is not implemented: only one label per input is"
        )
    count = values.get("num_labels", 2)
    if type(count) is not int or not 0 < count <= _MOST_LABELS:
        raise UserError(
            f"{where}: num_labels={count} is not an integer from 1 to {_MOST_LABELS:,}: correct"
            " config.json"
        )
    named = values.get("id2label") or {str(each): f"LABEL_{each}" for each in range(count)}
    if not isinstance(named, dict) or named.keys() != {str(each) for each in range(len(named))}:
        raise UserError(f"{where}: id2label={named} does not number the classes from 0: correct it")
    numbers = [str(number) for number in range(len(named))]
    labels = [str(named[number]) for number in numbers]
    if len(set(labels)) < len(labels):
        raise UserError(f"{where}: id2label gives two classes one name: rename one of them")
    if problem == "regression" and len(labels) > 1:
        raise UserError(
            f"{where}: regression of {len(labels)} numbers is not implemented: only of one is"
        )
    return labels
