"""The table of `bench`, and the comparison with the last run."""

import dataclasses
from collections.abc import Sequence
from typing import Any

_WORSE = 0.9


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
      name: of the measurement.
      value: in `unit`; it drifts with the machine's load, so compare the ratios.
      unit: of the value.
      of_peer: how many times better than the peer (1: equal); None: no peer.
      of_limit: share of the limit, 0 to 1; above 1 for a part that is not the bottleneck; None: no
        limit.
      compared_with: the peer and the limit.
    """

    name: str
    value: float
    unit: str
    of_peer: float | None = None
    of_limit: float | None = None
    compared_with: str = ""


def table(rows: Sequence[Row]) -> str:
    """Returns the table as Markdown."""

    def ratio(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    heads = ("measurement", "value", "of the peer", "of the limit", "compared with")
    lines = [f"| {' | '.join(heads)} |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.name} | {row.value:,.4g} {row.unit} | {ratio(row.of_peer)} |"
        f" {ratio(row.of_limit)} | {row.compared_with} |"
        for row in rows
    ]
    return "\n".join(lines)


def slower(entry: dict[str, Any], history: Sequence[dict[str, Any]]) -> list[str]:
    """Lists the ratios that are more than a tenth worse than in this machine's last entry."""
    before = [each for each in history if each["machine"] == entry["machine"]]
    last = before[-1] if before else {"ratios": {}}
    return [
        f"{name}: {value:.2f}, and {last['ratios'][name]:.2f} at {last['commit']}"
        for name, value in entry["ratios"].items()
        if value < _WORSE * last["ratios"].get(name, 0.0)
    ]
