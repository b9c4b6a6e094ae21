"""BERT in TensorFlow, computed from a checkpoint's variables: the reference for an import.

It uses the names and layouts of Google's code only, so it cannot share a mistake with our table.
"""

import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bert_jax.config import EncoderConfig, from_dict
from bert_jax.interop import verify
from bert_jax.interop.architectures import Model
from bert_jax.interop.tf1 import TF1_CONFIG_FILE, open_reader
from bert_jax.interop.verify import InputRows, ModelOutputs
from bert_jax.text.tokenizer import tokenizer_from_dict

# Of Google's BertConfig, for fields that a config leaves out.
_DEFAULTS = {
    "hidden_act": "gelu",
    "hidden_size": 768,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
}


def run_checkpoint(prefix: pathlib.Path, batch: InputRows) -> ModelOutputs:
    """Runs the model of a checkpoint with its heads, in float32 and without dropout.

    Returns:
      Those of `mlm`, `sentence`, `logits`, `hidden` and `pooled` that the model has, as in
      `verify.our_outputs`.
    """
    import tensorflow as tf

    reader = open_reader(prefix)
    stated = json.loads(prefix.with_name(TF1_CONFIG_FILE).read_text())
    config = _DEFAULTS | {name: value for name, value in stated.items() if value is not None}
    variables = reader.get_variable_to_shape_map()
    activate = {
        "gelu": lambda x: tf.nn.gelu(x, approximate=False),
        "relu": tf.nn.relu,
    }.get(config["hidden_act"], lambda x: tf.nn.gelu(x, approximate=True))

    def get(name: str) -> Any:
        return tf.constant(reader.get_tensor(name))

    def dense(x: Any, name: str) -> Any:
        return tf.einsum("btd,df->btf", x, get(f"{name}/kernel")) + get(f"{name}/bias")

    def project(x: Any, name: str) -> Any:
        return tf.einsum("btd,cd->btc", x, get(f"{name}output_weights")) + get(f"{name}output_bias")

    def norm(x: Any, name: str) -> Any:
        mean, variance = tf.nn.moments(x, -1, keepdims=True)
        scale = get(f"{name}/gamma") * tf.math.rsqrt(variance + 1e-12)
        return (x - mean) * scale + get(f"{name}/beta")

    rows, length = batch["token_ids"].shape
    heads = config["num_attention_heads"]
    masked = tf.constant(np.where(batch["example_ids"] > 0, 0.0, -1e9), tf.float32)

    def attend(x: Any, name: str) -> Any:
        query, key, value = (
            tf.reshape(dense(x, f"{name}/self/{part}"), (rows, length, heads, -1))
            for part in ("query", "key", "value")
        )
        scores = tf.einsum("bthk,bshk->bhts", query, key) / (config["hidden_size"] // heads) ** 0.5
        weights = tf.nn.softmax(scores + masked[:, None, None, :])
        mixed = tf.einsum("bhts,bshk->bthk", weights, value)
        mixed = tf.reshape(mixed, (rows, length, -1))
        return norm(x + dense(mixed, f"{name}/output/dense"), f"{name}/output/LayerNorm")

    embeddings = "bert/embeddings"
    words = get(f"{embeddings}/word_embeddings")
    x = (
        tf.gather(words, batch["token_ids"])
        + tf.gather(get(f"{embeddings}/token_type_embeddings"), batch["segment_ids"])
        + tf.gather(get(f"{embeddings}/position_embeddings"), batch["position_ids"])
    )
    x = norm(x, f"{embeddings}/LayerNorm")
    for number in range(config["num_hidden_layers"]):
        layer = f"bert/encoder/layer_{number}"
        x = attend(x, f"{layer}/attention")
        wide = activate(dense(x, f"{layer}/intermediate/dense"))
        x = norm(x + dense(wide, f"{layer}/output/dense"), f"{layer}/output/LayerNorm")

    found = {"hidden": x}
    if "bert/pooler/dense/kernel" in variables:
        found["pooled"] = tf.tanh(dense(x[:, :1], "bert/pooler/dense"))
    if "cls/predictions/output_bias" in variables:
        head = "cls/predictions/transform"
        y = norm(activate(dense(x, f"{head}/dense")), f"{head}/LayerNorm")
        found["mlm"] = tf.einsum("btd,vd->btv", y, words) + get("cls/predictions/output_bias")
    if "cls/seq_relationship/output_bias" in variables:
        found["sentence"] = project(found["pooled"], "cls/seq_relationship/")
    if "output_weights" in variables:
        found["logits"] = project(found["pooled"], "")
    if "cls/squad/output_weights" in variables:
        found["logits"] = project(x, "cls/squad/")
    return {name: value.numpy() for name, value in found.items()}


def compare_with_tensorflow(
    model: Model, prefix: pathlib.Path, sentences: Sequence[str]
) -> Iterator[str]:
    """Runs our model and Google's on the same sentences.

    Args:
      model: ours.
      prefix: of the checkpoint that it was imported from.
      sentences: to compare on.

    Yields:
      Lines for the log with the differences.

    Raises:
      UserError: if the models differ.
    """
    tokenizer = tokenizer_from_dict(model.metadata["tokenizer"])
    encoder = from_dict(EncoderConfig, model.metadata["encoder"])
    batch = verify.make_input_rows(tokenizer, encoder, sentences)
    theirs = run_checkpoint(prefix, batch)
    for difference in verify.compare(verify.our_outputs(model, batch), theirs, batch):
        yield f"verified against TensorFlow, {difference}"
