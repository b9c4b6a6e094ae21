"""Encoders of sentence-transformers: there and back, with the library's own vectors."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest

import bert_jax
from bert_jax.checkpoints.checkpoint import find_checkpoint, read_metadata
from bert_jax.checkpoints.pretrained import one_device
from bert_jax.config import (
    FinetuneConfig,
    SearchOptions,
    Similarity,
    VectorPooling,
    VectorsConfig,
    from_dict,
)
from bert_jax.errors import UserError
from bert_jax.interop import sentence_encoder
from bert_jax.interop.conversion import convert
from bert_jax.retrieval.search_encoder import SearchEncoder
from tests.fixtures.drivers import Run, assert_same_bits
from tests.fixtures.interop import edit_json, make_peer, save_peer
from tests.interop.test_convert import params_of

pytestmark = [pytest.mark.hf, pytest.mark.filterwarnings("ignore")]  # theirs
pytest.importorskip("torch")
library = pytest.importorskip("sentence_transformers")

LENGTH = 9  # the second text is cut
TEXTS = ["red sun.", "the river at night, blue light, wind and stone", "stone", "sun, wind?"]
PROMPTS = {"query": "blue: ", "document": "the "}


def make_encoder(
    directory: pathlib.Path,
    pooling: str,
    *,
    normalised: bool,
    prompts: dict[str, str],
    similarity: str | None = None,
) -> Any:
    """Saves a small encoder by the library; returns it."""
    from sentence_transformers.sentence_transformer import modules

    inner = save_peer(make_peer("BertModel", spread=0.2), directory.with_name("inner"))
    parts = [modules.Transformer(str(inner), max_seq_length=LENGTH), modules.Pooling(24, pooling)]
    parts += [modules.Normalize()] * normalised
    made = library.SentenceTransformer(
        modules=parts, prompts=prompts, similarity_fn_name=similarity, device="cpu"
    )
    made.save_pretrained(str(directory))
    return made


def vectors_of(run: pathlib.Path, similarity: Similarity | None = None) -> SearchEncoder:
    options = SearchOptions(similarity=similarity)
    return SearchEncoder(find_checkpoint(run), one_device(), options, batch_size=4)


def of_library(directory: pathlib.Path) -> str:
    return f"sentence-transformers:{directory}"


@pytest.mark.parametrize(
    ("pooling", "normalised", "prompts", "similarity"),
    [
        ("mean", True, PROMPTS, "cosine"),
        ("cls", False, {}, "dot"),
        ("mean", False, {}, "cosine"),
        ("lasttoken", True, {}, "dot"),
    ],
)
def test_there_and_back(
    pooling: str,
    normalised: bool,
    prompts: dict,
    similarity: str,
    tmp_path: pathlib.Path,
    capsys: Any,
) -> None:
    theirs = make_encoder(
        tmp_path / "st", pooling, normalised=normalised, prompts=prompts, similarity=similarity
    )
    run, back = tmp_path / "run", tmp_path / "back"
    convert(of_library(tmp_path / "st"), str(run))
    said = capsys.readouterr().out
    assert "verified against sentence-transformers, vectors" in said
    metadata = read_metadata(find_checkpoint(run))
    config = from_dict(FinetuneConfig, metadata["config"])
    ours = {"cls": "cls", "mean": "mean", "lasttoken": "last"}[pooling]
    assert metadata["kind"] == "vectors" and config.data.length == LENGTH
    assert config.vectors == VectorsConfig(
        pooling=VectorPooling(ours),
        normalised=normalised,
        query_prompt=prompts.get("query", ""),
        text_prompt=prompts.get("document", ""),
    )
    documents, queries = theirs.encode_document(TEXTS), theirs.encode_query(TEXTS)
    plain = None if normalised else Similarity.PRODUCT
    np.testing.assert_allclose(vectors_of(run, plain).texts(TEXTS), documents, atol=1e-5)
    np.testing.assert_allclose(vectors_of(run, plain).queries(TEXTS), queries, atol=1e-5)
    found = vectors_of(run).queries(TEXTS) @ vectors_of(run).texts(TEXTS).T
    np.testing.assert_allclose(found, theirs.similarity(queries, documents), atol=1e-5)
    assert bool(prompts) == (np.abs(documents - queries).max() > 1e-3)  # witness

    convert(str(run), of_library(back))
    said = capsys.readouterr().out
    assert "verified against transformers, hidden" in said
    assert said.count("verified against sentence-transformers") == 2
    opened = library.SentenceTransformer(str(back), device="cpu", local_files_only=True)
    np.testing.assert_allclose(opened.encode_document(TEXTS), documents, atol=1e-5)
    np.testing.assert_allclose(opened.encode_query(TEXTS), queries, atol=1e-5)
    assert opened.max_seq_length == LENGTH
    assert opened.similarity_fn_name == ("cosine" if normalised else similarity)
    convert(of_library(back), str(tmp_path / "again"), verify=False)
    assert_same_bits(params_of(tmp_path / "again"), params_of(run))
    again = read_metadata(find_checkpoint(tmp_path / "again"))
    assert again["config"] == metadata["config"]
    by_cosine = similarity == "cosine" and not normalised
    assert (
        again.get("similarity") == metadata.get("similarity") == ("cosine" if by_cosine else None)
    )


@pytest.mark.parametrize("said", [None, {}, {"similarity_fn_name": None}])
def test_a_directory_that_says_nothing_is_searched_by_the_cosine(
    said: dict | None, tmp_path: pathlib.Path
) -> None:
    make_encoder(tmp_path / "st", "mean", normalised=False, prompts={})
    path = tmp_path / "st/config_sentence_transformers.json"
    path.unlink()
    if said is not None:
        path.write_text(json.dumps(said))
    convert(of_library(tmp_path / "st"), str(tmp_path / "run"), verify=False)
    assert vectors_of(tmp_path / "run").settings.normalised
    config = read_metadata(find_checkpoint(tmp_path / "run"))["config"]
    assert not config["vectors"]["normalised"]


def test_files_of_older_versions(tmp_path: pathlib.Path) -> None:
    make_encoder(tmp_path / "st", "cls", normalised=True, prompts={"document": "the "})
    names = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{name}"}
        for n, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
    (tmp_path / "st/modules.json").write_text(json.dumps(modules))
    old = {"word_embedding_dimension": 24, "pooling_mode_cls_token": True}
    old |= {"pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": False}
    (tmp_path / "st/1_Pooling/config.json").write_text(json.dumps(old))
    length = {"max_seq_length": 7, "do_lower_case": False}
    (tmp_path / "st/sentence_bert_config.json").write_text(json.dumps(length))
    convert(of_library(tmp_path / "st"), str(tmp_path / "run"), verify=False)
    config = read_metadata(find_checkpoint(tmp_path / "run"))["config"]
    assert config["data"]["length"] == 7 and config["vectors"]["pooling"] == "cls"
    assert config["vectors"]["normalised"] and config["vectors"]["text_prompt"] == "the "


@pytest.mark.parametrize(
    ("prompts", "default", "query", "text", "note"),
    [
        ({"query": "blue: ", "document": "", "passage": "the "}, None, "blue: ", "", "passage;"),
        ({"query": "blue: ", "passage": "the "}, None, "blue: ", "", "passage;"),
        ({"query": "blue: "}, "query", "blue: ", "", "default_prompt_name=query: only encode"),
        ({"query": "", "document": "the "}, "document", "", "the ", "default_prompt_name=document"),
        ({"query": "the ", "document": "the "}, "query", "the ", "the ", ""),
        ({"corpus": "the "}, None, "", "", "corpus; rename one to query or document"),
        ({"sun": "the ", "passage": "blue: "}, "sun", "the ", "the ", "passage;"),  # as encode
    ],
)
def test_prompts_are_those_that_the_library_chooses(
    prompts: dict[str, str],
    default: str | None,
    query: str,
    text: str,
    note: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_encoder(tmp_path / "st", "mean", normalised=True, prompts={})
    path = tmp_path / "st/config_sentence_transformers.json"
    edit_json(path, prompts=prompts, default_prompt_name=default)
    convert(of_library(tmp_path / "st"), str(tmp_path / "run"))
    said = capsys.readouterr().out
    assert note in said and ("prompts that" in said or "default_prompt" in said) == bool(note)
    config = read_metadata(find_checkpoint(tmp_path / "run"))["config"]
    assert (config["vectors"]["query_prompt"], config["vectors"]["text_prompt"]) == (query, text)
    opened = library.SentenceTransformer(str(tmp_path / "st"), device="cpu")
    queries, documents = opened.encode_query(TEXTS), opened.encode_document(TEXTS)
    if default == "sun":  # which the library has for encode alone
        queries = documents = opened.encode(TEXTS)
    np.testing.assert_allclose(vectors_of(tmp_path / "run").queries(TEXTS), queries, atol=1e-5)
    np.testing.assert_allclose(vectors_of(tmp_path / "run").texts(TEXTS), documents, atol=1e-5)


def test_the_proof_sees_another_prompt_than_that_of_the_library(tmp_path: pathlib.Path) -> None:
    make_encoder(tmp_path / "st", "mean", normalised=True, prompts=PROMPTS)
    for field, name in (("query_prompt", "queries"), ("text_prompt", "texts")):
        model = sentence_encoder.read_sentence_encoder(
            tmp_path / "st", one_device(), tokenizer=None, padded_vocabulary=False
        )
        model.metadata["config"]["vectors"][field] = "stone "
        with pytest.raises(UserError, match=f"differ .vectors of {name} with 'stone '"):
            list(sentence_encoder.compare_with_library(model, tmp_path / "st", TEXTS))


@pytest.mark.parametrize(
    "files",
    [
        {"roberta": 7},
        {"bert": None, "xlnet": 6},
        {"distilbert": 6, "xlm-roberta": 7},
        {"albert": 7, "camembert": 6},
        {"bert": 7, "roberta": 6},
    ],
)
def test_older_names_of_the_file_with_the_length(
    files: dict[str, int | None], tmp_path: pathlib.Path
) -> None:
    make_encoder(tmp_path / "st", "mean", normalised=True, prompts={})
    (tmp_path / "st/sentence_bert_config.json").unlink()
    for kind, length in files.items():
        values = {} if length is None else {"max_seq_length": length, "do_lower_case": False}
        (tmp_path / f"st/sentence_{kind}_config.json").write_text(json.dumps(values))
    convert(of_library(tmp_path / "st"), str(tmp_path / "run"))
    opened = library.SentenceTransformer(str(tmp_path / "st"), device="cpu")
    config = read_metadata(find_checkpoint(tmp_path / "run"))["config"]
    assert config["data"]["length"] == opened.max_seq_length in (6, 7)
    ours = vectors_of(tmp_path / "run").texts(TEXTS)
    np.testing.assert_allclose(ours, opened.encode(TEXTS), atol=1e-5)


def test_arguments_of_the_library_that_change_nothing(tmp_path: pathlib.Path) -> None:
    make_encoder(tmp_path / "st", "mean", normalised=True, prompts={})
    harmless = {"trust_remote_code": True, "add_pooling_layer": False}
    path = tmp_path / "st/sentence_bert_config.json"
    edit_json(path, model_args=harmless, tokenizer_args={}, config_args={}, unpad_inputs=False)
    convert(of_library(tmp_path / "st"), str(tmp_path / "run"))
    opened = library.SentenceTransformer(str(tmp_path / "st"), device="cpu")
    ours = vectors_of(tmp_path / "run").texts(TEXTS)
    np.testing.assert_allclose(ours, opened.encode(TEXTS), atol=1e-5)


def test_any_checkpoint_has_vectors(
    finetuned: Run, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(str(finetuned[0]), of_library(tmp_path / "st"))
    said = capsys.readouterr().out
    assert "BertModel" in said and "the encoder alone: a vector has no head" in said
    texts = ["red stone house", "wind"]
    ours = bert_jax.load(finetuned[0]).encode(texts, pooling="mean")
    opened = library.SentenceTransformer(str(tmp_path / "st"), device="cpu")
    np.testing.assert_allclose(ours, opened.encode(texts), atol=1e-5)
    assert opened.max_seq_length == 40 and opened.similarity_fn_name == "cosine"
    convert(of_library(tmp_path / "st"), str(tmp_path / "run"), verify=False)
    assert vectors_of(tmp_path / "run").settings == vectors_of(finetuned[0]).settings


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "max"}, "has the pooling ['max']: only one of"),
        ("1_Pooling/config.json", {"include_prompt": False}, "has include_prompt=false"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "has do_lower_case=true"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, "has max_seq_length=0: write a"),
        (
            "sentence_bert_config.json",
            {"tokenizer_args": {"truncation_side": "left", "trust_remote_code": True}},
            'has tokenizer_args={"truncation_side": "left"}, which is not implemented: remove it',
        ),
        ("sentence_bert_config.json", {"model_args": ["x"]}, 'has model_args=["x"], which is not'),
        (
            "sentence_bert_config.json",
            {"config_kwargs": {"hidden_act": "relu"}},
            'has config_kwargs={"hidden_act": "relu"}, which is not implemented',
        ),
        ("sentence_bert_config.json", {"query_length": 5}, "has query_length=5, which is not"),
        (
            "sentence_bert_config.json",
            {"transformer_task": "fill-mask"},
            "has transformer_task=fill-mask, which is not implemented",
        ),
        (
            "config_sentence_transformers.json",
            {"default_prompt_name": ["query"]},
            'has default_prompt_name=["query"], which is none of its prompts: name one',
        ),
        (
            "config_sentence_transformers.json",
            {"similarity_fn_name": "euclidean"},
            "has similarity_fn_name=euclidean: only cosine and dot are implemented",
        ),
        (
            "config_sentence_transformers.json",
            {"similarity_fn_name": "manhattan"},
            "has similarity_fn_name=manhattan: only cosine and dot are implemented",
        ),
        ("modules.json", 5, "has path=5 for Pooling: write the name of its folder"),
        ("modules.json", ["1_Pooling"], 'has path=["1_Pooling"] for Pooling: write the name'),
        ("modules.json", {}, "has path={} for Pooling: write the name of its folder"),
        ("modules.json", "Dense", "has the modules Transformer, Pooling, Dense: only"),
        ("modules.json", None, "has no modules.json: name a directory of sentence-transformers"),
    ],
)
def test_what_is_not_implemented_is_one_line(
    file: str, changes: Any, message: str, tmp_path: pathlib.Path
) -> None:
    make_encoder(tmp_path / "st", "mean", normalised=False, prompts=PROMPTS)
    path = tmp_path / "st" / file
    if changes is None:
        path.unlink()
    elif file == "modules.json" and not isinstance(changes, str):
        modules = json.loads(path.read_text())
        modules[1]["path"] = changes
        path.write_text(json.dumps(modules))
    elif isinstance(changes, str):
        last = {
            "idx": 2,
            "name": "2",
            "path": "2_Dense",
            "type": f"sentence_transformers.{changes}",
        }
        path.write_text(json.dumps([*json.loads(path.read_text()), last]))
    else:
        edit_json(path, **changes)
    with pytest.raises(UserError) as error:
        convert(of_library(tmp_path / "st"), str(tmp_path / "run"))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
