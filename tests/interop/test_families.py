"""Every family of transformers, with every head: the same outputs, and the same files again."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from bert_jax.config import EncoderConfig, MeshConfig, from_dict
from bert_jax.distributed import sharding
from bert_jax.errors import UserError
from bert_jax.interop import huggingface, verify
from bert_jax.interop.architectures import Model, family_of, head_of
from bert_jax.interop.families.family import Family, Head
from bert_jax.interop.families.registry import FAMILIES
from bert_jax.text.tokenizer import load_tokenizer, tokenizer_from_dict
from tests.fixtures.drivers import assert_same_bits
from tests.fixtures.families import make_family_peer
from tests.fixtures.interop import edit_json, write_vocab

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

from bert_jax.interop import peer  # noqa: E402

WEIGHTS = "model.safetensors"
CASES = [
    pytest.param(family, head, id=f"{family.model_type}-{head.name.lower()}")
    for family in FAMILIES.values()
    for head in family.heads
]


@pytest.fixture(scope="module")
def mesh() -> Any:
    return sharding.make_mesh(MeshConfig(data=1), jax.devices()[:1])


def tensors_of(directory: pathlib.Path) -> dict[str, np.ndarray]:
    return {name: t.numpy() for name, t in safetensors.load_file(directory / WEIGHTS).items()}


def differences(model: Model, directory: pathlib.Path) -> list[verify.Difference]:
    """Compares our model with what transformers makes of a directory, in double precision."""
    family, head = family_of(model.metadata), head_of(model.metadata)
    pooler = "pooler" in model.params
    theirs = peer.load_model(directory, family, head, pooler=pooler, dtype="float64")
    tokenizer = tokenizer_from_dict(model.metadata["tokenizer"])
    encoder = from_dict(EncoderConfig, model.metadata["encoder"])
    batch = verify.make_input_rows(tokenizer, encoder, verify.SENTENCES)
    assert (batch["example_ids"] == 0).any()
    # Pairs of neighbours too, in the segments that the model has.
    assert len(batch["token_ids"]) == 2 * len(verify.SENTENCES) - 1
    assert batch["segment_ids"].max() == (encoder.segments > 1 and tokenizer.special.segments)
    return verify.compare(verify.our_outputs(model, batch), theirs.run(batch), batch)


@pytest.mark.parametrize(("family", "head"), CASES)
def test_there_and_back(family: Family, head: Head, tmp_path: pathlib.Path, mesh: Any) -> None:
    first = tmp_path / "first"
    make_family_peer(family, head, first)
    model = huggingface.read_directory(first, mesh)
    assert family_of(model.metadata) is family and head_of(model.metadata) is head
    for difference in differences(model, first):
        assert difference.greatest <= 2e-5 * max(difference.largest, 1.0)
        assert difference.largest > 0.1 and difference.values > 30  # witness

    (second := tmp_path / "second").mkdir()
    huggingface.write_directory(model, second)
    theirs = peer.load_model(second, family, head, pooler="pooler" in model.params)
    assert not theirs.missing and not theirs.unexpected
    ours, original = tensors_of(second), tensors_of(first)
    unread = [f"{family.base.rstrip('.')}.", *family.unread]
    kept = {n: t for n, t in original.items() if "pooler" not in n or family.has_encoder_pooler}
    assert ours.keys() == kept.keys(), unread
    for name, tensor in kept.items():
        if "position_embeddings" in name and family.separators == 2:
            assert ours[name][2:].tobytes() == tensor[2:].tobytes()  # no token reads the first two
        else:
            assert ours[name].tobytes() == tensor.tobytes(), name
    before, written = (json.loads((d / "config.json").read_text()) for d in (first, second))
    for name in before.keys() & written.keys() - {"transformers_version"}:
        assert written[name] == before[name], name
    again = huggingface.read_directory(second, mesh)
    assert_same_bits(again.params, model.params)
    assert {k: v for k, v in again.metadata.items() if k != "max_length"} == {
        k: v for k, v in model.metadata.items() if k != "max_length"
    }


MODERN = FAMILIES["modernbert"]


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_types": None, "rope_parameters": None, "global_attn_every_n_layers": 2},
        {"layer_types": None, "rope_parameters": None, "global_attn_every_n_layers": 1},
        {"layer_types": None, "rope_parameters": None, "global_rope_theta": 500.0},
        {"layer_types": None, "rope_parameters": None, "local_rope_theta": 70.0},
        {"rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 90.0}}},
        {
            "rope_parameters": {"sliding_attention": {"rope_type": "default"}},
            "global_rope_theta": 300.0,
            "local_rope_theta": 40.0,
        },
        {"local_attention": 7},
        {"local_attention": 2},
        {"layer_types": ["sliding_attention"] * 4},
        {"norm_bias": True},
        {"attention_bias": True, "mlp_bias": True, "classifier_bias": True},
        {"decoder_bias": False},
        {"classifier_activation": "silu"},
        {"hidden_activation": "gelu_new"},
        {"classifier_pooling": "cls"},
    ],
)
def test_spellings_of_modernbert(
    changes: dict[str, Any], tmp_path: pathlib.Path, mesh: Any
) -> None:
    built = {k: v for k, v in changes.items() if k.endswith("bias")}
    make_family_peer(MODERN, Head.MASKED_LM, tmp_path, **built)
    edit_json(tmp_path / "config.json", **changes)
    model = huggingface.read_directory(tmp_path, mesh)
    for difference in differences(model, tmp_path):
        assert difference.greatest <= 2e-5 * max(difference.largest, 1.0)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("modernbert", {"mlp_bias": True}, "mlp_bias=True differs from attention_bias"),
        ("modernbert", {"local_attention": 1}, "local_attention=1 is no width of a window"),
        (
            "modernbert",
            {"layer_types": ["full_attention", "full_attention", "sliding_attention"] + ["x"]},
            "layer_types=.* is not full_attention or sliding_attention",
        ),
        (
            "modernbert",
            {"layer_types": ["sliding_attention", "full_attention"] * 2},
            "layer_types=.* is not every n-th layer",
        ),
        (
            "modernbert",
            {"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 2.0}}},
            "rope_parameters.full_attention.rope_type=yarn is not implemented",
        ),
        ("modernbert", {"position_embedding_type": "relative"}, "position_embedding_type=relative"),
        ("modernbert", {"rotary_emb_interleaved": True}, "rotary_emb_interleaved=true is not imp"),
        ("modernbert", {"layer_types": 0}, "layer_types=0 is not of type list"),
        ("modernbert", {"layer_types": [[]] * 4}, "layer_types=.* is not full_attention or"),
        ("modernbert", {"rope_parameters": "x"}, "rope_parameters=x is not of type dict"),
        (
            "modernbert",
            {"rope_parameters": {"full_attention": 5}},
            "rope_parameters.full_attention=5 is not of type dict",
        ),
        ("modernbert", {"norm_bias": "no"}, "norm_bias=no is not of type bool"),
        ("eurobert", {"rope_parameters": [1]}, "rope_parameters=.1. is not of type dict"),
        ("eurobert", {"num_key_value_heads": "x"}, "num_key_value_heads=x is not of type int"),
        ("eurobert", {"classifier_pooling": []}, "classifier_pooling=.. is not of type str"),
        ("eurobert", {"head_dim": {}}, "head_dim={} is not of type int"),
        ("eurobert", {"head_dim": 12}, "head_dim=12 is not hidden_size / num_attention_heads"),
        ("eurobert", {"classifier_pooling": "max"}, "classifier_pooling=max is none of bos, mean"),
        ("eurobert", {"mlp_bias": True}, "mlp_bias=True differs from attention_bias"),
        ("eurobert", {"num_key_value_heads": 3}, "kv_heads=3 does not divide"),
        (
            "roberta",
            {"max_position_embeddings": 2},
            "max_position_embeddings=2 with pad_token_id=1",
        ),
        ("roberta", {"is_decoder": True}, "is_decoder=true is not implemented"),
        ("distilbert", {"n_groups": 2}, "n_groups=2 is not implemented"),
        ("electra", {"embedding_size": 0}, "embedding_size=0 is not a width"),
        ("electra", {"num_attention_heads": 5}, "heads=5 does not divide"),
    ],
)
def test_what_a_config_has_and_we_lack_is_refused(
    name: str, changes: dict[str, Any], message: str, tmp_path: pathlib.Path, mesh: Any
) -> None:
    make_family_peer(FAMILIES[name], Head.MASKED_LM, tmp_path)
    edit_json(tmp_path / "config.json", **changes)
    with pytest.raises(UserError, match=message):
        huggingface.read_directory(tmp_path, mesh)


@pytest.mark.parametrize("name", ["modernbert", "eurobert", "distilbert", "electra"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("stated", [True, False])
def test_tied_or_not(
    name: str, tied: bool, stated: bool, tmp_path: pathlib.Path, mesh: Any
) -> None:
    family = FAMILIES[name]
    by_default = name != "eurobert"
    make_family_peer(family, Head.MASKED_LM, tmp_path, tie_word_embeddings=tied)
    if not stated:
        edit_json(tmp_path / "config.json", tie_word_embeddings=None)
    if not stated and tied != by_default:
        # Two matrices are not merged, and a missing one is not made up.
        wanted = "is not a copy of" if by_default else "do not fit its config .1 missing"
        with pytest.raises(UserError, match=wanted):
            huggingface.read_directory(tmp_path, mesh)
        return
    model = huggingface.read_directory(tmp_path, mesh)
    assert ("output" in model.params.get("mlm_head", {})) is not tied
    (difference,) = differences(model, tmp_path)
    assert difference.greatest <= 2e-5 * max(difference.largest, 1.0)
    (out := tmp_path / "out").mkdir()
    huggingface.write_directory(model, out)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is tied
    (difference,) = differences(model, out)
    assert difference.greatest <= 2e-5 * max(difference.largest, 1.0)


@pytest.mark.parametrize("form", ["float16", "bfloat16", "bin", "shards"])
def test_files_of_half_precision_and_others(form: str, tmp_path: pathlib.Path, mesh: Any) -> None:
    model = make_family_peer(MODERN, Head.MASKED_LM, tmp_path)
    if form == "shards":
        (tmp_path / WEIGHTS).unlink()
        model.save_pretrained(tmp_path, max_shard_size="20KB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 2
    elif form == "bin":
        state = safetensors.load_file(tmp_path / WEIGHTS)
        (tmp_path / WEIGHTS).unlink()
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        model.to(getattr(torch, form)).save_pretrained(tmp_path)
    read = huggingface.read_directory(tmp_path, mesh)
    assert {leaf.dtype for leaf in jax.tree.leaves(read.params)} == {np.dtype("float32")}
    assert any("converted to float32" in note for note in read.notes) is (form[-2:] == "16")
    tokens = model.get_input_embeddings().weight.detach().float().numpy()
    np.testing.assert_array_equal(read.params["encoder"]["embeddings"]["tokens"], tokens)


def test_a_discriminator_is_read_as_an_encoder(tmp_path: pathlib.Path, mesh: Any) -> None:
    electra = FAMILIES["electra"]
    make_family_peer(electra, Head.PRETRAINING, tmp_path)  # ElectraForPreTraining
    model = huggingface.read_directory(tmp_path, mesh)
    assert model.metadata["kind"] == "encoder" and set(model.params) == {"encoder"}
    (note,) = [note for note in model.notes if note.startswith("not read")]
    assert "discriminator_predictions.dense_prediction.weight" in note


def test_the_first_row_of_roberta_is_that_after_the_padding(
    tmp_path: pathlib.Path, mesh: Any
) -> None:
    """Three texts packed into a row have the vectors that they have alone, padded or not."""
    family = FAMILIES["xlm-roberta"]
    peer_model = make_family_peer(family, Head.ENCODER, tmp_path)
    model = huggingface.read_directory(tmp_path, mesh)
    encoder = from_dict(EncoderConfig, model.metadata["encoder"])
    assert encoder.max_length == 68 and encoder.segments == 1
    table = peer_model.embeddings.position_embeddings.weight.detach().numpy()
    np.testing.assert_array_equal(model.params["encoder"]["embeddings"]["positions"], table[2:])


def test_a_tokenizer_file_counts_whatever_its_class_builds(
    tmp_path: pathlib.Path, mesh: Any
) -> None:
    make_family_peer(FAMILIES["roberta"], Head.MASKED_LM, tmp_path)
    path = tmp_path / "tokenizer.json"
    values = json.loads(path.read_text())
    digits = {"type": "Digits", "individual_digits": True}
    values["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [digits, values["pre_tokenizer"]],
    }
    path.write_text(json.dumps(values))
    edit_json(tmp_path / "tokenizer_config.json", tokenizer_class="RobertaTokenizer")
    model = huggingface.read_directory(tmp_path, mesh)
    assert any("the class RobertaTokenizer" in note for note in model.notes)
    assert proof(model, tmp_path)[-2:] == [
        "token ids: the same in 12 sentences",
        "special pieces: the same around a text and around a pair",
    ]


def proof(model: Model, directory: pathlib.Path) -> list[str]:
    found = peer.compare_with_transformers(model, directory, verify.SENTENCES, exported=False)
    return list(found)


@pytest.mark.parametrize("kind", ["RobertaTokenizer", "PreTrainedTokenizerFast"])
def test_the_proof_finds_another_tokenizer(kind: str, tmp_path: pathlib.Path, mesh: Any) -> None:
    family = FAMILIES["roberta"]
    make_family_peer(family, Head.MASKED_LM, tmp_path, vocab_size=340)
    path = tmp_path / "tokenizer_config.json"
    edit_json(path, tokenizer_class=kind, additional_special_tokens=["<ent>"])
    model = huggingface.read_directory(tmp_path, mesh, padded_vocabulary=True)
    assert "token ids: the same in 14 sentences" in proof(model, tmp_path)

    def refused(message: str, tokenizer: dict[str, Any]) -> None:
        changed = model._replace(metadata=model.metadata | {"tokenizer": tokenizer})
        with pytest.raises(UserError, match=message):
            proof(changed, tmp_path)

    ours = model.metadata["tokenizer"]
    settings = ours["settings"]
    refused("differ on 'a' and 'b' with", ours | {"settings": settings | {"separators": 1}})
    refused("differ on 'a' with special", ours | {"settings": settings | {"cls": settings["sep"]}})
    added = [each | {"lstrip": True} for each in ours["model"]["added_tokens"]]
    refused("the tokenizers differ on", ours | {"model": ours["model"] | {"added_tokens": added}})
    if kind == "RobertaTokenizer":  # which builds its steps by the config
        edit_json(path, add_prefix_space=True)
        refused("the tokenizers differ on 'The river rose", ours)


def test_a_directory_without_a_tokenizer(tmp_path: pathlib.Path, mesh: Any) -> None:
    """It is read with that of --tokenizer, and there is nothing to compare the ids with."""
    make_family_peer(FAMILIES["bert"], Head.ENCODER, tmp_path)
    (tmp_path / "vocab.txt").rename(tmp_path / "other.txt")
    tokenizer = load_tokenizer(tmp_path / "other.txt")
    model = huggingface.read_directory(tmp_path, mesh, tokenizer=tokenizer)
    *first, last = proof(model, tmp_path)
    assert last == f"token ids: not compared, for {tmp_path} has no tokenizer"
    assert all(line.startswith("verified against transformers") for line in first)


def test_types_of_tokens_are_compared_where_a_model_has_them(tmp_path: pathlib.Path) -> None:
    write_vocab(tmp_path)
    ours = load_tokenizer(tmp_path / "vocab.txt")

    def theirs(*texts: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        if not add_special_tokens:
            return {"input_ids": [17]}
        second = [0, 0] if len(texts) == 2 else []
        around = [2, 17, 3] if len(texts) == 1 else [2, 17, 3, 17, 3]
        return {"input_ids": around, "token_type_ids": [0, 0, 0, *second]}

    assert "the same around" in verify.compare_frames(ours, theirs, segments=False)
    with pytest.raises(UserError, match=r"token_type_ids are \[0, 0, 0, 1, 1\] here and \[0, 0, "):
        verify.compare_frames(ours, theirs, segments=True)


def test_what_no_family_has_is_not_exported(tmp_path: pathlib.Path, mesh: Any) -> None:
    make_family_peer(MODERN, Head.MASKED_LM, tmp_path)
    model = huggingface.read_directory(tmp_path, mesh)
    (out := tmp_path / "out").mkdir()
    for field, value, message in (
        ("qk_norm", True, "encoder.qk_norm=True cannot be exported: it is not ModernBert"),
        ("causal", True, "encoder.causal=True cannot be exported"),
        ("final_norm", False, "encoder.final_norm=False cannot be exported"),
    ):
        changed = model.metadata | {"encoder": model.metadata["encoder"] | {field: value}}
        with pytest.raises(UserError, match=message):
            huggingface.write_directory(model._replace(metadata=changed), out)
    config = model.metadata["config"]
    with_pairs = config | {"data": config["data"] | {"objective": "nsp"}}
    with pytest.raises(UserError, match="data.objective=nsp cannot be exported: ModernBert of"):
        huggingface.write_directory(
            model._replace(metadata=model.metadata | {"config": with_pairs}), out
        )
    assert not list(out.iterdir())
