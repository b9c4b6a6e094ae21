"""Against transformers' other encoders, random ones: the same weights, logits and gradients.

Weights are carried over here, by the few rules below; `interop` does not know these models yet.
`pytest -rP` on this file prints the largest differences, of the largest logit and gradient.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import (
    Activation,
    EncoderConfig,
    MlpKind,
    Norm,
    NormKind,
    PositionEncoding,
    SentenceObjective,
)
from bert_jax.model.heads import PretrainingModel
from tests.fixtures.batches import Batch, make_batch
from tests.fixtures.interop import to_params

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

replace = dataclasses.replace
Tensors = dict[str, np.ndarray]
Carry = Callable[[Tensors, EncoderConfig], Any]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


MODERN = EncoderConfig(
    vocab_size=90,
    width=48,
    layers=7,
    heads=4,
    mlp_width=40,
    max_length=160,
    segments=0,
    position_encoding=PositionEncoding.ROTARY,
    rope_theta=160_000.0,
    rope_theta_local=10_000.0,
    window=4,
    global_every=3,
    norm=Norm.PRE,
    norm_kind=NormKind.LAYER_NORM_NO_BIAS,
    norm_epsilon=1e-5,
    first_norm=False,
    biases=False,
    mlp=MlpKind.GATED,
    dropout_rate=0.0,
    attention_dropout_rate=0.0,
)


def modern(config: EncoderConfig, local_attention: int, kernel: str = "eager") -> Any:
    every = config.global_every
    return transformers.ModernBertForMaskedLM(
        transformers.ModernBertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.mlp_width,
            max_position_embeddings=config.max_length,
            local_attention=local_attention,
            layer_types=[
                "full_attention" if every and layer % every == 0 else "sliding_attention"
                for layer in range(config.layers)
            ],
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": config.rope_theta},
                "sliding_attention": {
                    "rope_type": "default",
                    "rope_theta": config.rope_theta_local or config.rope_theta,
                },
            },
            norm_eps=config.norm_epsilon,
            norm_bias=config.norm_kind is NormKind.LAYER_NORM,
            attention_bias=config.biases,
            mlp_bias=config.biases,
            classifier_bias=config.biases,
            decoder_bias=config.mlm_bias,
            hidden_activation=config.activation.value,
            classifier_activation=config.activation.value,
            tie_word_embeddings=config.mlm_tied,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            cls_token_id=1,
            sep_token_id=2,
            attn_implementation=kernel,
        )
    )


def stacked(tensors: Tensors, name: str, config: EncoderConfig) -> np.ndarray:
    """Stacks a tensor of all layers, [L, ...]; matrices become [inputs, outputs]."""
    found = [tensors[f"model.layers.{layer}.{name}"] for layer in range(config.layers)]
    return np.stack([each.T if each.ndim == 2 else each for each in found])


def affine(tensors: Tensors, name: str, config: EncoderConfig, *shape: int) -> dict[str, Any]:
    """Returns kernel [L, inputs, *shape] and bias of a map of all layers."""
    kernel = stacked(tensors, f"{name}.weight", config)
    found = {"kernel": kernel.reshape(*kernel.shape[:2], *shape)}
    if config.biases:
        found["bias"] = stacked(tensors, f"{name}.bias", config).reshape(config.layers, *shape)
    return found


def norm(tensors: Tensors, name: str) -> dict[str, Any]:
    theirs = {"scale": "weight", "bias": "bias"}
    return {
        ours: tensors[f"{name}.{other}"]
        for ours, other in theirs.items()
        if f"{name}.{other}" in tensors
    }


def carry_modern(tensors: Tensors, config: EncoderConfig) -> Any:
    heads, width = config.heads, config.width // config.heads
    unused = np.zeros(config.width, np.float32)  # layer 0 has no attention norm of its own
    first = {f"model.layers.0.attn_norm.{name}": unused for name in ("weight", "bias")}
    tensors = first | tensors
    has_bias = config.norm_kind is NormKind.LAYER_NORM
    together = affine(tensors, "attn.Wqkv", config, 3, heads, width)
    out = affine(tensors, "attn.Wo", config, config.width)
    out["kernel"] = out["kernel"].reshape(config.layers, heads, width, config.width)

    def norms(name: str) -> dict[str, Any]:
        found = {"scale": stacked(tensors, f"{name}.weight", config)}
        return found | ({"bias": stacked(tensors, f"{name}.bias", config)} if has_bias else {})

    def part(number: int) -> dict[str, Any]:
        """Returns the query, key or value map: the third axis from the end of a bias too."""
        return {name: np.take(leaf, number, axis=leaf.ndim - 3) for name, leaf in together.items()}

    head = {"transform": {"kernel": tensors["head.dense.weight"].T}}
    if config.biases:
        head["transform"]["bias"] = tensors["head.dense.bias"]
    head["norm"] = norm(tensors, "head.norm")
    if config.mlm_bias:
        head["bias"] = tensors["decoder.bias"]
    if not config.mlm_tied:
        head["output"] = tensors["decoder.weight"]
    return {
        "encoder": {
            "embeddings": {
                "tokens": tensors["model.embeddings.tok_embeddings.weight"],
                "norm": norm(tensors, "model.embeddings.norm"),
            },
            "layers": {
                "attention": {
                    "query": part(0),
                    "key": part(1),
                    "value": part(2),
                    "out": out,
                },
                "attention_norm": norms("attn_norm"),
                "mlp_norm": norms("mlp_norm"),
                "mlp": {
                    "up": affine(tensors, "mlp.Wi", config, 2, config.mlp_width),
                    "down": affine(tensors, "mlp.Wo", config, config.width),
                },
            },
            "final_norm": norm(tensors, "model.final_norm"),
        },
        "mlm_head": head,
    }


EURO = EncoderConfig(
    vocab_size=90,
    width=48,
    layers=3,
    heads=6,
    mlp_width=40,
    max_length=160,
    segments=0,
    position_encoding=PositionEncoding.ROTARY,
    rope_theta=250_000.0,
    norm=Norm.PRE,
    norm_kind=NormKind.RMS_NORM,
    norm_epsilon=1e-5,
    embedding_norm=False,
    biases=False,
    mlp=MlpKind.GATED,
    activation=Activation.SILU,
    mlm_transform=False,
    mlm_tied=False,
    mlm_bias=False,
    dropout_rate=0.0,
    attention_dropout_rate=0.0,
)


def euro(config: EncoderConfig) -> Any:
    return transformers.EuroBertForMaskedLM(
        transformers.EuroBertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads or config.heads,
            head_dim=config.width // config.heads,
            intermediate_size=config.mlp_width,
            max_position_embeddings=config.max_length,
            hidden_act=config.activation.value,
            rms_norm_eps=config.norm_epsilon,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=config.mlm_tied,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            attn_implementation="eager",
        )
    )


def carry_euro(tensors: Tensors, config: EncoderConfig) -> Any:
    heads, width = config.heads, config.width // config.heads
    kv_heads = config.kv_heads or heads
    out = affine(tensors, "self_attn.o_proj", config, config.width)
    out["kernel"] = out["kernel"].reshape(config.layers, heads, width, config.width)
    gate, up = (stacked(tensors, f"mlp.{name}_proj.weight", config) for name in ("gate", "up"))
    return {
        "encoder": {
            "embeddings": {"tokens": tensors["model.embed_tokens.weight"]},
            "layers": {
                "attention": {
                    "query": affine(tensors, "self_attn.q_proj", config, heads, width),
                    "key": affine(tensors, "self_attn.k_proj", config, kv_heads, width),
                    "value": affine(tensors, "self_attn.v_proj", config, kv_heads, width),
                    "out": out,
                },
                "attention_norm": {"scale": stacked(tensors, "input_layernorm.weight", config)},
                "mlp_norm": {"scale": stacked(tensors, "post_attention_layernorm.weight", config)},
                "mlp": {
                    "up": {"kernel": np.stack([gate, up], axis=2)},
                    "down": affine(tensors, "mlp.down_proj", config, config.width),
                },
            },
            "final_norm": norm(tensors, "model.norm"),
        },
    } | ({} if config.mlm_tied else {"mlm_head": {"output": tensors["lm_head.weight"]}})


ROBERTA = EncoderConfig(
    vocab_size=90,
    width=48,
    layers=3,
    heads=4,
    mlp_width=100,
    max_length=60,
    segments=1,
    norm_epsilon=1e-5,
    dropout_rate=0.0,
    attention_dropout_rate=0.0,
)


def roberta(config: EncoderConfig, pad: int, family: str = "Roberta") -> Any:
    """Its table has rows for texts of `max_length` tokens, whose places begin at pad + 1."""
    make_config: Any = getattr(transformers, f"{family}Config")
    return getattr(transformers, f"{family}ForMaskedLM")(
        make_config(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.mlp_width,
            max_position_embeddings=config.max_length + pad + 1,
            type_vocab_size=config.segments,
            layer_norm_eps=config.norm_epsilon,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=pad,
            bos_token_id=2,
            eos_token_id=3,
            attn_implementation="eager",
        )
    )


def carry_roberta(tensors: Tensors, config: EncoderConfig) -> Any:
    """Gives BERT's names; no token of a text reads the first pad + 1 rows of the table."""
    new = {
        "roberta.": "bert.",
        "lm_head.dense": "cls.predictions.transform.dense",
        "lm_head.layer_norm": "cls.predictions.transform.LayerNorm",
        "lm_head.bias": "cls.predictions.bias",
        "lm_head.decoder.weight": "bert.embeddings.word_embeddings.weight",  # one array, two names
    }
    for old, name in new.items():
        tensors = {each.replace(old, name): tensor for each, tensor in tensors.items()}
    places = "bert.embeddings.position_embeddings.weight"
    tensors = tensors | {places: tensors[places][-config.max_length :]}
    return to_params(tensors, PretrainingModel(config, SentenceObjective.NONE))


