"""The sections of `bench`, its table, and the comparison with the last runs."""

import dataclasses
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

_WORSE = 0.9
_LAST = 5  # runs


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


class FailedProgram(Exception):
    """A program that ended with another status than 0.

    Attributes:
      output: all that it printed.
    """

    def __init__(self, reason: str, output: str) -> None:
        """Takes the reason, a line, and the output."""
        super().__init__(reason)
        self.output = output


def measure(
    sections: Mapping[str, Callable[[], Iterator[Row]]],
    folder: pathlib.Path,
    write: Callable[[Sequence[Row], Sequence[str]], None],
) -> tuple[list[Row], list[str]]:
    """Measures section after section; one that fails does not end the others.

    Args:
      sections: by name.
      folder: for SECTION.log, the output of a program that failed.
      write: called with rows and failures so far after each section.

    Returns:
      What was measured; and the reason of each failure.
    """
    rows: list[Row] = []
    failed: list[str] = []
    for name, section in sections.items():
        begin = time.monotonic()
        try:
            for row in section():
                rows.append(row)
                print(f"{row.name}: {row.value:,.4g} {row.unit}", file=sys.stderr, flush=True)
        except Exception as error:  # whatever it is, the next section may succeed
            log = folder / f"{name}.log"
            log.write_text(error.output if isinstance(error, FailedProgram) else repr(error))
            failed.append(f"{name}: {str(error) or repr(error)} (see {log})")
            print(f"failed: {failed[-1]}", file=sys.stderr, flush=True)
        print(f"({name}: {time.monotonic() - begin:.0f} s)", file=sys.stderr, flush=True)
        write(rows, failed)
    return rows, failed


def table(rows: Sequence[Row], *, ratios_alone: bool = False) -> str:
    """Returns the table as Markdown; `ratios_alone` leaves out values and what has no ratio."""

    def ratio(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    lines = [("measurement", "value", "of the peer", "of the limit", "compared with"), ("---",) * 5]
    for row in rows:
        value, ratios = f"{row.value:,.4g} {row.unit}", (ratio(row.of_peer), ratio(row.of_limit))
        if any(ratios) or not ratios_alone:
            lines.append((row.name, value, *ratios, row.compared_with))
    if ratios_alone:
        lines = [(name, *rest) for name, _, *rest in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def slower(entry: dict[str, Any], history: Sequence[dict[str, Any]]) -> list[str]:
    """Lists the ratios that are more than a tenth worse than before.

    Each is compared with its median in the last five entries that have it, of the same machine and
    the same scale.
    """
    alike = [
        each for each in history if all(each[key] == entry[key] for key in ("machine", "scale"))
    ]
    found = []
    for name, value in entry["ratios"].items():
        before = [each["ratios"][name] for each in alike if name in each["ratios"]][-_LAST:]
        if before and value < _WORSE * (usual := statistics.median(before)):
            found.append(f"{name}: {value:.2f}, and {usual:.2f} in the last {len(before)}")
    return found
