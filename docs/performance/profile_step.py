"""Profile of a pretraining step: seconds by kind of operation, from XLA's profiler.

    python -m docs.performance.profile_step --size=base --batch=8 --length=128

Flags are those of `benchmarks.our_step`. Operations on a CPU run one after another, so their
times add up to the step; with the profiler they take a little longer.
"""

import collections
import pathlib
import re
import statistics
import tempfile

import jax
from absl import app
from jax.profiler import ProfileData

from benchmarks.our_step import Step

_STEPS = 3

# (kind, pattern of the operation's name, pattern of its name in JAX): the first that matches both.
_KINDS = (
    ("products", r"^(ynn_fusion|dot|gemm|cublas|cutlass|nvjet)", ""),
    ("random bits", "", r"rng_bit_generator|threefry|random_bits"),
    (
        "cutting and joining the layers' parameters",
        "",
        r"encoder/(slice|split|squeeze|concatenate)",
    ),
    ("copies", r"^(wrapped_)?copy", r"^$"),
    ("transposes", r"transpose", ""),
    ("attention, besides products", "", r"/attention/"),
    ("feed-forward, besides products", "", r"/mlp/"),
    ("norms, residuals, dropout", "", r"encoder"),
    ("heads and losses", "", r"(mlm_head|nsp_head|pooler|jvp\(\)|logsumexp|reduce)"),
    ("optimizer", "", r"^jit\(update\)"),
)


def kind_of(operation: str, origin: str) -> str:
    """Returns the kind of an operation, from its name and its name in JAX."""
    for kind, own, of_origin in _KINDS:
        if re.search(own, operation) and re.search(of_origin, origin):
            return kind
    return "others"


def origins(program: str) -> dict[str, str]:
    """Returns operation -> its name in JAX for the text of a program; '' if unknown."""
    found = {}
    for line in program.splitlines():
        if match := re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = ", line):
            origin = re.search(r'op_name="([^"]*)"', line)
            found[match[1]] = origin[1] if origin else ""
    return found


def seconds_by_operation(folder: pathlib.Path) -> dict[str, float]:
    """Returns operation -> seconds of a profile."""
    (path,) = folder.rglob("*.xplane.pb")
    seconds: dict[str, float] = collections.defaultdict(float)
    for plane in ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if name:
                    seconds[str(name)] += event.duration_ns / 1e9
    return seconds


def main(argv: list[str]) -> None:
    """Profiles a few steps, and prints a table."""
    del argv
    step = Step()
    alone = statistics.median(step.run()[0] for _ in range(_STEPS))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(_STEPS):
                step.run()
        seconds = seconds_by_operation(pathlib.Path(folder))
    in_jax = origins(step.program())
    kinds: dict[str, float] = collections.defaultdict(float)
    for name, spent in seconds.items():
        kinds[kind_of(name, in_jax.get(name, ""))] += spent / _STEPS
    total = sum(kinds.values())
    print(f"a step takes {alone:.3f} s, and its operations {total:.3f} s in the profile\n")
    print("| kind | seconds | share |\n|---|---|---|")
    for kind, spent in sorted(kinds.items(), key=lambda each: -each[1]):
        print(f"| {kind} | {spent:.3f} | {spent / total:.1%} |")


if __name__ == "__main__":
    app.run(main)
