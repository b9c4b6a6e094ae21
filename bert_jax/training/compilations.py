"""Watches the programs that a run compiles: one for each step and shape of its batches.

After each, the memory that the compiler has freed goes back to the system before the program runs:
the C library would keep it, 0.4 GB in base on a CPU.
"""

import ctypes
import inspect
from typing import Any, Self

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"  # also where the program is in the cache


class Compilations:
    """Counts those of compiled functions of one name; to be used in a `with`."""

    def __init__(self, function: Any) -> None:
        """Takes one of them, as `jax.jit` returned it."""
        self._name = f"jit({getattr(function, '__name__', '')})"
        self._known: set[tuple] = set()
        self.count = 0

    def __enter__(self) -> Self:
        jax.monitoring.register_event_duration_secs_listener(self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._hear)

    def _hear(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs
        if event == _EVENT and kwargs.get("fun_name") == self._name:
            self.count += 1
            _give_back_memory()

    def needless(self, function: Any, batch: Any) -> int:
        """Takes the call that was made; returns how many compilations it did not need.

        What was told once is not told again.
        """
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(batch))
        self._known.add((inspect.unwrap(function), shapes))
        needless = max(self.count - len(self._known), 0)
        self.count -= needless
        return needless


def _give_back_memory() -> None:
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc alone has it
        trim(0)
