"""Tries odd inputs on the drivers, and tells how each kind ended.

    python -m tests.odd_inputs [--count=2000] [--only=table] [--first=0]

Status 1 if there was a fault; each is printed with the command that shows it again.
"""

import argparse
import collections
import concurrent.futures
import pathlib
import random
import shutil
import sys
import tempfile

from tests.fixtures.drivers import Drivers, preload
from tests.odd_inputs import data_kinds, settings_kinds
from tests.odd_inputs.cases import Fault, Kind, Material, make_material, shown, try_case

KINDS: dict[str, Kind] = {
    each.__name__: each
    for each in (
        data_kinds.text,
        data_kinds.lines,
        data_kinds.word_lists,
        data_kinds.table,
        data_kinds.tagged,
        data_kinds.question_file,
        settings_kinds.model_folder,
        settings_kinds.checkpoint,
        settings_kinds.config,
        settings_kinds.path,
        settings_kinds.environment,
    )
}
_WORKERS = 2


def try_number(name: str, number: int, material: Material) -> tuple[str, str]:
    """Runs a case by its number; returns how it ended, and what is wrong ('' if nothing)."""
    with tempfile.TemporaryDirectory(dir=material.folder) as folder:
        case = KINDS[name](random.Random(f"{name} {number}"), material, pathlib.Path(folder))
        try:
            return try_case(case, material.drivers), ""
        except Fault as fault:
            what = str(fault)
        except Exception as error:  # an oracle that cannot read what the driver accepted
            what = f"the oracle ended with {type(error).__name__}: {error}"
        again = f"python -m tests.odd_inputs --only={name} --first={number} --count=1"
        return "fault", f"{name} {number}: {what}\n  {shown(case)}\n  {again}\n"


def main() -> int:
    """Runs the cases; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="of all kinds together")
    parser.add_argument("--only", choices=KINDS, help="one kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first case of a kind")
    options = parser.parse_args()
    names = [options.only] if options.only else list(KINDS)
    tallies = {name: collections.Counter() for name in names}
    folder = pathlib.Path(tempfile.mkdtemp(prefix="odd-inputs-"))
    (folder / "said").mkdir()
    preload()
    drivers = Drivers(folder / "said")
    try:
        material = make_material(folder, drivers)
        cases = [
            (names[number % len(names)], options.first + number // len(names))
            for number in range(options.count)
        ]
        with concurrent.futures.ThreadPoolExecutor(_WORKERS) as pool:
            ended = pool.map(lambda case: try_number(case[0], case[1], material), cases)
            for done, ((name, _), (how, what)) in enumerate(zip(cases, ended, strict=True), 1):
                tallies[name][how] += 1
                if what:
                    print(what, flush=True)
                if done % 100 == 0:
                    print(f"{done:,} of {options.count:,}", file=sys.stderr, flush=True)
    finally:
        drivers.end()
        shutil.rmtree(folder, ignore_errors=True)
    for name, tally in tallies.items():
        print(f"{name:14}{tally['confirmed']:6,} confirmed{tally['refused']:6,} refused")
    total = sum(tallies.values(), collections.Counter())
    print(
        f"{total.total():,} odd inputs: {total['confirmed']:,} results confirmed,"
        f" {total['refused']:,} refused in one line, {total['fault']:,} faults"
    )
    return 1 if total["fault"] else 0


if __name__ == "__main__":
    sys.exit(main())
