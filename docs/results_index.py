"""Writes the list of what was run, for reading and for the browser, from experiments/results.

    python -m docs.results_index

Each folder there has a README: its heading is the question or the run, and a line "Answer: ..."
tells in one sentence what it found. Seeds and costs come from the logs.
"""

import html
import pathlib
import re
from typing import NamedTuple

from experiments.folder import PLAN_FILE, StudyFolder
from experiments.measures import Cost
from experiments.summary import summarise

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
INDEX, PAGE = RESULTS / "README.md", RESULTS / "index.html"
_PICTURES = ("labels.png", "latency.png", "curves.png")  # the first that is there shows a study

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Results</title>
<style>
  body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 60rem; color: #1c2430;
         font: 16px/1.5 system-ui, sans-serif; }
  article { margin: 2rem 0; padding-top: 1rem; border-top: 1px solid #dde2e8; }
  h2 { margin: 0 0 .25rem; font-size: 1.15rem; }
  p { margin: .25rem 0; }
  .cost { color: #5b6675; font-size: .9rem; }
  img { display: block; max-width: 100%; margin-top: .75rem; }
</style>
</head>
<body>
<h1>Results</h1>
"""


class Entry(NamedTuple):
    """A folder of results.

    Attributes:
      name: of the folder.
      title: its question, or what was run.
      answer: in one sentence; '' for runs that ask nothing.
      cost: seeds and minutes of a study; '' for single runs.
      page: the file to open, relative to the results.
      picture: that shows it, relative to the results; '': none.
    """

    name: str
    title: str
    answer: str
    cost: str
    page: str
    picture: str


def entries() -> list[Entry]:
    """Returns the studies first, in the order of their names, then the single runs."""
    folders = sorted(path.parent for path in RESULTS.glob("*/README.md"))
    return sorted(map(_entry, folders), key=lambda entry: (not entry.cost, entry.name))


def _entry(folder: pathlib.Path) -> Entry:
    text = (folder / "README.md").read_text()
    answer = re.search(r"^Answer: (.*?)(?:\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
    is_study = (folder / PLAN_FILE).exists()
    pictures = [name for name in _PICTURES if (folder / name).exists()]
    return Entry(
        name=folder.name,
        title=text.partition("\n")[0].removeprefix("# "),
        answer=" ".join(answer[1].split()) if answer else "",
        cost=_cost(folder) if is_study else "",
        page=f"{folder.name}/{'index.html' if is_study else 'README.md'}",
        picture=f"{folder.name}/{pictures[0]}" if is_study and pictures else "",
    )


def _cost(folder: pathlib.Path) -> str:
    summary = summarise(StudyFolder(folder))
    total = sum((row.cost for row in summary.rows), summary.shared or Cost())
    seeds = max(cell.mean.values for row in summary.rows for cell in row.cells.values())
    runs = sum(row.done for row in summary.rows)
    collapsed = sum(row.collapsed for row in summary.rows)
    failed = sum(row.failed for row in summary.rows)
    return (
        f"{len(summary.rows)} variants, up to {seeds} seeds, {runs} runs, {failed} failed,"
        f" {collapsed} collapsed; {total.device_seconds / 3600:.1f} device-hours,"
        f" {total.tokens / 1e6:,.0f} M tokens, {total.flops:.2g} FLOPs"
    )


def make_index() -> str:
    """Returns the list in Markdown."""
    lines = [
        "# Results",
        "",
        "What was run and what it found; [index.html](index.html) has the pictures too."
        " [The README of experiments](../README.md) tells how to run a study again.",
        "`python -m docs.results_index` writes this page from the folders.",
        "",
        "| | question or run | answer | cost |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| [{e.name}]({e.name}/README.md) | {e.title} | {e.answer or '-'} | {e.cost or '-'} |"
        for e in entries()
    ]
    return "\n".join(lines) + "\n"


def make_page() -> str:
    """Returns the list as a page, with a picture of each study; it needs no network."""
    parts = [_HEAD]
    for entry in entries():
        title, answer, cost = (
            html.escape(text) for text in (entry.title, entry.answer, entry.cost)
        )
        parts.append(f'<article>\n<h2><a href="{entry.page}">{title}</a></h2>\n')
        parts += [f"<p>{answer}</p>\n"] * bool(answer)
        parts += [f'<p class="cost">{cost}</p>\n'] * bool(cost)
        picture = f'<img src="{entry.picture}" alt="{title}" loading="lazy">\n'
        parts += [picture] * bool(entry.picture) + ["</article>\n"]
    return "".join([*parts, "</body>\n</html>\n"])


if __name__ == "__main__":
    INDEX.write_text(make_index())
    PAGE.write_text(make_page())
