"""Prints a table of compiled cases, a line as soon as it is known."""

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from bert_jax.planning.topologies import only_compile

Case = TypeVar("Case")


def print_table(
    header: Sequence[str],
    arguments: Sequence[str],
    parse: Callable[[str], Case],
    devices_of: Callable[[Case], str],
    line: Callable[[Case], str],
    example: str,
) -> None:
    """Prints the table of the cases that a command line names.

    Args:
      header: names of the columns.
      arguments: a case each.
      parse: argument -> case.
      devices_of: case -> the topology that it is compiled for.
      line: case -> its line of the table; it compiles.
      example: of an argument, for who names none.
    """
    cases = [parse(text) for text in arguments]
    if not cases:
        sys.exit(f"name a case, such as {example}")
    only_compile([devices_of(case) for case in cases])
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}", flush=True)
    for case in cases:
        print(line(case), flush=True)
