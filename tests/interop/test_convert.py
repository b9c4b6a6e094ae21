"""Conversion as a user runs it, and what the other drivers make of an imported model."""

import json
import pathlib

import jax
import numpy as np
import pytest

from bert_jax.checkpoints.checkpoint import (
    find_checkpoint,
    groups_in,
    read_metadata,
    restore_groups,
)
from bert_jax.config import MeshConfig
from bert_jax.distributed.sharding import make_mesh
from bert_jax.interop.architectures import abstract_groups
from bert_jax.objectives.losses import Params
from tests.fixtures.drivers import (
    Drivers,
    Result,
    Run,
    assert_same_bits,
    finetune_flags,
    newest,
    prepare_flags,
)
from tests.fixtures.interop import LABELS, VOCAB, edit_json, make_peer, save_peer

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

# Their pipelines give no warning of ours.
quiet = pytest.mark.filterwarnings("ignore")


def params_of(run: pathlib.Path) -> Params:
    """Restores all that a checkpoint has."""
    checkpoint = find_checkpoint(run)
    metadata, groups = read_metadata(checkpoint), groups_in(checkpoint)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    return restore_groups(checkpoint, abstract_groups(metadata, groups, mesh), groups)


def convert(drivers: Drivers, source: object, target: object, *flags: str) -> str:
    result = drivers.run("convert", f"--from={source}", f"--to={target}", *flags)
    assert result.status == 0 and not result.err, result
    return result.out


def predict(drivers: Drivers, run: pathlib.Path, text: str, *flags: str) -> dict:
    flags = (f"--checkpoint={run}", "--json", f"--text={text}", *flags)
    result = drivers.run("predict", *flags)
    assert result.status == 0 and not result.err, result
    return json.loads(result.out)


