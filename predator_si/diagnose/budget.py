"""What an explanation may cost: seconds and forward passes, shared by its methods, and what was cut short because of it.

What belongs here: counting and saying no. What must not: knowing any method.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from predator_si.errors import BadInput


class Budget:
    """Seconds and forward passes of one explanation.

    Parameters
    ----------
    seconds
        Of wall time, from now on, for all methods together.
    forwards
        Query-text pairs that a model may score, for all methods together; one step of integrated gradients counts as three (forward and backward).
    clock
        Seconds that only grow.

    Raises
    ------
    BadInput
        A limit that is not positive.
    """

    def __init__(self, seconds: float, forwards: int, clock: Callable[[], float] = time.monotonic) -> None:
        if not seconds > 0 or forwards < 1:
            raise BadInput(f"an explanation's budget is {seconds} s and {forwards} forwards; both must be above zero.")
        self.seconds, self.forwards = float(seconds), int(forwards)
        self._clock, self._begun = clock, clock()
        self._used = 0
        self.methods: list[dict[str, Any]] = []
        """One entry a method: ``method, seconds, forwards, status`` (done, cut or unknown), ``reason``."""

    @property
    def spent_seconds(self) -> float:
        """Since the start."""
        return self._clock() - self._begun

    @property
    def spent_forwards(self) -> int:
        """Pairs scored so far."""
        return self._used

    def allows(self, forwards: int = 0, seconds: float = 0.0, share: float = 1.0) -> bool:
        """Whether so much more fits into ``share`` of the whole budget."""
        return self._used + forwards <= share * self.forwards and self.spent_seconds + seconds <= share * self.seconds

    def spend(self, forwards: int) -> None:
        """Count pairs that were scored."""
        self._used += forwards

    @contextmanager
    def method(self, name: str) -> Iterator[dict[str, Any]]:
        """Time one method. The block may set ``status`` and ``reason`` of the entry it gets."""
        entry: dict[str, Any] = {"method": name, "seconds": 0.0, "forwards": 0, "status": "done", "reason": None}
        begun, used = self._clock(), self._used
        self.methods.append(entry)
        try:
            yield entry
        finally:
            entry["seconds"], entry["forwards"] = round(self._clock() - begun, 3), self._used - used


def cut_reason(what: str, done: int, planned: int, budget: Budget) -> str | None:
    """Why fewer than planned were done, or null when all were."""
    if done >= planned:
        return None
    return f"{done} of {planned} {what}: the budget of {budget.seconds:g} s and {budget.forwards} forwards was used up to its share"