def compare(peer: Any, config: EncoderConfig, carry: Carry, length: int) -> None:
    """Compares logits and gradients: examples packed into rows here, each alone there."""
    with torch.no_grad():
        for parameter in peer.parameters():  # off 0 and 1, and wide enough that all matters
            scale = 0.1 if parameter.ndim == 1 else 3 * parameter.std()
            parameter.add_(scale * torch.randn(parameter.shape))
    peer.train()
    carried = carry({n: p.detach().numpy().copy() for n, p in peer.named_parameters()}, config)
    model = PretrainingModel(config, SentenceObjective.NONE)
    batch: Batch = make_batch(config, rows=3, length=length, examples=2, seed=1)
    batch["segment_ids"] *= 0
    if length == config.max_length:  # one that fills its row, to the last place there is
        batch["token_ids"][0] = 5 + np.arange(length) % (config.vocab_size - 5)
        batch["example_ids"][0], batch["position_ids"][0] = 1, np.arange(length)
    batch["mlm_positions"] = np.tile(np.arange(length, dtype=np.int32), (3, 1))
    weights = np.random.default_rng(0).standard_normal((3, length, config.vocab_size))
    weights = (weights * (batch["example_ids"] > 0)[..., None]).astype(np.float32)

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        logits = model.apply({"params": params}, batch, deterministic=True).mlm
        return jnp.sum(logits * weights), logits

    init = jax.eval_shape(lambda: model.init(jax.random.key(0), batch, deterministic=True))
    assert jax.tree.map(jnp.shape, carried) == jax.tree.map(jnp.shape, nn.unbox(init)["params"])
    gradients, logits = jax.jit(jax.grad(loss, has_aux=True))(carried)

    total, compared, greatest, largest = 0.0, 0, 0.0, 0.0
    for row in range(3):
        for example in range(1, batch["example_ids"][row].max() + 1):
            own = batch["example_ids"][row] == example
            ids = torch.tensor(batch["token_ids"][row][own]).long()[None]
            theirs = peer(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
            other = theirs.detach().numpy()
            np.testing.assert_allclose(logits[row][own], other, rtol=2e-5, atol=2e-5 * other.std())
            total = total + (theirs * torch.tensor(weights[row][own])).sum()
            greatest = max(greatest, float(np.abs(logits[row][own] - other).max()))
            largest = max(largest, float(np.abs(other).max()))
            compared += int(own.sum())
    assert compared > length
    total.backward()
    zero = {n: np.zeros(p.shape, np.float32) for n, p in peer.named_parameters()}
    found = {n: p.grad.numpy() for n, p in peer.named_parameters() if p.grad is not None}
    expected = carry(zero | found, config)
    far = jax.tree.map(lambda one, other: np.abs(one - other).max(), gradients, expected)
    steepest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    print(
        f"{type(peer).__name__}: logits {greatest:.1e} of {largest:.3g},"
        f" gradients {max(map(float, jax.tree.leaves(far))):.1e} of {steepest:.3g}"
    )
    for (path, ours), other in zip(
        jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(expected), strict=True
    ):
        atol = max(1e-4 * np.abs(other).max(), 1e-8 * steepest)  # that of a key's bias is 0
        np.testing.assert_allclose(ours, other, rtol=1e-3, atol=atol, err_msg=str(path))


@pytest.mark.parametrize(
    ("changes", "local_attention", "length"),
    [
        ({}, 8, 150),  # in blocks
        ({}, 8, 60),  # as one product
        ({"window": 3}, 7, 150),  # an odd width, as they round it
        ({"window": 40}, 80, 140),
        ({"global_every": 2, "layers": 4, "activation": Activation.RELU}, 8, 130),
        ({"biases": True, "norm_kind": NormKind.LAYER_NORM, "layers": 3}, 8, 130),
        ({"mlm_tied": False, "mlm_bias": False, "rope_theta_local": 0.0, "layers": 2}, 8, 40),
        ({"layers": 1}, 8, 40),
    ],
    ids=str,
)
def test_modern_bert(changes: dict[str, Any], local_attention: int, length: int) -> None:
    config = replace(MODERN, **changes)
    compare(modern(config, local_attention), config, carry_modern, length)


@pytest.mark.parametrize(
    "changes", [{}, {"kv_heads": 2}, {"kv_heads": 1, "mlm_tied": True}], ids=str
)
def test_euro_bert(changes: dict[str, Any]) -> None:
    config = replace(EURO, **changes)
    compare(euro(config), config, carry_euro, 60)


@pytest.mark.parametrize("family", ["Roberta", "XLMRoberta", "Camembert"])
@pytest.mark.parametrize(
    ("changes", "pad"),
    [({}, 1), ({}, 0), ({"segments": 2, "layers": 1}, 1)],
    ids=str,
)
def test_roberta(family: str, changes: dict[str, Any], pad: int) -> None:
    """The places of each text in a packed row are those that it has alone, to the longest text."""
    config = replace(ROBERTA, **changes)
    compare(roberta(config, pad, family), config, carry_roberta, config.max_length)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize(("local_attention", "window"), [(8, 4), (7, 3), (2, 1)])
def test_both_ends_of_a_window_are_seen(kernel: str, local_attention: int, window: int) -> None:
    """The tokens whose change moves token 20, here and there."""
    config = replace(MODERN, layers=1, global_every=0, window=window)
    peer = modern(config, local_attention, kernel).eval()
    params = carry_modern({n: p.detach().numpy() for n, p in peer.named_parameters()}, config)
    texts = np.tile(np.arange(5, 45, dtype=np.int32), (41, 1))
    texts[np.arange(40), np.arange(40)] = 80  # the last text is unchanged
    at = {"position_ids": np.arange(40), "example_ids": 1, "segment_ids": 0, "mlm_positions": 20}
    batch = {name: np.broadcast_to(ids, (41, 40)).astype(np.int32) for name, ids in at.items()}
    batch["mlm_positions"] = batch["pool_positions"] = batch["mlm_positions"][:, :1]
    model = PretrainingModel(config, SentenceObjective.NONE)
    ours = model.apply({"params": params}, batch | {"token_ids": texts}, deterministic=True).mlm
    with torch.no_grad():
        theirs = peer(torch.tensor(texts).long()).logits[:, 20].numpy()
    for logits in (np.asarray(ours[:, 0]), theirs):
        moved = np.abs(logits[:-1] - logits[-1]).max(axis=1) > 1e-4
        assert np.nonzero(moved)[0].tolist() == list(range(20 - window, 21 + window))
