"""Times the pretraining step in turn with that of transformers, and against the machine's limit.

    python -m benchmarks.pretrain_step --size=base --batch=8 --length=128 --turns=5

Rows are full, dropout is as published, and the step includes the optimizer update. Other flags are
passed to both programs, `our_step` and `peer_step`.
"""

import json
import sys
from collections.abc import Sequence

from absl import app, flags

from benchmarks.turns import Figures, take_turns

_TURNS = flags.DEFINE_integer("turns", 5, "steps of each program; the medians are printed")
_PEER = flags.DEFINE_bool("peer", True, "run transformers too")
_OURS = flags.DEFINE_multi_string("ours", [], "a flag for `our_step` alone")
_THEIRS = flags.DEFINE_multi_string("theirs", [], "a flag for `peer_step` alone")


def compare(
    shared: Sequence[str],
    *,
    turns: int,
    ours: Sequence[str] = (),
    theirs: Sequence[str] | None = (),
) -> Figures:
    """Times both programs in turn.

    Args:
      shared: flags of both programs.
      turns: steps of each.
      ours: flags of `our_step` alone.
      theirs: flags of `peer_step` alone; None: do not run it.

    Returns:
      Our figures; those of transformers as `peer_...`; `ratio` of real tokens per second, and
      `memory_ratio` of peak bytes, both ours over theirs.
    """
    commands = {"ours": [sys.executable, "-m", "benchmarks.our_step", *shared, *ours]}
    if theirs is not None:
        commands["peer"] = [sys.executable, "-m", "benchmarks.peer_step", *shared, *theirs]
    figures = take_turns(commands, turns)
    found, peer = figures["ours"], figures.get("peer")
    if peer:
        found |= {f"peer_{name}": value for name, value in peer.items()}
        found["ratio"] = found["tokens_per_second"] / peer["tokens_per_second"]
        found["memory_ratio"] = found["peak_bytes"] / peer["peak_bytes"]
    return found


def main(argv: list[str]) -> None:
    """Prints a line of JSON."""
    theirs = _THEIRS.value if _PEER.value else None
    print(json.dumps(compare(argv[1:], turns=_TURNS.value, ours=_OURS.value, theirs=theirs)))


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: flags.FLAGS(argv, known_only=True))
