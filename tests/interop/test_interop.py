"""Models of transformers become ours and the other way round: the same bits, the same outputs."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from bert_jax.config import EncoderConfig, MeshConfig
from bert_jax.distributed import sharding
from bert_jax.errors import UserError
from bert_jax.interop import huggingface, verify
from bert_jax.interop.architectures import Model, family_of, head_of
from bert_jax.interop.families.bert import BERT
from bert_jax.interop.names import Misfit
from bert_jax.text.tokenizer import WordPieceTokenizer, load_tokenizer, tokenizer_from_dict
from bert_jax.text.training import ModelType, train_sentencepiece
from tests.fixtures.drivers import assert_same_bits
from tests.fixtures.interop import (
    LABELS,
    SHAPE,
    SPECIAL,
    VOCAB,
    edit_json,
    make_peer,
    save_peer,
)

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

from bert_jax.interop import peer  # noqa: E402

ARCHITECTURES = [
    "BertModel",
    "BertForPreTraining",
    "BertForMaskedLM",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertForQuestionAnswering",
]
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def mesh() -> Any:
    return sharding.make_mesh(MeshConfig(data=1), jax.devices()[:1])


def tensors_of(directory: pathlib.Path) -> dict[str, np.ndarray]:
    return {name: t.numpy() for name, t in safetensors.load_file(directory / WEIGHTS).items()}


def differences(model: Model, directory: pathlib.Path) -> list[verify.Difference]:
    """Compares our model with what transformers makes of a directory, in double precision.

    In single precision the errors of transformers alone are 5e-6 of the largest output.
    """
    family, head = family_of(model.metadata), head_of(model.metadata)
    pooler = "pooler" in model.params
    theirs = peer.load_model(directory, family, head, pooler=pooler, dtype="float64")
    assert not theirs.missing
    tokenizer = tokenizer_from_dict(model.metadata["tokenizer"])
    encoder = huggingface.from_dict(EncoderConfig, model.metadata["encoder"])
    batch = verify.make_input_rows(tokenizer, encoder, verify.SENTENCES)
    assert batch["segment_ids"].any() and (batch["example_ids"] == 0).any()
    return verify.compare(verify.our_outputs(model, batch), theirs.run(batch), batch)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_there_and_back(architecture: str, tmp_path: pathlib.Path, mesh: Any) -> None:
    first = save_peer(make_peer(architecture), tmp_path / "first")
    model = huggingface.read_directory(first, mesh)
    found = differences(model, first)
    assert len(found) == (2 if architecture in ("BertModel", "BertForPreTraining") else 1)
    for difference in found:
        assert difference.greatest <= 5e-6 * difference.largest
        assert difference.largest > 0.5 and difference.values > 40  # witness

    (second := tmp_path / "second").mkdir()
    huggingface.write_directory(model, second)
    head = BERT.head_of(architecture)
    assert head
    theirs = peer.load_model(second, BERT, head, pooler="pooler" in model.params)
    assert not theirs.missing and not theirs.unexpected
    ours, original = tensors_of(second), tensors_of(first)
    assert ours.keys() == original.keys()
    for name, tensor in original.items():
        assert ours[name].tobytes() == tensor.tobytes(), name
    before, written = (json.loads((d / "config.json").read_text()) for d in (first, second))
    assert {"hidden_size", "layer_norm_eps", "architectures"} < before.keys() & written.keys()
    for name in before.keys() & written.keys():
        assert written[name] == before[name], name

    again = huggingface.read_directory(second, mesh)
    assert_same_bits(again.params, model.params)
    assert {k: v for k, v in again.metadata.items() if k != "max_length"} == model.metadata


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_activations(activation: str, tmp_path: pathlib.Path, mesh: Any) -> None:
    peer_model = make_peer("BertForMaskedLM", hidden_act=activation, seed=1)
    directory = save_peer(peer_model, tmp_path / activation)
    model = huggingface.read_directory(directory, mesh)
    (difference,) = differences(model, directory)
    assert difference.greatest <= 5e-6 * difference.largest
    # Witness: another activation is another model.
    wrong = {"gelu": "relu", "gelu_new": "gelu", "relu": "gelu_tanh"}[activation]
    model.metadata["encoder"]["activation"] = wrong
    with pytest.raises(UserError, match="the outputs of the two libraries differ"):
        differences(model, directory)


def old_names(name: str) -> str:
    for new, old in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
        name = name.replace(new, old)
    return name


@pytest.mark.parametrize("form", ["bin", "sharded", "old_names", "with_copies", "half", "brain"])
def test_forms_of_a_file(form: str, tmp_path: pathlib.Path, mesh: Any) -> None:
    peer_model = make_peer("BertForPreTraining", seed=2)
    plain = save_peer(peer_model, tmp_path / "plain")
    directory = tmp_path / form
    if form == "sharded":
        save_peer(peer_model, directory, max_shard_size="20KB")
        assert len(list(directory.glob("*.safetensors"))) > 2
    else:
        save_peer(peer_model, directory)
        state = safetensors.load_file(directory / WEIGHTS)
        match form:
            case "old_names":
                state = {old_names(name): tensor for name, tensor in state.items()}
            case "with_copies":
                state["cls.predictions.decoder.weight"] = peer_model.cls.predictions.decoder.weight
                state["cls.predictions.decoder.bias"] = peer_model.cls.predictions.bias
                state["bert.embeddings.position_ids"] = torch.arange(50)[None]
            case "half" | "brain":
                dtype = torch.float16 if form == "half" else torch.bfloat16
                state = {name: tensor.to(dtype) for name, tensor in state.items()}
        state = {name: tensor.detach().clone() for name, tensor in state.items()}
        if form == "bin":
            (directory / WEIGHTS).unlink()
            torch.save(state, directory / "pytorch_model.bin")
        else:
            safetensors.save_file(state, directory / WEIGHTS, metadata={"format": "pt"})
    expected = huggingface.read_directory(plain, mesh).params
    if form in ("half", "brain"):
        expected = jax.tree.map(lambda x: torch.tensor(x).to(dtype).float().numpy(), expected)
    found = huggingface.read_directory(directory, mesh)
    assert_same_bits(found.params, expected)
    assert bool(found.notes) == (form in ("half", "brain"))


def test_a_masked_lm_keeps_what_its_file_has(tmp_path: pathlib.Path, mesh: Any) -> None:
    directory = save_peer(make_peer("BertForPreTraining"), tmp_path / "all")
    edit_json(directory / "config.json", architectures=["BertForMaskedLM"])
    model = huggingface.read_directory(directory, mesh)
    assert set(model.params) == {"encoder", "pooler", "mlm_head", "nsp_head"}
    assert model.metadata["config"]["data"]["objective"] == "nsp"


def test_labels_and_settings(tmp_path: pathlib.Path, mesh: Any) -> None:
    directory = save_peer(make_peer("BertForTokenClassification"), tmp_path / "tags")
    settings = {"do_lower_case": False, "strip_accents": True, "model_max_length": 40}
    (directory / "tokenizer_config.json").write_text(
        json.dumps(settings | {"tokenize_chinese_chars": False})
    )
    metadata = huggingface.read_directory(directory, mesh).metadata
    assert (
        metadata["kind"] == "tags" and metadata["labels"] == LABELS and metadata["max_length"] == 40
    )
    tokenizer = tokenizer_from_dict(metadata["tokenizer"])
    assert isinstance(tokenizer, WordPieceTokenizer)
    assert (tokenizer.lower_case, tokenizer.strip_accents, tokenizer.split_han) == (
        False,
        True,
        False,
    )


def test_one_number_is_a_regression(tmp_path: pathlib.Path, mesh: Any) -> None:
    peer_model = make_peer("BertForSequenceClassification", id2label={0: "score"})
    directory = save_peer(peer_model, tmp_path / "number")
    model = huggingface.read_directory(directory, mesh, pairs=True)
    assert model.metadata["kind"] == "regression" and model.metadata["labels"] == []
    assert model.metadata["config"]["data"]["text_pair_column"]
    (tmp_path / "out").mkdir()
    huggingface.write_directory(model, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == "regression" and len(config["id2label"]) == 1
    (difference,) = differences(model, tmp_path / "out")
    assert difference.greatest <= 5e-6 * difference.largest


CONFIG_ERRORS = [
    (
        {"model_type": "deberta"},
        "model_type=deberta is not implemented .*are relative.: only bert,",
    ),
    ({"model_type": "albert"}, "model_type=albert is not implemented .*share their parameters"),
    ({"position_embedding_type": "relative_key"}, "position_embedding_type=relative_key"),
    ({"hidden_act": "mish"}, "hidden_act=mish is not implemented"),
    ({"is_decoder": True}, "is_decoder=true is not implemented"),
    ({"quantization_config": {"bits": 4}}, "quantization_config=.* is not implemented"),
    ({"tie_word_embeddings": False}, "tie_word_embeddings=false is not implemented"),
    ({"embedding_size": 12}, "embedding_size=12 is not implemented"),
    ({"architectures": ["BertForMultipleChoice"]}, "architectures=BertForMultipleChoice"),
    ({"hidden_size": "24"}, "hidden_size=24 is not of type int"),
    ({"num_attention_heads": 5}, "heads=5 does not divide"),
    ({"vocab_size": None}, "has no vocab_size"),
]


@pytest.mark.parametrize(("changes", "message"), CONFIG_ERRORS)
def test_what_is_no_bert_is_refused(
    changes: dict, message: str, tmp_path: pathlib.Path, mesh: Any
) -> None:
    directory = save_peer(make_peer("BertForMaskedLM"), tmp_path / "m")
    edit_json(directory / "config.json", **changes)
    with pytest.raises(UserError, match=message):
        huggingface.read_directory(directory, mesh)


def test_all_tensors_that_do_not_fit_are_listed(tmp_path: pathlib.Path, mesh: Any) -> None:
    directory = save_peer(make_peer("BertForMaskedLM"), tmp_path / "m")
    state = safetensors.load_file(directory / WEIGHTS)
    del state["bert.encoder.layer.1.output.dense.bias"]
    state["bert.encoder.layer.7.output.dense.bias"] = torch.zeros(24)
    state["cls.predictions.bias"] = torch.zeros(9)
    state["cls.predictions.transform.dense.bias"] = torch.zeros(24, dtype=torch.int32)
    safetensors.save_file(state, directory / WEIGHTS)
    with pytest.raises(Misfit, match="1 missing, 1 unexpected, 2 of another shape") as caught:
        huggingface.read_directory(directory, mesh)
    rows = {line.split()[0]: line.split()[1:] for line in caught.value.table.splitlines()}
    assert len(rows) == 5  # with the head
    assert rows["bert.encoder.layer.1.output.dense.bias"] == ["-", "float[24]"]
    assert rows["bert.encoder.layer.7.output.dense.bias"] == ["float32[24]", "-"]
    assert rows["cls.predictions.bias"] == ["float32[9]", f"float[{len(VOCAB)}]"]


class Bomb:
    """What a pickle may hold: a call of anything."""

    def __reduce__(self) -> tuple:
        return print, ("code was run",)


def test_files_that_are_refused(tmp_path: pathlib.Path, mesh: Any, capsys: Any) -> None:
    directory = save_peer(make_peer("BertModel"), tmp_path / "m")
    whole = (directory / WEIGHTS).read_bytes()

    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message):
            huggingface.read_directory(directory, mesh)

    (directory / WEIGHTS).write_bytes(whole[:-7])
    refused("is not a complete safetensors file")
    (directory / WEIGHTS).unlink()
    refused("has no weights")
    torch.save({"embeddings.x": Bomb()}, directory / "pytorch_model.bin")
    refused("is refused: .* more than tensors")
    torch.save({"model": {"embeddings.x": torch.zeros(2)}}, directory / "pytorch_model.bin")
    refused("is refused: it is not a dict of tensors")
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "../m/other.safetensors"}})
    )
    refused("is damaged: it needs a weight_map")
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "gone.safetensors"}})
    )
    refused("names gone.safetensors, missing")
    assert "code was run" not in capsys.readouterr().out


def test_an_untied_output_is_refused(tmp_path: pathlib.Path, mesh: Any) -> None:
    directory = save_peer(make_peer("BertForMaskedLM"), tmp_path / "m")
    state = safetensors.load_file(directory / WEIGHTS)
    state["cls.predictions.decoder.weight"] = torch.ones(len(VOCAB), 24)
    safetensors.save_file(state, directory / WEIGHTS)
    with pytest.raises(UserError, match="is not a copy of bert.embeddings.word_embeddings"):
        huggingface.read_directory(directory, mesh)


def test_a_vocabulary_of_another_length(tmp_path: pathlib.Path, mesh: Any) -> None:
    more = save_peer(make_peer("BertModel", vocab_size=len(VOCAB) + 3), tmp_path / "more")
    with pytest.raises(UserError, match="its last 3 rows are padding, add --padded_vocabulary"):
        huggingface.read_directory(more, mesh)
    model = huggingface.read_directory(more, mesh, padded_vocabulary=True)
    assert model.params["encoder"]["embeddings"]["tokens"].shape == (len(VOCAB) + 3, 24)
    (tmp_path / "again").mkdir()
    huggingface.write_directory(model, tmp_path / "again")
    huggingface.read_directory(tmp_path / "again", mesh)  # its own metadata say that it is padding
    less = save_peer(make_peer("BertModel", vocab_size=len(VOCAB) - 3), tmp_path / "less")
    with pytest.raises(UserError, match="the vocabulary has 91 pieces and the embedding 88 rows"):
        huggingface.read_directory(less, mesh, padded_vocabulary=True)


def test_what_transformers_cannot_be_is_not_exported(tmp_path: pathlib.Path, mesh: Any) -> None:
    directory = save_peer(make_peer("BertForMaskedLM"), tmp_path / "m")
    for field, value in (("norm", "pre"), ("causal", True)):
        model = huggingface.read_directory(directory, mesh)
        model.metadata["encoder"][field] = value
        with pytest.raises(UserError, match=f"encoder.{field}=.* cannot be exported"):
            huggingface.write_directory(model, tmp_path)


def exported(architecture: str, tmp_path: pathlib.Path, mesh: Any, **options: Any) -> Any:
    """Returns a model of transformers, and the directory that we write of it."""
    theirs = make_peer(architecture, **options)
    model = huggingface.read_directory(save_peer(theirs, tmp_path / "theirs"), mesh)
    (directory := tmp_path / "ours").mkdir()
    huggingface.write_directory(model, directory)
    return model, directory


def tokenizer_of(model: Model) -> Any:
    return tokenizer_from_dict(model.metadata["tokenizer"])


def test_a_changed_tokenizer_of_an_exported_model_is_followed(
    tmp_path: pathlib.Path, mesh: Any
) -> None:
    model, directory = exported("BertModel", tmp_path, mesh)
    text, path = "Red SUN, blue", directory / "tokenizer_config.json"
    same = huggingface.read_directory(directory, mesh)
    assert same.metadata["tokenizer"] == model.metadata["tokenizer"] and not same.notes
    edit_json(path, padding_side="left", model_max_length=30)  # no part of an id
    same = huggingface.read_directory(directory, mesh)
    assert same.metadata["tokenizer"] == model.metadata["tokenizer"] and not same.notes
    assert same.metadata["max_length"] == 30
    edit_json(path, do_lower_case=False)
    changed = huggingface.read_directory(directory, mesh)
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    found = tokenizer_of(changed).encode(text).tolist()
    assert found == theirs(text, add_special_tokens=False)["input_ids"]
    assert found != tokenizer_of(model).encode(text).tolist()  # witness
    assert changed.notes[0] == (
        "not the tokenizer of the export, but that of the files, which have changed"
    )
    edit_json(path, never_split=["red"])
    with pytest.raises(UserError, match="never_split=.* is not implemented"):
        huggingface.read_directory(directory, mesh)
    for name in ("tokenizer_config.json", "tokenizer.json", "vocab.txt"):
        (directory / name).unlink()
    bare = huggingface.read_directory(directory, mesh)
    assert bare.metadata["tokenizer"] == model.metadata["tokenizer"] and not bare.notes


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_changed_sentencepiece_model_of_an_export_is_refused(
    kind: str, tmp_path: pathlib.Path, mesh: Any
) -> None:
    lines = list(verify.SENTENCES) * 4
    made = train_sentencepiece(lines, vocab_size=150, model_type=ModelType(kind))
    theirs = save_peer(make_peer("BertModel", vocab_size=made.vocab_size), tmp_path / "theirs")
    model = huggingface.read_directory(theirs, mesh, tokenizer=made)
    (directory := tmp_path / "ours").mkdir()
    huggingface.write_directory(model, directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    tokenizer.save_pretrained(directory)  # with more fields, and the same ids
    again = huggingface.read_directory(directory, mesh)
    assert again.metadata["tokenizer"] == model.metadata["tokenizer"] and not again.notes
    values = json.loads((directory / "tokenizer.json").read_text())
    values["normalizer"] = {"type": "Lowercase"}
    (directory / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="tokenizer.json is not as it was exported, and no") as e:
        huggingface.read_directory(directory, mesh)
    remedy = load_tokenizer(str(e.value).rpartition("--tokenizer=")[2])
    model = huggingface.read_directory(directory, mesh, tokenizer=remedy)
    assert model.metadata["tokenizer"] == again.metadata["tokenizer"]


def test_flags_for_an_exported_model(tmp_path: pathlib.Path, mesh: Any) -> None:
    model, directory = exported("BertForSequenceClassification", tmp_path, mesh)
    with pytest.raises(UserError, match="--pairs: .*bert_jax.json says that the model reads one"):
        huggingface.read_directory(directory, mesh, pairs=True)
    other = WordPieceTokenizer([*SPECIAL, *reversed(VOCAB[len(SPECIAL) :])], lower_case=True)
    changed = huggingface.read_directory(directory, mesh, tokenizer=other)
    assert changed.metadata["tokenizer"]["fingerprint"] == other.fingerprint
    assert changed.notes == ["not the tokenizer of the export, but that of --tokenizer"]
    shorter = WordPieceTokenizer(VOCAB[:-3], lower_case=True)
    with pytest.raises(UserError, match="its last 3 rows are padding, add --padded_vocabulary"):
        huggingface.read_directory(directory, mesh, tokenizer=shorter)
    huggingface.read_directory(directory, mesh, tokenizer=shorter, padded_vocabulary=True)

    model.metadata["config"]["data"]["text_pair_column"] = "text_pair"
    (of_pairs := tmp_path / "pairs").mkdir()
    huggingface.write_directory(model, of_pairs)
    assert not huggingface.read_directory(of_pairs, mesh, pairs=True).notes  # as it is anyway
    edit_json(of_pairs / "tokenizer_config.json", model_input_names=["input_ids"])
    with pytest.raises(UserError, match="leaves out token_type_ids"):
        huggingface.read_directory(of_pairs, mesh)


@pytest.mark.parametrize("family", ["Bert", "Roberta"])
def test_pairs_of_a_model_with_one_segment(family: str, tmp_path: pathlib.Path, mesh: Any) -> None:
    values = SHAPE | {"type_vocab_size": 1, "pad_token_id": 0}
    config = getattr(transformers, f"{family}Config")(**values)
    torch.manual_seed(3)
    peer_model = getattr(transformers, f"{family}ForSequenceClassification")(config).eval()
    first = save_peer(peer_model, tmp_path / "first")
    model = huggingface.read_directory(first, mesh, pairs=True)
    (second := tmp_path / "second").mkdir()
    huggingface.write_directory(model, second)
    tokenizer = transformers.AutoTokenizer.from_pretrained(second)
    opened = transformers.AutoModelForSequenceClassification.from_pretrained(second)
    inputs = tokenizer("red sun", "the wind", return_tensors="pt")
    ids = [VOCAB.index(piece) for piece in "[CLS] red sun [SEP] the wind [SEP]".split()]
    assert inputs["input_ids"][0].tolist() == ids and "token_type_ids" not in inputs
    with torch.no_grad():
        expected = peer_model(torch.tensor([ids])).logits.numpy()
        np.testing.assert_allclose(opened(**inputs).logits.numpy(), expected, atol=1e-6)
    again = huggingface.read_directory(second, mesh)
    assert again.metadata["config"] == model.metadata["config"]


def test_changed_weights_are_read_without_what_was_known_of_them(
    tmp_path: pathlib.Path, mesh: Any
) -> None:
    directory = save_peer(make_peer("BertForSequenceClassification"), tmp_path / "m")
    model = huggingface.read_directory(directory, mesh, pairs=True)
    (ours := tmp_path / "ours").mkdir()
    huggingface.write_directory(model, ours)
    known = huggingface.read_directory(ours, mesh).metadata
    assert known["config"]["data"]["text_pair_column"]
    edit_json(ours / "config.json", id2label={"0": "a", "1": "b", "2": "c"})
    assert huggingface.read_directory(ours, mesh).metadata["labels"] == ["a", "b", "c"]
    state = safetensors.load_file(ours / WEIGHTS)
    state["classifier.bias"] += 1
    safetensors.save_file(state, ours / WEIGHTS, metadata={"format": "pt"})
    changed = huggingface.read_directory(ours, mesh)
    assert not changed.metadata["config"]["data"]["text_pair_column"]
    np.testing.assert_array_equal(
        changed.params["classifier"]["dense"]["bias"], state["classifier.bias"].numpy()
    )
