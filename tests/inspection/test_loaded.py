"""`bert_jax.load`: a model object gives what the drivers give, for every kind of checkpoint."""

import dataclasses
import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import bert_jax
from bert_jax.checkpoints.checkpoint import write_parameters
from bert_jax.config import (
    EncoderConfig,
    FinetuneConfig,
    PretrainConfig,
    TaskKind,
    VectorsConfig,
    to_dict,
)
from bert_jax.errors import UserError
from bert_jax.inspection.loaded import LoadedModel
from bert_jax.interop.architectures import module_of, pretrained_metadata
from bert_jax.interop.foreign import tokenizer_metadata
from bert_jax.runs.teacher import stored_shape
from bert_jax.text.tokenizer import WordPieceTokenizer
from tests.fixtures.batches import make_batch, random_params
from tests.fixtures.drivers import ROOT, Drivers, Run
from tests.fixtures.interop import LABELS, VOCAB, make_peer, save_peer

TEXTS = ["red stone house", "old wind", "the sun"]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("lines") / "lines.txt"
    path.write_text("".join(f"{text}\n" for text in TEXTS))
    return path


@pytest.fixture(scope="module")
def model(pretrained: Run) -> LoadedModel:
    return bert_jax.load(pretrained[0])


@pytest.fixture(scope="module")
def tuned(finetuned: Run) -> LoadedModel:
    return bert_jax.load(str(finetuned[0]))


def printed(drivers: Drivers, *flags: str) -> list[dict[str, Any]]:
    result = drivers.run("predict", "--json", *flags)
    assert result.status == 0, result.err
    return [json.loads(line) for line in result.out.splitlines()]


def test_masks_are_filled_as_by_predict(
    drivers: Drivers, pretrained: Run, model: LoadedModel
) -> None:
    text = "red [MASK] house [MASK]"
    expected = printed(drivers, f"--checkpoint={pretrained[0]}", f"--text={text}", "--top_k=3")
    assert model.fill_mask(text, top_k=3) == expected
    several = model.fill_mask([text, ("old [MASK]", "wind")], top_k=2)
    assert [len(each["masks"]) for each in several] == [2, 1]
    assert several[0]["masks"][0][0]["token"] == expected[0]["masks"][0][0]["token"]
    assert several[1]["text_pair"] == "wind" and "pair" in several[1]


def test_scores_are_those_of_predict(
    drivers: Drivers, pretrained: Run, model: LoadedModel, lines: pathlib.Path
) -> None:
    flags = f"--checkpoint={pretrained[0]}", "--score", f"--input={lines}"
    assert model.score(TEXTS) == printed(drivers, *flags)


@pytest.mark.parametrize(("pooling", "layer"), [("mean", -1), ("cls", 1)])
def test_vectors_are_those_of_predict(
    drivers: Drivers, pretrained: Run, model: LoadedModel, lines: pathlib.Path,
    tmp_path: pathlib.Path, pooling: str, layer: int,
) -> None:  # fmt: skip
    output = tmp_path / "vectors.npy"
    flags = f"--features={pooling}", f"--layer={layer}", f"--input={lines}", f"--output={output}"
    result = drivers.run("predict", f"--checkpoint={pretrained[0]}", *flags)
    assert result.status == 0, result.err
    vectors = model.encode(TEXTS, pooling=pooling, layer=layer)
    assert vectors.shape == (3, model.stored.encoder.width) and vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, np.load(output))


