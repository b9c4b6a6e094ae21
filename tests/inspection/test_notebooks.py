"""The notebooks execute on any run, and what they show is kept small and is nobody's machine's."""

import json
import pathlib
from typing import Any

import nbformat
import pytest

from bert_jax.inspection.stored import open_checkpoint
from notebooks.execute import FOLDER, NAMES, clean, execute
from tests.fixtures.drivers import ROOT, Run


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_every_notebook_is_executed() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_executes(name: str, pretrained: Run, finetuned: Run) -> None:
    tokenizer = open_checkpoint(pretrained[0]).tokenizer
    word = tokenizer.id_to_piece(tokenizer.vocab_size - 1)
    parameters = {"RUN": str(pretrained[0]), "TUNED": str(finetuned[0])}
    parameters |= {"TEXT": "red stone house", "PAIR": "old wind", "WORD": word}
    notebook = execute(name, parameters)
    kept = json.loads((FOLDER / f"{name}.ipynb").read_text())
    for ours, shown in zip(code_cells(notebook), code_cells(kept), strict=True):
        assert not [out for out in ours.outputs if out.output_type == "error"]
        kinds = [{*out.get("data", ()), out["output_type"]} for out in clean_outputs(ours)]
        assert kinds == [{*out.get("data", ()), out["output_type"]} for out in shown["outputs"]]


def clean_outputs(cell: Any) -> list[Any]:
    return [out for out in cell.outputs if out.get("name") != "stderr"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_of_a_notebook(name: str) -> None:
    path = FOLDER / f"{name}.ipynb"
    content = path.read_text()
    assert len(content) < 400_000
    for private in (str(ROOT), str(pathlib.Path.home()), "/tmp/", "site-packages"):
        assert private not in content
    notebook = json.loads(content)
    cells = code_cells(notebook)
    assert sum(bool(cell["outputs"]) for cell in cells) > len(cells) / 2
    cleaned = nbformat.from_dict(notebook)
    clean(cleaned)
    assert nbformat.writes(cleaned).strip() == content.strip()
