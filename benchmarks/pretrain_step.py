"""Times the pretraining step in turn with that of transformers, and beside the machine's limit.

    python -m benchmarks.pretrain_step --size=base --batch=8 --length=128 --turns=5

Rows are full, dropout is as published, and the optimizer is part of the step. Flags that are not
its own go to both programs, `our_step` and `peer_step`.
"""

import json
import sys
from collections.abc import Sequence

from absl import app, flags

from benchmarks.turns import Facts, take_turns

_TURNS = flags.DEFINE_integer("turns", 5, "of each, of which medians are told")
_PEER = flags.DEFINE_bool("peer", True, "with transformers")
_OURS = flags.DEFINE_multi_string("ours", [], "a flag for `our_step` alone")
_THEIRS = flags.DEFINE_multi_string("theirs", [], "a flag for `peer_step` alone")


def compare(
    shared: Sequence[str],
    *,
    turns: int,
    ours: Sequence[str] = (),
    theirs: Sequence[str] | None = (),
) -> Facts:
    """Times both.

    Args:
      shared: flags of both programs.
      turns: of each.
      ours: flags of `our_step` alone.
      theirs: of `peer_step` alone; None: it is not run.

    Returns:
      Our figures; those of transformers as `peer_...`; `ratio` of real tokens a second, and
      `memory_ratio` of the most bytes held.
    """
    commands = {"ours": [sys.executable, "-m", "benchmarks.our_step", *shared, *ours]}
    if theirs is not None:
        commands["peer"] = [sys.executable, "-m", "benchmarks.peer_step", *shared, *theirs]
    facts = take_turns(commands, turns)
    found, peer = facts["ours"], facts.get("peer")
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