def test_vectors_are_as_the_checkpoint_trained_them(
    drivers: Drivers, pretrained: Run, model: LoadedModel, tmp_path: pathlib.Path
) -> None:
    config = FinetuneConfig(task=TaskKind.VECTORS)
    config.data.length = 6
    config.vectors = VectorsConfig(query_prompt="old ", text_prompt="blue wind ")
    kept = {name: model.stored.metadata[name] for name in ("encoder", "tokenizer")}
    metadata = kept | {"kind": "vectors", "config": to_dict(config)}
    write_parameters(tmp_path / "run", {"encoder": model.params["encoder"]}, metadata)
    lines = tmp_path / "lines.txt"
    lines.write_text("red\nred stone house under light\n")  # the second is cut
    vectors = bert_jax.load(tmp_path / "run")
    made = {}
    for queries in (False, True):
        output = tmp_path / f"{queries}.npy"
        flags = ["--features=of_checkpoint", f"--queries={queries}", f"--output={output}"]
        result = drivers.run(
            "predict", f"--checkpoint={tmp_path / 'run'}", *flags, f"--input={lines}"
        )
        assert result.status == 0 and "1 lines cut to 6 tokens" in result.out, result
        made[queries] = vectors.encode(lines.read_text().splitlines(), queries=queries)
        np.testing.assert_array_equal(made[queries], np.load(output))
    assert not np.allclose(made[True], made[False])  # witness
    with pytest.raises(UserError, match="queries=True is of prompts that were trained, and pool"):
        vectors.encode("red", pooling="mean", queries=True)
    for empty in (" ", "\u200b"):  # the prompt does not hide it
        with pytest.raises(UserError, match="text 2 is empty: give it some text"):
            vectors.encode(["red", empty])


def test_vectors_of_tokens_and_of_a_fine_tuned_encoder(
    model: LoadedModel, tuned: LoadedModel
) -> None:
    tokens = model.encode(TEXTS, pooling="tokens")
    sizes = [len(model.tokenizer.encode(text)) + 2 for text in TEXTS]
    assert [each.shape for each in tokens] == [(n, model.stored.encoder.width) for n in sizes]
    np.testing.assert_allclose(tokens[0].mean(axis=0), model.encode(TEXTS[0])[0], rtol=1e-5)
    assert not np.allclose(tuned.encode(TEXTS), model.encode(TEXTS))


def test_predictions_are_those_of_predict(
    drivers: Drivers, finetuned: Run, tuned: LoadedModel, lines: pathlib.Path
) -> None:
    expected = printed(drivers, f"--checkpoint={finetuned[0]}", f"--input={lines}")
    assert tuned.predict(TEXTS) == expected
    # A single text is a batch of another shape: equal to rounding.
    [alone] = tuned.predict(TEXTS[1])
    probabilities = alone.pop("probabilities")
    assert probabilities == pytest.approx(expected[1].pop("probabilities"), abs=1e-6)
    assert alone == expected[1]


@pytest.mark.hf
@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize(
    "architecture", ["BertForMaskedLM", "BertModel", "BertForSequenceClassification"]
)
def test_an_imported_model(drivers: Drivers, tmp_path: pathlib.Path, architecture: str) -> None:
    torch = pytest.importorskip("torch")
    peer = make_peer(architecture)
    source = save_peer(peer, tmp_path / "there")
    result = drivers.run("convert", f"--from=hf:{source}", f"--to={tmp_path / 'here'}")
    assert result.status == 0, result.err
    model = bert_jax.load(tmp_path / "here")
    assert model.stored.encoder.layers == peer.config.num_hidden_layers

    text, ids = "red light", [2, *model.tokenizer.encode("red light"), 3]
    with torch.no_grad():
        found = peer(torch.tensor([ids]), output_hidden_states=True)
    theirs = found.hidden_states[-1][0].mean(axis=0).numpy()
    np.testing.assert_allclose(model.encode(text)[0], theirs, rtol=1e-4, atol=1e-4)
    if architecture == "BertForSequenceClassification":
        assert isinstance(model.config, FinetuneConfig)
        expected = torch.softmax(found.logits[0], dim=0).numpy()
        got = model.predict(text)[0]["probabilities"]
        np.testing.assert_allclose([got[label] for label in LABELS], expected, atol=1e-5)
        return
    assert isinstance(model.config, PretrainConfig)
    assert model.config.encoder == model.stored.encoder
    if architecture == "BertForMaskedLM":
        assert model.score(text)[0]["score"] < 0
        assert "pair" not in model.fill_mask(("red [MASK]", "light"))[0]
    else:
        assert model.kind == "encoder"
        with pytest.raises(UserError, match="no masked-LM head"):
            model.fill_mask("red [MASK]")


