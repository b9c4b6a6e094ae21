"""Summary of a study as one HTML page, which sorts rows and switches metrics."""

import json
import math
import pathlib
from typing import Any

from experiments.measures import lower_is_better
from experiments.pictures import colour
from experiments.statistics import Estimate
from experiments.summary import Cell, Row, Summary
from experiments.tables import metric_words

_TEMPLATE = pathlib.Path(__file__).with_name("page.html")
_PLACEHOLDER = "/*DATA*/null"


def page(summary: Summary) -> str:
    """Returns the page, which needs no other file and no network."""
    data = json.dumps(_data(summary), allow_nan=False)
    # Without "<" the data cannot end the script element or begin a comment.
    data = data.replace("<", "\\u003c")
    return _TEMPLATE.read_text().replace(_PLACEHOLDER, data)


def _data(summary: Summary) -> dict[str, Any]:
    plan = summary.plan
    return {
        "study": plan.study,
        "size": plan.size,
        "question": plan.question.split("\n\n"),
        "base": plan.base,
        "metrics": [
            {"name": name, "words": metric_words(name), "lower": lower_is_better(name)}
            for name in summary.metrics
        ],
        "rows": [_row(summary, row) for row in summary.rows],
        "curves": summary.curves,
        "published": [
            {"source": each.source, "columns": each.columns, "rows": dict(each.rows)}
            for each in plan.published
        ],
    }


def _row(summary: Summary, row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "against": row.against,
        "colour": colour(summary, row.name),
        "changes": row.changes,
        "done": row.done,
        "runs": row.runs,
        "failed": row.failed,
        "collapsed": row.collapsed,
        "minutes": row.cost.device_seconds / 60,
        "tokens": row.cost.tokens,
        "flops": row.cost.flops,
        "cells": {metric: _cell(cell) for metric, cell in row.cells.items()},
    }


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        "seeds": list(cell.by_seed.values()),
        "mean": _estimate(cell.mean),
        "difference": cell.difference and _estimate(cell.difference),
        "verdict": cell.verdict and cell.verdict.value,
        "detectable": None if math.isnan(cell.detectable) else cell.detectable,
    }


def _estimate(value: Estimate) -> dict[str, Any]:
    width = value.half_width
    return {"mean": value.mean, "width": None if math.isnan(width) else width}
