"""Backend that only prints the commands, for a person to start."""

from collections.abc import Sequence

from experiments.study import Run
from launch.backends import Backend, Command


class Printed(Backend):
    """Starts nothing."""

    def commands(self, runs: Sequence[Run]) -> list[Command]:
        """Returns the drivers' commands, each after those that it needs."""
        return [Command(self.study.folder.command(run)) for run in runs]

    def alive(self, runs: Sequence[Run]) -> list[Run]:
        """Returns none: nothing is started."""
        del runs
        return []
