"""Reader for the checkpoints of Google's TensorFlow 1 code for BERT; it needs TensorFlow.

The directory has PREFIX.index and its data, bert_config.json and vocab.txt. The variables are
renamed and transposed to those of transformers, so that one table of names serves both. The
variables of optimizers are ignored.
"""

import pathlib
import re
import threading
from typing import Any

import numpy as np
from jax.sharding import Mesh

from bert_jax.errors import UserError
from bert_jax.files import read_json
from bert_jax.interop.architectures import Model
from bert_jax.interop.families.bert import BERT
from bert_jax.interop.families.family import Head
from bert_jax.interop.foreign import check_vocabulary, read_foreign, tokenizer_metadata
from bert_jax.interop.huggingface_config import read_encoder_config
from bert_jax.interop.names import Tensor
from bert_jax.text.tokenizer import Tokenizer, load_tokenizer
from bert_jax.text.vocabulary import VOCAB_FILE

TF1_CONFIG_FILE = "bert_config.json"

_SLOTS = ("adam_m", "adam_v", "AdamWeightDecayOptimizer", "AdamWeightDecayOptimizer_1")
_HEADS = {
    "cls/predictions/output_bias": "cls.predictions.bias",
    "cls/seq_relationship/output_weights": "cls.seq_relationship.weight",
    "cls/seq_relationship/output_bias": "cls.seq_relationship.bias",
    "cls/squad/output_weights": "qa_outputs.weight",
    "cls/squad/output_bias": "qa_outputs.bias",
    "output_weights": "classifier.weight",
    "output_bias": "classifier.bias",
}


def read_tf1_checkpoint(
    prefix: pathlib.Path,
    mesh: Mesh,
    *,
    tokenizer: Tokenizer | None = None,
    pairs: bool = False,
    padded_vocabulary: bool = False,
) -> Model:
    """Reads a checkpoint, as `huggingface.read_directory` reads a directory.

    Args:
      prefix: the path without .index.
      mesh: of one device.
      tokenizer: the model's; None: from vocab.txt, cased or not as its pieces are.
      pairs: True if a classifier reads pairs of texts.
      padded_vocabulary: True if the embedding may have more rows than the vocabulary has pieces.

    Raises:
      UserError: if it is not a BERT, is damaged or incomplete, or its files do not fit together.
    """
    tensors = _open(prefix)
    path = prefix.with_name(TF1_CONFIG_FILE)
    if not path.is_file():
        raise UserError(f"{path} is missing: put the model's {TF1_CONFIG_FILE} next to {prefix}")
    values = read_json(path)
    encoder = read_encoder_config(BERT, values, path)
    values = {"architectures": None, **_head_of(tensors)}
    model = read_foreign(str(prefix), BERT, values, encoder, tensors, mesh, pairs=pairs)
    if tokenizer is None:
        path = prefix.with_name(VOCAB_FILE)
        if not path.is_file():
            raise UserError(f"{path} is missing: put it next to {prefix}, or give --tokenizer")
        tokenizer = load_tokenizer(path)
    model.notes.extend(tokenizer.notes)
    check_vocabulary(tokenizer, encoder, prefix, padded=padded_vocabulary)
    model.metadata["tokenizer"] = tokenizer_metadata(tokenizer)
    return model


def open_reader(prefix: pathlib.Path) -> Any:
    """Opens a checkpoint with TensorFlow.

    Raises:
      UserError: if TensorFlow is not installed, or the checkpoint is missing or damaged.
    """
    try:
        import tensorflow as tf
    except ImportError:
        raise UserError(
            f"tf1:{prefix} needs TensorFlow: install it with pip install -e '.[tf1]'"
        ) from None
    if not prefix.with_name(f"{prefix.name}.index").is_file():
        raise UserError(f"{prefix}.index is missing: name a checkpoint without its .index")
    try:
        return tf.train.load_checkpoint(str(prefix))
    except Exception as error:  # its errors have no common type
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{prefix} is damaged ({reason}): copy or download it again") from None


def _open(prefix: pathlib.Path) -> dict[str, Tensor]:
    reader = open_reader(prefix)
    dtypes = reader.get_variable_to_dtype_map()
    tensors, one_at_a_time = {}, threading.Lock()
    for variable, shape in reader.get_variable_to_shape_map().items():
        if variable == "global_step" or variable.rpartition("/")[2] in _SLOTS:
            continue
        transposed = variable.endswith("/kernel")
        shape = tuple(shape[::-1] if transposed else shape)

        def read(variable: str = variable, transposed: bool = transposed) -> np.ndarray:
            try:
                with one_at_a_time:  # the reader is not made for several threads
                    values = reader.get_tensor(variable)
            except Exception as error:  # as above
                reason = " ".join(str(error).split())[:200]
                raise UserError(
                    f"{prefix}: {variable} is damaged ({reason}): copy or download it again"
                ) from None
            return values.T if transposed else values

        tensors[their_name(variable)] = Tensor(shape, dtypes[variable].name, read)
    return tensors


def their_name(variable: str) -> str:
    """Returns the name of a variable in transformers.

    `bert/encoder/layer_3/output/LayerNorm/gamma` is `bert.encoder.layer.3.output.LayerNorm.weight`.
    """
    if variable in _HEADS:
        return _HEADS[variable]
    name = re.sub(r"/layer_(\d+)/", r"/layer.\1/", variable).replace("/", ".")
    name = re.sub(r"\.kernel$", ".weight", name)
    return BERT.canonical(re.sub(r"_embeddings$", "_embeddings.weight", name))


def _head_of(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Describes the head of a fine-tuned checkpoint as config.json would."""
    if "qa_outputs.weight" in tensors:
        return {"architectures": [BERT.architecture(Head.SPANS)]}
    if "classifier.weight" in tensors:
        return {
            "architectures": [BERT.architecture(Head.CLASSES)],
            "num_labels": tensors["classifier.weight"].shape[0],
        }
    return {}
