"""The table of names, and directories that are written and read without the other library."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from bert_jax.cli.recipes import resolve_config
from bert_jax.config import (
    EncoderConfig,
    FinetuneConfig,
    InputPooling,
    MeshConfig,
    PoolerKind,
    PretrainConfig,
    SentenceObjective,
    TaskKind,
    to_dict,
)
from bert_jax.distributed import sharding
from bert_jax.errors import UserError
from bert_jax.interop import huggingface
from bert_jax.interop.architectures import (
    Model,
    abstract_groups,
    architecture_of,
    family_of,
    fine_tuned_metadata,
    groups_of_export,
    groups_of_file,
    module_of,
    pretrained_metadata,
)
from bert_jax.interop.families.bert import BERT
from bert_jax.interop.families.family import Head
from bert_jax.interop.families.modernbert import MODERNBERT
from bert_jax.interop.foreign import tokenizer_metadata
from bert_jax.interop.huggingface_config import misfit
from bert_jax.interop.names import from_theirs, make_shapes, tensor_mappings, to_theirs
from bert_jax.model.heads import PretrainingModel, TaskModel
from bert_jax.text.training import ModelType, train_sentencepiece
from bert_jax.training.state import abstract_params
from tests.fixtures.batches import make_batch, random_params
from tests.fixtures.drivers import assert_same_bits
from tests.model.test_switches import SWITCHES

ALL = ("encoder", "pooler", "mlm_head", "nsp_head")


@pytest.fixture(scope="module")
def mesh() -> Any:
    return sharding.make_mesh(MeshConfig(data=1), jax.devices()[:1])


def made(metadata: dict[str, Any], encoder: EncoderConfig) -> Model:
    batch = make_batch(encoder)
    batch["mlm_positions"] = batch["pool_positions"]
    return Model(random_params(module_of(metadata), batch), metadata, [])


@pytest.mark.parametrize("kind", ["pretraining", *(kind.value for kind in TaskKind)])
def test_every_parameter_has_one_place(kind: str, tiny_encoder: EncoderConfig, mesh: Any) -> None:
    if kind == "pretraining":
        metadata = pretrained_metadata(tiny_encoder, ALL)
    else:
        metadata = fine_tuned_metadata(tiny_encoder, TaskKind(kind), ["a", "b", "c"], pairs=False)
    params = made(metadata, tiny_encoder).params
    abstract = abstract_groups(metadata, tuple(params), mesh)  # of the table: as the model's own
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, abstract)
    family = family_of(metadata)
    theirs, mappings = to_theirs(family, params), tensor_mappings(family, params)
    assert len(theirs) == len(mappings)  # no two of one name
    assert sum(t.size for t in theirs.values()) == sum(x.size for x in jax.tree.leaves(params))
    assert all(theirs[mapping.name].shape == mapping.shape for mapping in mappings)
    assert_same_bits(from_theirs(family, params, theirs.__getitem__), params)


def test_layouts(tiny_encoder: EncoderConfig) -> None:
    params = made(pretrained_metadata(tiny_encoder, ALL), tiny_encoder).params
    theirs, layers = to_theirs(BERT, params), params["encoder"]["layers"]
    query = theirs["bert.encoder.layer.1.attention.self.query.weight"]
    np.testing.assert_array_equal(
        query[7:9, 5], layers["attention"]["query"]["kernel"][1, 5, 1, 1:3]
    )
    out = theirs["bert.encoder.layer.0.attention.output.dense.weight"]
    np.testing.assert_array_equal(out[5, 7:9], layers["attention"]["out"]["kernel"][0, 1, 1:3, 5])
    up = theirs["bert.encoder.layer.1.intermediate.dense.weight"]
    np.testing.assert_array_equal(up, layers["mlp"]["up"]["kernel"][1].T)


def test_names_that_they_have_used() -> None:
    assert BERT.canonical("embeddings.LayerNorm.gamma") == "bert.embeddings.LayerNorm.weight"
    assert BERT.canonical("bert.encoder.layer.3.output.LayerNorm.beta").endswith(".LayerNorm.bias")
    assert BERT.canonical("pooler.dense.weight") == "bert.pooler.dense.weight"
    assert BERT.canonical("cls.predictions.bias") == "cls.predictions.bias"


def test_what_a_file_holds() -> None:
    pooler, mlm = "bert.pooler.dense.weight", "cls.predictions.transform.dense.weight"
    nsp = "cls.seq_relationship.weight"
    assert groups_of_file(BERT, None, [pooler], "x") == ("encoder", "pooler")
    assert groups_of_file(BERT, "BertModel", [], "x") == ("encoder",)
    assert groups_of_file(BERT, "BertForMaskedLM", [pooler, mlm, nsp], "x") == ALL
    assert (
        groups_of_file(BERT, "BertForMaskedLM", [nsp], "x") == ALL
    )  # so that the pooler is missed
    tags = groups_of_file(BERT, "BertForTokenClassification", [pooler, mlm], "x")
    assert tags == ("encoder", "pooler", "tagger")  # and the rest of the masked LM is unexpected
    with pytest.raises(UserError, match="a head and no architectures"):
        groups_of_file(BERT, None, ["classifier.weight"], "x")


def test_a_run_with_sentencepiece_and_swapped_sentences(
    tiny_encoder: EncoderConfig, tmp_path: pathlib.Path, mesh: Any
) -> None:
    tokenizer = train_sentencepiece(
        ["red light and blue wind"] * 20, vocab_size=20, model_type=ModelType.UNIGRAM
    )
    metadata = pretrained_metadata(tiny_encoder, ALL)
    metadata["config"]["data"] |= {"objective": "sop", "random_b_rate": 0.0}
    metadata["tokenizer"] = tokenizer_metadata(
        tokenizer
    )  # of fewer pieces than the embedding has rows
    model = made(metadata, tiny_encoder)
    assert groups_of_export(metadata, tuple(model.params))[-1] == "sop_head"
    huggingface.write_directory(model, tmp_path)
    assert "0: in order, 1: swapped" in (tmp_path / "README.md").read_text()
    again = huggingface.read_directory(tmp_path, mesh)
    assert_same_bits(again.params, model.params)
    assert {name: again.metadata[name] for name in metadata} == metadata

    own = json.loads((tmp_path / "bert_jax.json").read_text())
    own["config"]["steps"] = 7
    (tmp_path / "bert_jax.json").write_text(json.dumps(own))
    with pytest.raises(UserError, match="bert_jax.json is damaged: remove it"):
        huggingface.read_directory(tmp_path, mesh)


@pytest.mark.parametrize(
    "recipe", ["base", *(f"modern_{n}" for n in "tiny mini small base".split())]
)
def test_a_run_of_each_recipe_comes_back_whole(
    recipe: str, tmp_path: pathlib.Path, mesh: Any
) -> None:
    encoder = resolve_config(f"pretrain_{recipe}", [], PretrainConfig).encoder
    encoder.width, encoder.mlp_width, encoder.layers, encoder.heads = 8, 12, 3, 2
    encoder.vocab_size, encoder.max_length = 20, 24
    metadata = pretrained_metadata(encoder, ("encoder", "mlm_head"))
    tokenizer = train_sentencepiece(
        ["red light and blue wind"] * 20, vocab_size=20, model_type=ModelType.UNIGRAM
    )
    metadata["tokenizer"] = tokenizer_metadata(tokenizer)
    model = made(metadata, encoder)
    if not encoder.first_norm:  # the first layer has one all the same, which nothing trains
        norm = model.params["encoder"]["layers"]["attention_norm"]
        norm["scale"][0] = 1
    huggingface.write_directory(model, tmp_path)
    again = huggingface.read_directory(tmp_path, mesh)
    assert_same_bits(again.params, model.params)
    assert {name: again.metadata[name] for name in metadata} == metadata


def test_what_their_heads_cannot_read(tiny_encoder: EncoderConfig) -> None:
    metadata = fine_tuned_metadata(tiny_encoder, TaskKind.TAGS, ["a", "b"], pairs=False)
    metadata["config"] = to_dict(FinetuneConfig(task=TaskKind.TAGS, feature_layers=2))
    with pytest.raises(UserError, match="feature_layers=2 cannot be exported"):
        architecture_of(metadata)


def test_a_pooler_that_nothing_reads_is_kept(tiny_encoder: EncoderConfig, mesh: Any) -> None:
    metadata = pretrained_metadata(tiny_encoder, ("encoder", "pooler", "mlm_head"))
    assert metadata["config"]["data"]["objective"] == "none"
    abstract = abstract_groups(metadata, ("encoder", "pooler", "mlm_head"), mesh)
    assert set(abstract) == {"encoder", "pooler", "mlm_head"}
    assert groups_of_export(metadata, tuple(abstract)) == ("encoder", "mlm_head")
    model = PretrainingModel(tiny_encoder, SentenceObjective.NONE)
    assert module_of(metadata) == model


def test_poolers_and_poolings_that_a_class_lacks() -> None:
    bert = EncoderConfig(pooler=PoolerKind.GELU)
    assert misfit(BERT, bert, Head.PRETRAINING) == "encoder.pooler=gelu"
    assert misfit(BERT, bert, Head.MASKED_LM) == ""
    modern = EncoderConfig(**{**MODERNBERT.fixed, "pooler": PoolerKind.TRANSFORM})
    for pooling, field in (
        (InputPooling.CLS, ""),
        (InputPooling.MEAN, ""),
        (InputPooling.LATE, "encoder.pooling=late"),
    ):
        encoder = dataclasses.replace(modern, pooling=pooling)
        assert misfit(MODERNBERT, encoder, Head.CLASSES) == field


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("kind", ["pretraining", "transform"])
def test_shapes_are_those_of_the_model(
    tiny_encoder: EncoderConfig, switch: str, kind: str, mesh: Any
) -> None:
    """The table knows every switch, so that reading a file need not trace a model."""
    encoder = dataclasses.replace(tiny_encoder, **SWITCHES[switch][0])
    if kind == "transform":
        encoder = dataclasses.replace(encoder, pooler=PoolerKind.TRANSFORM)
    model = PretrainingModel(encoder)
    expected = {
        "/".join(key.key for key in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_params(model, mesh))
    }
    assert make_shapes(encoder, ALL, 0) == expected
    task = TaskModel(encoder, "tagger", 5, whole_inputs=False)
    classes = abstract_params(task, mesh)["tagger"]["dense"]
    found = make_shapes(encoder, ["tagger"], 5)
    assert found == {f"tagger/dense/{name}": leaf.shape for name, leaf in classes.items()}
