"""Executes the notebooks and keeps their outputs: `make notebooks`, after `make quickstart`.

Figures are those of this machine's run; what would differ without need (counts of executions,
times, warnings) is left out, so that a change of an output is a change of what is shown.
"""

import pathlib
import sys
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).parent
NAMES = ("inspect_params", "walkthrough")
_SECONDS = 900  # for a cell, on a loaded machine


def execute(name: str, parameters: dict[str, str] | None = None) -> Any:
    """Returns a notebook with fresh outputs.

    Args:
      name: one of NAMES.
      parameters: take the place of values in the cell that is tagged so.

    Raises:
      nbclient.exceptions.CellExecutionError: where a cell fails.
    """
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    (cell,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
    source = cell.source
    given = "".join(f"\n{key} = {value!r}" for key, value in (parameters or {}).items())
    cell.source += given
    NotebookClient(
        notebook,
        timeout=_SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,  # how often a cell flushes is chance
        resources={"metadata": {"path": str(FOLDER)}},
    ).execute()
    cell.source = source
    return notebook


def clean(notebook: Any) -> None:
    """Leaves out what differs from one execution to the next."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = None


def main() -> None:
    """Executes all notebooks in place."""
    for name in NAMES:
        notebook = execute(name)
        clean(notebook)
        nbformat.write(notebook, FOLDER / f"{name}.ipynb")
        print(f"executed {name}")


if __name__ == "__main__":
    sys.exit(main())
