"""Models that were not made here: what their tensors and their config make of them."""

from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from bert_jax.config import EncoderConfig, TaskKind
from bert_jax.errors import UserError
from bert_jax.interop.architectures import (
    CLASSES,
    SPANS,
    TOKENS,
    Model,
    abstract_groups,
    fine_tuned_metadata,
    groups_of_file,
    pretrained_metadata,
)
from bert_jax.interop.names import Tensor, check_tensors, from_theirs
from bert_jax.text.tokenizer import Tokenizer


def check_vocabulary(
    tokenizer: Tokenizer, encoder: EncoderConfig, where: object, *, padded: bool
) -> None:
    """Raises UserError unless the embedding has as many rows as the vocabulary pieces, or more."""
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


def described(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns a tokenizer as a checkpoint keeps it."""
    return tokenizer.to_dict() | {"fingerprint": tokenizer.fingerprint}


def read_foreign(
    where: str,
    values: Mapping[str, Any],
    encoder: EncoderConfig,
    tensors: Mapping[str, Tensor],
    mesh: Mesh,
    *,
    pairs: bool,
) -> Model:
    """Makes a model of tensors and of what their config says of the head; it has no tokenizer yet.

    Args:
      where: what errors call the directory.
      values: `architectures`, `id2label`, `num_labels` and `problem_type`, where they are known.
      encoder: its shape.
      tensors: by canonical name.
      mesh: of one device, for shapes.
      pairs: whether a classifier reads pairs of texts.

    Raises:
      UserError: if the tensors are not those of such a model, or it has none here.
    """
    declared = values.get("architectures") or [None]
    if not isinstance(declared, list):
        raise UserError(f"{where}: architectures={declared} is no list of names")
    declared = declared[0]
    groups = groups_of_file(declared, tensors, where)
    if declared == CLASSES:
        labels = read_labels(values, where)
        one_number = len(labels) == 1
        task = TaskKind.REGRESSION if one_number else TaskKind.CLASSIFICATION
        metadata = fine_tuned_metadata(encoder, task, [] if one_number else labels, pairs=pairs)
    elif declared == TOKENS:
        labels = read_labels(values, where)
        metadata = fine_tuned_metadata(encoder, TaskKind.TAGS, labels, pairs=False)
    elif declared == SPANS:
        metadata = fine_tuned_metadata(encoder, TaskKind.SPANS, [], pairs=False)
    else:
        metadata = pretrained_metadata(encoder, groups)
    if pairs and declared != CLASSES:
        raise UserError(f"--pairs is of {CLASSES}, and {where} holds another: leave it out")
    abstract = abstract_groups(metadata, groups, mesh)
    check_tensors(where, tensors, abstract)
    notes = []
    if short := sorted({t.dtype for t in tensors.values()} & {"float16", "bfloat16"}):
        notes.append(f"{' and '.join(short)} became float32, which holds the same values")
    return Model(from_theirs(abstract, lambda name: tensors[name].read()), metadata, notes)


def read_labels(values: Mapping[str, Any], where: object) -> list[str]:
    """Returns the names of the classes, as many as the head has outputs.

    Raises:
      UserError: if they are not numbered from 0, or the head answers something else.
    """
    problem = values.get("problem_type")
    if problem not in (None, "single_label_classification", "regression"):
        raise UserError(
            f"{where}: problem_type={problem} is not implemented: one label an input is"
        )
    count = values.get("num_labels", 2)
    if not isinstance(count, int):
        raise UserError(f"{where}: num_labels={count} is no whole number")
    named = values.get("id2label") or {str(each): f"LABEL_{each}" for each in range(count)}
    if not isinstance(named, dict) or named.keys() != {str(each) for each in range(len(named))}:
        raise UserError(f"{where}: id2label={named} does not name the classes from 0 on")
    numbers = [str(number) for number in range(len(named))]
    labels = [str(named[number]) for number in numbers]
    if len(set(labels)) < len(labels):
        raise UserError(f"{where}: id2label gives two classes one name: rename one of them")
    if problem == "regression" and len(labels) > 1:
        raise UserError(
            f"{where}: a regression of {len(labels)} numbers is not implemented: one is"
        )
    return labels