def test_config_tokenizer_and_parameters(model: LoadedModel, tuned: LoadedModel) -> None:
    assert isinstance(model.config, PretrainConfig) and model.kind == "pretraining"
    assert isinstance(tuned.config, FinetuneConfig) and tuned.kind == tuned.config.task.value
    tokens = model.params["encoder"]["embeddings"]["tokens"]
    np.testing.assert_array_equal(tokens, model.stored.params["encoder/embeddings/tokens"])
    assert len(tokens) >= model.tokenizer.vocab_size
    kernel = tuned.params["encoder"]["layers"]["attention"]["query"]["kernel"]
    assert kernel.shape[0] == tuned.stored.encoder.layers
    assert "mlm_head" in model.params and "mlm_head" not in tuned.params
    assert str(model.stored) in repr(model)


def test_a_method_that_a_model_has_not(model: LoadedModel, tuned: LoadedModel) -> None:
    with pytest.raises(UserError, match="no task head: fine-tune it"):
        model.predict("red")
    with pytest.raises(UserError, match="no masked-LM head: name a pretraining run"):
        tuned.fill_mask("red [MASK]")


def test_what_a_user_can_get_wrong(model: LoadedModel, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="has no checkpoint"):
        bert_jax.load(tmp_path)
    with pytest.raises(UserError, match="no text is given"):
        model.encode([])
    with pytest.raises(UserError, match=r"\['a'\] is no text and no pair"):
        model.encode([["a"]])  # type: ignore[list-item]
    with pytest.raises(UserError, match="text 2 is empty"):
        model.encode(["red", ""])
    with pytest.raises(UserError, match="nothing to fill in 'red'"):
        model.fill_mask("red")
    with pytest.raises(UserError, match="layer=9 does not exist"):
        model.encode("red", layer=9)
    with pytest.raises(UserError, match="queries=True is .* of kind pretraining and has none: lea"):
        model.encode("red", queries=True)


def test_the_package_is_light_and_says_how_to_load() -> None:
    code = "import bert_jax, sys; help(bert_jax.load); sys.exit('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'bert_jax.load("runs/base").fill_mask(' in done.stdout
    for method in (LoadedModel.fill_mask, LoadedModel.encode, LoadedModel.predict):
        assert f".{method.__name__}(" in (method.__doc__ or "")


def test_a_masked_lm_head_may_have_no_parameters(
    tiny_encoder: EncoderConfig, tmp_path: pathlib.Path
) -> None:
    # As Cramming's: the token table is its output matrix, without a transform or a bias.
    encoder = dataclasses.replace(tiny_encoder, mlm_transform=False, mlm_bias=False)
    tokenizer = WordPieceTokenizer(VOCAB, lower_case=True)
    encoder = dataclasses.replace(encoder, vocab_size=tokenizer.vocab_size)
    batch = make_batch(encoder)
    batch["mlm_positions"] = np.zeros((16, 1), np.int32)
    metadata = pretrained_metadata(encoder, ("encoder", "mlm_head"))
    metadata["tokenizer"] = tokenizer_metadata(tokenizer)
    params = random_params(module_of(metadata), batch)
    assert "mlm_head" not in params
    write_parameters(tmp_path / "bare", params, metadata)
    model = bert_jax.load(tmp_path / "bare")
    (mask,) = model.fill_mask(["a [MASK]"], top_k=3)[0]["masks"]
    assert len(mask) == 3
    assert stored_shape(metadata).has_head
