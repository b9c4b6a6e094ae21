"""Runs that a person starts: the commands, one after another, for a shell."""

from collections.abc import Sequence

from experiments.study import Run
from launch.backends import Backend, Command


class Printed(Backend):
    """Starts nothing."""

    def commands(self, runs: Sequence[Run]) -> list[Command]:
        """Returns what a user would type, in an order in which it can be typed."""
        return [Command(self.study.folder.command(run)) for run in runs]

    def alive(self, runs: Sequence[Run]) -> list[Run]:
        """Returns none: what a person does is not known here."""
        del runs
        return []
