"""How much each drill does."""

from __future__ import annotations

from dataclasses import dataclass

from predator_si.errors import BadInput

DRILLS = ("rollback", "swap", "kill", "partition", "race")
SCALES: dict[str, dict[str, int]] = {
    "full": {"rollback": 200, "swap": 1000, "kill": 32, "partition": 2, "race": 5},
    "small": {"rollback": 3, "swap": 4, "kill": 1, "partition": 1, "race": 1},
}
"""How often, by scale and drill: rollbacks, swaps, kills of each process (0: at every point there is), rounds of every partition, rounds of every race. The
small scale takes a few partitions and races, and kills each process of the first half once."""


@dataclass(frozen=True)
class DrillPlan:
    """One drill: which, how often, from which seed.

    Attributes
    ----------
    n
        Rollbacks, swaps, kills of each process (0: at every point), or rounds.
    clients
        Closed-loop clients that search all the while.
    """

    name: str
    n: int
    seed: int = 0
    scale: str = "full"
    clients: int = 2

    @classmethod
    def of(cls, name: str, scale: str, n: int | None = None, seed: int = 0) -> DrillPlan:
        """The plan of a drill at a scale; ``n`` takes the place of the scale's number.

        Raises
        ------
        BadInput
            There is no such drill or scale, or ``n`` is negative.
        """
        if name not in DRILLS:
            raise BadInput(f"drill {name!r}: there are {', '.join(DRILLS)}.")
        if scale not in SCALES:
            raise BadInput(f"--scale {scale!r}: there are {' and '.join(SCALES)}.")
        if n is not None and n < (0 if name == "kill" else 1):
            raise BadInput(f"--n {n}: a drill is done once at least.")
        return cls(name, SCALES[scale][name] if n is None else n, seed, scale)
