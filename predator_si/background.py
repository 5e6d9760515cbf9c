"""Work that gives way: a process at the lowest priority that the system grants, and ``python -m predator_si.background COMMAND...`` to begin one.

What belongs here: the priority of a process. What must not: which process gets it.

Linux with ``sched_autogroup_enabled`` shares the processors between sessions first and looks at the nice values of processes within a session only
(sched(7), "The autogroup feature"). So a process that was started in a session of its own is not made cheaper by ``nice`` alone: its session has a value too.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

_LOWEST = 19
_AUTOGROUP = Path("/proc/self/autogroup")


def lower_priority(*, idle: bool = True) -> str:
    """Let this process and all that it will start run after everybody else; says what the system allowed.

    Parameters
    ----------
    idle
        Also take the scheduling class ``idle`` of Linux: such a process runs only when nobody else of its session wants the processor.

    Returns
    -------
    str
        ``idle``, ``nice 19`` (the lowest ordinary priority), or ``normal``, which means that neither was allowed.
    """
    with contextlib.suppress(OSError):  # when memory runs out, this process goes before the others
        Path("/proc/self/oom_score_adj").write_text("900")
    with contextlib.suppress(OSError):
        os.nice(_LOWEST)
    if os.getsid(0) == os.getpid():  # the whole session is this process and its children
        with contextlib.suppress(OSError):
            _AUTOGROUP.write_text(str(_LOWEST))
    if idle and hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            return "idle"
    return f"nice {_LOWEST}" if os.nice(0) == _LOWEST else "normal"


def command(words: list[str]) -> list[str]:
    """A command line that runs ``words`` at the lowest ordinary priority, under the same process id."""
    return [sys.executable, "-m", "predator_si.background", *words]


def main(words: list[str]) -> int:
    """Become the command."""
    if not words:
        sys.stderr.write("usage: python -m predator_si.background COMMAND [ARGUMENT]...\n")
        return 2
    lower_priority(idle=False)
    try:
        os.execvp(words[0], words)
    except OSError as error:
        sys.stderr.write(f"{words[0]} cannot be started: {error.strerror}\n")
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