@quiet
def test_a_pretrained_run_there_and_back(
    drivers: Drivers, pretrained: Run, text: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    said = convert(drivers, pretrained[0], f"hf:{there}", f"--sentences={text}")
    assert "BertForPreTraining" in said and "verified against transformers, mlm" in said
    lines = [line for line in text.read_text().splitlines() if line]
    assert f"token ids: the same in {len(lines)} sentences" in said
    assert "| steps | 12 |" in (there / "README.md").read_text()

    fill = transformers.pipeline("fill-mask", model=str(there))
    theirs = fill("red [MASK] stone", top_k=3)
    ours = predict(drivers, pretrained[0], "red [MASK] stone")["masks"][0]
    for one, other in zip(ours, theirs, strict=False):
        assert one["probability"] == pytest.approx(other["score"], abs=1e-6)

    convert(drivers, f"hf:{there}", back)
    assert_same_bits(params_of(back), params_of(pretrained[0]))
    before, after = (read_metadata(find_checkpoint(run)) for run in (pretrained[0], back))
    for name in ("kind", "config", "encoder", "tokenizer"):
        assert after[name] == before[name], name
    assert "opt_state" not in after["fingerprints"]


@quiet
def test_a_classifier_in_a_pipeline(
    drivers: Drivers, finetuned: Run, tmp_path: pathlib.Path
) -> None:
    said = convert(drivers, finetuned[0], f"hf:{tmp_path / 'there'}")
    assert "BertForSequenceClassification" in said
    assert "dev_accuracy" in (tmp_path / "there/README.md").read_text()
    classify = transformers.pipeline("text-classification", model=str(tmp_path / "there"))
    for sentence in ("red sun light", "blue wind"):
        found = classify(sentence, top_k=None)
        ours = predict(drivers, finetuned[0], sentence)["probabilities"]
        assert {each["label"]: pytest.approx(each["score"], abs=1e-5) for each in found} == ours
    convert(drivers, f"hf:{tmp_path / 'there'}", tmp_path / "back")
    scores = [
        read_metadata(find_checkpoint(r))["scores"] for r in (finetuned[0], tmp_path / "back")
    ]
    assert scores[0] == scores[1]


@pytest.fixture(scope="module")
def imported(drivers: Drivers, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("imported")
    save_peer(make_peer("BertForPreTraining"), directory / "hf")
    said = convert(drivers, f"hf:{directory / 'hf'}", directory / "run")
    assert "not verified" not in said and "mlm_head" in said
    return directory / "run"


def test_an_imported_model_is_pretrained_on(
    drivers: Drivers,
    imported: pathlib.Path,
    text: pathlib.Path,
    pretrain_flags: list[str],
    tmp_path: pathlib.Path,
) -> None:
    flags = [
        flag if "tokenizer" not in flag else f"--tokenizer={imported / 'tokenizer'}"
        for flag in prepare_flags(text, tmp_path / "corpus")
    ]
    assert drivers.run("prepare", *flags).status == 0
    result = drivers.run(
        "pretrain",
        pretrain_flags[0],
        f"--config.data.corpus={tmp_path / 'corpus'}",
        *(f"--config.encoder.{each}" for each in ("width=24", "layers=3", "heads=4")),
        *(f"--config.encoder.{each}" for each in ("mlp_width=44", "max_length=50")),
        "--config.steps=3",
        f"--init={imported}",
        f"--workdir={tmp_path / 'run'}",
    )
    assert result.status == 0, result
    assert f"continuing from the parameters of {imported}" in result.err


def test_an_imported_model_fills_masks_and_is_fine_tuned(
    drivers: Drivers, imported: pathlib.Path, task: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    theirs = make_peer("BertForPreTraining")
    ids = [2, VOCAB.index("red"), 4, VOCAB.index("stone"), 3]
    with torch.no_grad():
        logits = theirs(torch.tensor([ids])).prediction_logits[0, 2]
    (tokens,) = predict(drivers, imported, "red [MASK] stone", "--top_k=3")["masks"]
    top = torch.topk(torch.softmax(logits, -1), 3)
    assert [each["token"] for each in tokens] == [VOCAB[i] for i in top.indices.tolist()]
    np.testing.assert_allclose(
        [each["probability"] for each in tokens], top.values.numpy(), rtol=1e-4
    )
    run = tmp_path / "run"
    result = drivers.run("finetune", *finetune_flags(task, (imported, None), run))  # pyright: ignore
    assert result.status == 0, result
    assert "pooler" in result.err and "transferred" in result.err


def test_imported_heads_predict_and_are_scored(drivers: Drivers, tmp_path: pathlib.Path) -> None:
    directory = save_peer(make_peer("BertForSequenceClassification"), tmp_path / "classes")
    convert(drivers, f"hf:{directory}", tmp_path / "classes_run", "--pairs")
    pair = ("red light", "the stone")
    sides = [[VOCAB.index(word) for word in side.split()] for side in pair]
    ids = [2, *sides[0], 3, *sides[1], 3]
    segments = [0] * 4 + [1] * 3
    with torch.no_grad():
        theirs = make_peer("BertForSequenceClassification")
        logits = theirs(torch.tensor([ids]), token_type_ids=torch.tensor([segments])).logits
    found = predict(drivers, tmp_path / "classes_run", pair[0], f"--text_pair={pair[1]}")
    expected = dict(zip(LABELS, torch.softmax(logits[0], -1).tolist(), strict=True))
    assert found["probabilities"] == pytest.approx(expected, abs=1e-5)

    (tmp_path / "test.tsv").write_text("text\ttext_pair\tlabel\nred\tsun\tcold\nblue\tsun\twarm\n")
    flags = (f"--checkpoint={tmp_path / 'classes_run'}", f"--data={tmp_path / 'test.tsv'}")
    result = drivers.run("evaluate", *flags)
    assert result.status == 0 and "accuracy" in result.out, result

    directory = save_peer(make_peer("BertForTokenClassification"), tmp_path / "tags")
    convert(drivers, f"hf:{directory}", tmp_path / "tags_run", "--noverify")
    words = ["the", "red", "river", "."]
    with torch.no_grad():
        ids = torch.tensor([[2, *(VOCAB.index(word) for word in words), 3]])
        logits = make_peer("BertForTokenClassification")(ids).logits
    found = predict(drivers, tmp_path / "tags_run", " ".join(words))["words"]
    assert [each["tag"] for each in found] == [LABELS[i] for i in logits[0, 1:-1].argmax(-1)]

    directory = save_peer(make_peer("BertForQuestionAnswering"), tmp_path / "spans")
    convert(drivers, f"hf:{directory}", tmp_path / "spans_run", "--noverify")
    answer = predict(drivers, tmp_path / "spans_run", "the ?", "--text_pair=the red river night")
    assert answer["answer"] and answer["answer"] in "the red river night"

    unset = drivers.run("evaluate", f"--checkpoint={tmp_path / 'classes_run'}")
    assert "--data" in unset.error()


def test_what_a_user_can_get_wrong(
    drivers: Drivers, imported: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    def error(source: object, target: object, *flags: str) -> str:
        return drivers.run("convert", f"--from={source}", f"--to={target}", *flags).error()

    new = tmp_path / "new"
    hf = imported.parent / "hf"
    assert "one must be hf:DIR" in error(imported, new)
    assert "one must be hf:DIR" in error(f"hf:{hf}", f"hf:{new}")
    assert "is there already" in error(f"hf:{hf}", imported)
    assert "has no config.json" in error(f"hf:{tmp_path}", new)
    assert "has no checkpoint" in error(tmp_path, f"hf:{new}")
    assert "are for imported models: leave them out" in error(imported, f"hf:{new}", "--pairs")
    assert "--pairs is for BertForSequenceClassification" in error(f"hf:{hf}", new, "--pairs")
    (tmp_path / "sentences").write_bytes(b"\xff")
    assert "is not UTF-8" in error(f"hf:{hf}", new, f"--sentences={tmp_path / 'sentences'}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sentences"]


def test_misfits_are_a_table_and_leave_nothing(drivers: Drivers, tmp_path: pathlib.Path) -> None:
    directory = save_peer(make_peer("BertForMaskedLM"), tmp_path / "hf")
    edit_json(directory / "config.json", num_hidden_layers=2, intermediate_size=45)
    result: Result = drivers.run("convert", f"--from=hf:{directory}", f"--to={tmp_path / 'new'}")
    lines = result.err.splitlines()
    assert result.status == 1 and lines[-1].startswith("error: the tensors of ")
    assert "16 unexpected, 6 of another shape or type" in lines[-1]
    assert len(lines) == 1 + 16 + 6 + 1  # with the head of the table, and the error
    assert not (tmp_path / "new").exists() and len(list(tmp_path.iterdir())) == 1


def test_what_transformers_cannot_read_is_one_line(
    drivers: Drivers, pretrained: Run, tmp_path: pathlib.Path
) -> None:
    for name, changes in (
        ("tokenizer_config.json", {"padding_side": "up"}),  # of no meaning here
        ("config.json", {"id2label": {"x": "y"}}),
    ):
        directory = tmp_path / f"hf {name}"
        convert(drivers, pretrained[0], f"hf:{directory}", "--noverify")
        edit_json(directory / name, **changes)  # our own file beside it says what we need
        flags = f"--from=hf:{directory}", f"--to={tmp_path / 'new'}"
        result = drivers.run("convert", *flags)
        assert result.status == 1 and len(result.err.splitlines()) == 1, result
        assert result.err.startswith(f"error: {directory}: transformers ends with ")
        assert not (tmp_path / "new").exists()
        convert(drivers, f"hf:{directory}", tmp_path / f"new {name}", "--noverify")  # its remedy


def test_without_a_proof_the_log_says_so(
    drivers: Drivers, imported: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    said = convert(drivers, imported, f"hf:{tmp_path / 'new'}", "--noverify")
    assert "not verified: --noverify" in said
    assert (newest(imported) / "params").is_dir()
