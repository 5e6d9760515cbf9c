"""A run worker of a drill: a warm process that forks one child for each road, so that a kill costs a second and not a start of Python.

What belongs here: forking, the line to the drill. What must not: steps; the child calls the loop's own (``lane``).

    python -m predator_si.proof.drill.worker LINE

Settings come from the environment; LINE is the socket of the drill. Reads cycle ids from standard input, one a line. Torch runs on one thread: a fork is safe.
"""

from __future__ import annotations

import os
import sys

from predator_si.errors import PredatorError
from predator_si.orchestration.loop import Loop
from predator_si.proof.drill import effects, lane


def main(words: list[str]) -> int:
    """Serve until standard input ends."""
    from predator_si.quiet import be_quiet, hush
    from predator_si.settings import load_settings

    be_quiet(offline=True)
    hush()
    loop = Loop(load_settings(env=os.environ))
    _warm()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for text in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(_road(loop, text.strip(), words[0]))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"over {os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
    return 0


def _warm() -> None:
    """Import what a road imports, and nothing that keeps a thread or a connection."""
    import mlflow  # noqa: F401
    import torch
    import transformers  # noqa: F401

    import predator_si.evaluate
    import predator_si.search.rerank  # noqa: F401

    torch.set_num_threads(1)


def _road(loop: Loop, cycle_id: str, path: str) -> int:
    """In the child: the road of a cycle to its end, each side effect told."""
    from predator_si.orchestration.tracking import MlflowTracker

    line = effects.Line(path)
    effects.install(line.tell, loop.home.path)
    try:
        state = lane.resume(loop, cycle_id, lane.wait_by_events(loop), MlflowTracker(loop.home))
        line.end(state.value)
    except PredatorError as error:
        line.end(f"failed: {type(error).__name__}: {error}")
        return 1
    except Exception as error:  # a defect: the drill is told, and counts it
        line.end(f"broke: {type(error).__name__}: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
