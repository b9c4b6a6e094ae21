"""Every family through every driver, as a user runs them: imported, trained on, handed back."""

import json
import pathlib

import numpy as np
import pytest

from bert_jax.checkpoints.checkpoint import find_checkpoint, read_metadata
from bert_jax.interop.families.family import Family, Head
from bert_jax.interop.families.registry import FAMILIES
from tests.drivers.test_task_drivers import write_questions
from tests.fixtures.drivers import Drivers, Result, log_of
from tests.fixtures.families import make_family_peer

pytestmark = [pytest.mark.hf, pytest.mark.filterwarnings("ignore")]  # of their pipelines
pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

RECIPE = """
from bert_jax.config import FinetuneConfig, PretrainConfig

def get_config(kind):
    if kind == "finetune":
        config = FinetuneConfig(batch_size=8, epochs=1)
        config.data.length, config.optimizer.learning_rate = 48, 1e-3
        return config
    config = PretrainConfig(batch_size=4, steps=2, eval_steps=2, eval_batches=1)
    config.data.length, config.data.max_examples_per_row, config.data.block_examples = 32, 2, 12
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 1e-3, 1
    return config
"""
FAST = ("xlm-roberta", "modernbert")
EVERY = [
    pytest.param(family, id=name, marks=[] if name in FAST else [pytest.mark.slow])
    for name, family in FAMILIES.items()
    if name != "camembert"  # XLM-R's under another name
]
PAIR = {"river": "water", "stone": "cold", "wind": "cold", "sun": "warm"}


def run(drivers: Drivers, driver: str, *flags: object, stdin: str = "") -> Result:
    result = drivers.run(driver, *map(str, flags), stdin=stdin)
    assert result.status == 0, result
    return result


def write_tasks(folder: pathlib.Path) -> dict[str, list[str]]:
    """Writes a task of each kind; returns the overrides of each."""
    rows = [f"the {word}\tis {what}\t{what}\n" for word, what in PAIR.items()] * 6
    (folder / "pairs.tsv").write_text("a\tb\tlabel\n" + "".join(rows))
    numbers = [f"the {word}\t{len(word) / 5}\n" for word in PAIR] * 6
    (folder / "numbers.tsv").write_text("text\tlabel\n" + "".join(numbers))
    tagged = [f"the\tO\n{word}\tB-THING\nrose\tO\n" for word in PAIR] * 6
    (folder / "tags.conll").write_text("\n".join(tagged))
    write_questions(folder / "questions.json", 8, seed=0)

    def data(name: str) -> list[str]:
        return [f"data.{split}={folder / name}" for split in ("train", "dev")]

    return {
        "classification": [*data("pairs.tsv"), "data.text_column=a", "data.text_pair_column=b"],
        "regression": ["task=regression", *data("numbers.tsv")],
        "tags": ["task=tags", *data("tags.conll")],
        "spans": ["task=spans", *data("questions.json"), "data.question_length=12"],
    }


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.mark.parametrize("family", EVERY)
def test_a_family_through_every_driver(
    family: Family,
    drivers: Drivers,
    text: pathlib.Path,
    tasks: dict[str, list[str]],
    tmp_path: pathlib.Path,
) -> None:
    recipe, theirs, ours = tmp_path / "recipe.py", tmp_path / "theirs", tmp_path / "ours"
    recipe.write_text(RECIPE)
    make_family_peer(family, Head.MASKED_LM, theirs)
    said = run(drivers, "convert", f"--from=hf:{theirs}", f"--to={ours}").out
    assert f"{family.classes}ForMaskedLM" in said and "verified against transformers, mlm" in said
    assert "token ids: the same in" in said

    # A mask, scores, vectors, the views of `inspection`.
    fill = transformers.pipeline("fill-mask", model=str(theirs))
    mask = fill.tokenizer.mask_token
    expected = fill(f"The river {mask} in the night.", top_k=3)
    told = run(
        drivers,
        "predict",
        f"--checkpoint={ours}",
        "--json",
        "--text=The river [MASK] in the night.",
    )
    found = json.loads(told.out)["masks"][0]
    for one, other in zip(found, expected, strict=False):
        assert one["probability"] == pytest.approx(other["score"], abs=1e-5)
    scored = run(drivers, "predict", f"--checkpoint={ours}", "--score", "--json", "--text=The sun")
    assert json.loads(scored.out)["tokens"]
    vectors = tmp_path / "vectors.npy"
    lines = "the river\nred light and blue wind\n"
    flags = "--features=mean", f"--output={vectors}"
    run(drivers, "predict", f"--checkpoint={ours}", *flags, stdin=lines)
    assert np.load(vectors).shape == (2, 24) and np.isfinite(np.load(vectors)).all()
    run(drivers, "inspection", ours, "--show=attention", "--text=the river rose")

    # Continued pretraining on text of our own.
    corpus = tmp_path / "corpus"
    flags = f"--tokenizer={ours / 'tokenizer'}", "--heldout_rate=0.1", f"--output={corpus}"
    run(drivers, "prepare", f"--source=text:{text}", *flags)
    further = tmp_path / "further"
    flags = f"--config={recipe}:pretrain", f"--config.data.corpus={corpus}"
    run(drivers, "pretrain", *flags, f"--init={ours}", f"--workdir={further}")
    stored = read_metadata(find_checkpoint(further))
    assert stored["config"]["data"]["objective"] == "none"
    assert log_of(further)[-1]["heldout_mlm_loss"] > 0
    there = tmp_path / "further_there"
    said = run(drivers, "convert", f"--from={further}", f"--to=hf:{there}").out
    # What is written has a class for it, in the family or in one with the same arithmetic.
    assert "ForMaskedLM" in said and "verified against transformers, mlm" in said

    # All kinds of tasks, there and back.
    for kind, overrides in tasks.items():
        workdir, there = tmp_path / kind, tmp_path / f"{kind}_there"
        flags = [f"--config={recipe}:finetune", *(f"--config.{each}" for each in overrides)]
        run(drivers, "finetune", *flags, f"--checkpoint={ours}", f"--workdir={workdir}")
        run(drivers, "evaluate", f"--checkpoint={workdir}", f"--output={tmp_path / kind}_scores")
        if kind == "spans" and Head.SPANS not in family.heads:
            message = drivers.run("convert", f"--from={workdir}", f"--to=hf:{there}").error()
            assert f"task=spans cannot be exported: {family.classes} of" in message
            continue
        said = run(drivers, "convert", f"--from={workdir}", f"--to=hf:{there}").out
        assert "verified against transformers, logits" in said
    classify = transformers.pipeline(
        "text-classification", model=str(tmp_path / "classification_there")
    )
    theirs_say = classify({"text": "the sun", "text_pair": "is warm"}, top_k=None)
    told = run(
        drivers,
        "predict",
        f"--checkpoint={tmp_path / 'classification'}",
        "--json",
        "--text=the sun",
        "--text_pair=is warm",
    )
    ours_say = json.loads(told.out)["probabilities"]
    for each in theirs_say:
        assert ours_say[each["label"]] == pytest.approx(each["score"], abs=1e-5)
