"""Report of a study: tables, curves and a page, from the logs of its runs.

    python -m experiments.report runs/drop_nsp
    python -m experiments.report runs/drop_nsp --keep=experiments/results/drop_nsp

The second command copies the plan, the logs and the states of all runs to another folder, and
writes the report there; the same report can be made again from that folder.
"""

import shutil
from collections.abc import Sequence

from absl import flags

from bert_jax.checkpoints.workdir import CONFIG_FILE
from bert_jax.cli import app
from bert_jax.errors import UserError
from bert_jax.files import given_path, write_atomically
from bert_jax.training.logs import LOG_FILE, STARTS_FILE
from experiments.folder import StudyFolder
from experiments.label_curves import label_lines
from experiments.latency import LATENCY_FILE
from experiments.page import page
from experiments.pictures import draw, draw_labels, draw_latencies
from experiments.summary import summarise
from experiments.tables import comma_separated, markdown

_KEEP = flags.DEFINE_string("keep", "", "a folder for copies of the logs and the report; '': none")


def keep(folder: StudyFolder, copy: StudyFolder) -> None:
    """Copies what a report needs: the plan, states, logs and configs of the runs, latencies."""
    plan = folder.read_plan()
    copy.check_plan(plan)
    copy.write_plan(plan)
    for run in plan.runs:
        if attempts := folder.attempts(run):
            copy.write_attempts(run, attempts)
        for name in (LOG_FILE, STARTS_FILE, CONFIG_FILE):
            source = folder.path / run.name / name
            if source.exists():
                target = copy.path / run.name / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
    if (measured := folder.path / LATENCY_FILE).exists():
        shutil.copy(measured, copy.path / LATENCY_FILE)


def main(argv: Sequence[str]) -> None:
    """Writes the tables, the page and the pictures into the folder."""
    folders = argv[1:]
    if len(folders) != 1:
        raise UserError("name one folder: python -m experiments.report runs/drop_nsp")
    folder = StudyFolder(given_path(folders[0]))
    summary = summarise(folder)  # raises before anything is written
    if _KEEP.value:
        copy = StudyFolder(given_path(_KEEP.value), "--keep")
        if copy.path.exists() and copy.path.samefile(folder.path):
            raise UserError(f"--keep={copy.path} is the study's own folder: name another one")
        keep(folder, copy)
        folder = copy
    table = markdown(summary)
    write_atomically(folder.path / "table.md", table.encode())
    write_atomically(folder.path / "values.csv", comma_separated(summary).encode())
    write_atomically(folder.path / "index.html", page(summary).encode())
    draw(summary, folder.path / "curves.png")
    if label_lines(summary):
        draw_labels(summary, folder.path / "labels.png")
    if summary.latencies:
        draw_latencies(summary, folder.path / "latency.png")
    print(table)
    print(f"open {folder.path}/index.html in a browser for the same with curves")


if __name__ == "__main__":
    app.run(main, positional=True)
