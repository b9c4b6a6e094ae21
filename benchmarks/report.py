"""What `bench` tells: a table, and what has become worse since the last time."""

import dataclasses
from collections.abc import Sequence
from typing import Any

_WORSE = 0.9


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
      what: was measured.
      value: in `unit`, for people: it drifts.
      unit: of it.
      of_peer: how many times better than the peer's (1: level); None: there is none.
      of_limit: the share of the limit that is reached; None: there is none.
      beside: what peer and limit are.
    """

    what: str
    value: float
    unit: str
    of_peer: float | None = None
    of_limit: float | None = None
    beside: str = ""


def table(rows: Sequence[Row]) -> str:
    """Returns Markdown."""

    def ratio(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    lines = ["| what | figure | of the peer | of the limit | beside |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.what} | {row.value:,.4g} {row.unit} | {ratio(row.of_peer)} |"
        f" {ratio(row.of_limit)} | {row.beside} |"
        for row in rows
    ]
    return "\n".join(lines)


def slower(entry: dict[str, Any], history: Sequence[dict[str, Any]]) -> list[str]:
    """Names the ratios that are worse than in the last entry of such a machine."""
    before = [each for each in history if each["machine"] == entry["machine"]]
    last = before[-1] if before else {"ratios": {}}
    return [
        f"{name}: {value:.2f}, and {last['ratios'][name]:.2f} at {last['commit']}"
        for name, value in entry["ratios"].items()
        if value < _WORSE * last["ratios"].get(name, 0.0)
    ]
