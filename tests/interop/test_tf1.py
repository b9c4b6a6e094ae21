"""Google's checkpoints, written with TensorFlow here; skipped where it is not installed."""

import json
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

from bert_jax.config import Activation, MeshConfig
from bert_jax.distributed import sharding
from bert_jax.errors import UserError
from bert_jax.interop import tf1, tf1_forward, verify
from bert_jax.interop.architectures import Model
from bert_jax.interop.families.bert import BERT
from bert_jax.interop.names import Misfit, to_theirs
from bert_jax.text.tokenizer import tokenizer_from_dict
from tests.fixtures.drivers import Drivers
from tests.fixtures.interop import VOCAB

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own business
    tf = pytest.importorskip("tensorflow")

D, H, F, LAYERS, T = 24, 4, 44, 3, 50
CONFIG = dict(
    vocab_size=len(VOCAB),
    hidden_size=D,
    num_hidden_layers=LAYERS,
    num_attention_heads=H,
    intermediate_size=F,
    max_position_embeddings=T,
    type_vocab_size=2,
    hidden_act="gelu",
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1,
    initializer_range=0.02,
)
HEADS = {
    "pretraining": {
        "cls/predictions/output_bias": (len(VOCAB),),
        "cls/predictions/transform/LayerNorm/beta": (D,),
        "cls/predictions/transform/LayerNorm/gamma": (D,),
        "cls/predictions/transform/dense/bias": (D,),
        "cls/predictions/transform/dense/kernel": (D, D),
        "cls/seq_relationship/output_bias": (2,),
        "cls/seq_relationship/output_weights": (2, D),
    },
    "classification": {"output_bias": (5,), "output_weights": (5, D)},
    "spans": {"cls/squad/output_bias": (2,), "cls/squad/output_weights": (2, D)},
    "encoder": {},
}


def variables_of(head: str) -> dict[str, np.ndarray]:
    """Draws the variables that Google's code saves, and what its optimizer adds."""
    shapes: dict[str, tuple[int, ...]] = {
        "bert/embeddings/word_embeddings": (len(VOCAB), D),
        "bert/embeddings/position_embeddings": (T, D),
        "bert/embeddings/token_type_embeddings": (2, D),
        "bert/embeddings/LayerNorm/gamma": (D,),
        "bert/embeddings/LayerNorm/beta": (D,),
        "bert/pooler/dense/kernel": (D, D),
        "bert/pooler/dense/bias": (D,),
        **HEADS[head],
    }
    for layer in range(LAYERS):
        for name, sizes in (
            ("attention/self/query", (D, D)),
            ("attention/self/key", (D, D)),
            ("attention/self/value", (D, D)),
            ("attention/output/dense", (D, D)),
            ("intermediate/dense", (D, F)),
            ("output/dense", (F, D)),
        ):
            shapes[f"bert/encoder/layer_{layer}/{name}/kernel"] = sizes
            shapes[f"bert/encoder/layer_{layer}/{name}/bias"] = sizes[1:]
        for name in ("attention/output/LayerNorm", "output/LayerNorm"):
            shapes |= {
                f"bert/encoder/layer_{layer}/{name}/{part}": (D,) for part in ("gamma", "beta")
            }
    rng = np.random.default_rng(0)
    values = {
        name: (name.endswith("gamma") + 0.4 * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in shapes.items()
    }
    slots = {f"{n}/{slot}": v * 0 for n, v in values.items() for slot in ("adam_m", "adam_v")}
    return values | slots | {"global_step": np.int64(17)}


def write(directory: pathlib.Path, variables: dict[str, np.ndarray], **config: Any) -> pathlib.Path:
    """Saves a checkpoint by TensorFlow's own saver, and returns its prefix."""
    directory.mkdir(exist_ok=True)
    values = {name: value for name, value in (CONFIG | config).items() if value is not None}
    (directory / "bert_config.json").write_text(json.dumps(values))
    (directory / "vocab.txt").write_text("".join(f"{piece}\n" for piece in VOCAB))
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = [v1.get_variable(n, initializer=v, use_resource=False) for n, v in variables.items()]
        session.run(v1.global_variables_initializer())
        v1.train.Saver(made).save(session, str(directory / "bert_model.ckpt"))
    return directory / "bert_model.ckpt"


@pytest.fixture
def mesh() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield sharding.make_mesh(MeshConfig(data=1), jax.devices()[:1])


def differences(model: Model, prefix: pathlib.Path) -> list[str]:
    return list(tf1_forward.compare_with_tensorflow(model, prefix, verify.SENTENCES))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", None])
def test_a_checkpoint_is_imported(
    head: str, activation: str | None, tmp_path: pathlib.Path, mesh: Any
) -> None:
    variables = variables_of(head)
    prefix = write(tmp_path / head, variables, hidden_act=activation)
    model = tf1.read_tf1_checkpoint(prefix, mesh)
    assert model.metadata["kind"] == head
    assert len(differences(model, prefix)) == {"pretraining": 2, "encoder": 2}.get(head, 1)
    assert tokenizer_from_dict(model.metadata["tokenizer"]).lower_case  # pyright: ignore
    # Every variable but the optimizer's is there, bit for bit.
    found = to_theirs(BERT, model.params)
    wanted = {n: v for n, v in variables.items() if "adam" not in n and n != "global_step"}
    assert sorted(found) == sorted(tf1.their_name(name) for name in wanted)
    for name, value in wanted.items():
        expected = value.T if name.endswith("kernel") else value
        np.testing.assert_array_equal(found[tf1.their_name(name)], expected, err_msg=name)
    query = variables["bert/encoder/layer_1/attention/self/query/kernel"].reshape(D, H, D // H)
    np.testing.assert_array_equal(
        model.params["encoder"]["layers"]["attention"]["query"]["kernel"][1], query
    )
    wrong = Activation.RELU.value
    model.metadata["encoder"]["activation"] = wrong
    with pytest.raises(UserError, match="the outputs of the two libraries differ"):
        differences(model, prefix)


def test_by_the_driver(drivers: Drivers, tmp_path: pathlib.Path) -> None:
    prefix = write(tmp_path / "google", variables_of("pretraining"))
    flags = (f"--from=tf1:{prefix}", f"--to={tmp_path / 'run'}")
    result = drivers.run("convert", *flags)
    assert result.status == 0, result
    assert "verified against TensorFlow, mlm" in result.out and "uncased" in result.out
    filled = drivers.run("predict", f"--checkpoint={tmp_path / 'run'}", "--text=the [MASK] .")
    assert filled.status == 0, filled
    assert "is there already" in drivers.run("convert", *flags).err


def test_what_does_not_fit(tmp_path: pathlib.Path, mesh: Any) -> None:
    with pytest.raises(UserError, match="bert_model.ckpt.index is missing"):
        tf1.read_tf1_checkpoint(tmp_path / "bert_model.ckpt", mesh)
    variables = variables_of("encoder")
    del variables["bert/pooler/dense/bias"]
    variables["more"] = np.zeros(3, np.float32)
    prefix = write(tmp_path / "google", variables)
    with pytest.raises(Misfit, match="1 missing, 1 unexpected"):
        tf1.read_tf1_checkpoint(prefix, mesh)
    (prefix.parent / "bert_config.json").unlink()
    with pytest.raises(UserError, match="bert_config.json is missing"):
        tf1.read_tf1_checkpoint(prefix, mesh)
