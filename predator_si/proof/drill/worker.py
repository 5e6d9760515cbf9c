"""A run worker of a drill: a warm process that forks one child for each road, so that a kill costs a second and not a start of Python.

What belongs here: forking, the line to the drill. What must not: steps; the child calls the loop's own (``lane``).

    python -m predator_si.proof.drill.worker LINE

Settings come from the environment; LINE is the socket of the drill. Reads cycle ids from standard input, one a line. Torch runs on one thread: a fork is safe.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from predator_si.errors import PredatorError
from predator_si.orchestration.loop import Loop
from predator_si.proof.drill import effects, lane

if TYPE_CHECKING:
    from predator_si.home import Home
    from predator_si.train.tracking import ExperimentTracker


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
    import dagster_mlflow  # noqa: F401
    import mlflow  # noqa: F401
    import torch
    import transformers  # noqa: F401

    import predator_si.evaluate
    import predator_si.search.rerank  # noqa: F401

    torch.set_num_threads(1)


def _road(loop: Loop, cycle_id: str, path: str) -> int:
    """In the child: the road of a cycle to its end, each side effect told."""
    line = effects.Line(path)
    effects.install(line.tell, loop.home.path)
    try:
        state = lane.resume(loop, cycle_id, lane.wait_by_events(loop), tracker_of(loop.home, run_id(os.getpid())))
        line.end(state.value)
    except PredatorError as error:
        line.end(f"failed: {type(error).__name__}: {error}")
        return 1
    except Exception as error:  # a defect: the drill is told, and counts it
        line.end(f"broke: {type(error).__name__}: {error}")
        return 2
    return 0


def run_id(pid: int) -> str:
    """By which MLflow knows the training run of a worker."""
    return f"drill-{pid}"


def tracker_of(home: Home, run: str) -> ExperimentTracker:
    """The registry, able to open training runs: dagster-mlflow does that for a Dagster run, so this worker calls itself one."""
    import dagster as dg
    from dagster_mlflow import mlflow_tracking

    from predator_si.orchestration.tracking import MlflowTracker

    own = dg.DagsterRun(job_name="drill", run_id=run)
    log: Any = dg.get_dagster_logger()
    nothing: Any = None
    return MlflowTracker(home, dg.InitResourceContext({}, nothing, mlflow_tracking, {}, dagster_run=own, log_manager=log))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
