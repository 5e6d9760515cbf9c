"""`predator-si up`: Dagster, MLflow, the search service and the reconciler under one honcho supervisor; `down` ends exactly those.

What belongs here: which processes, with which environment, and whose they are. What must not: preparing what they need.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from predator_si import background
from predator_si.errors import Missing, Refused, Unavailable
from predator_si.home import Home
from predator_si.quiet import quiet_environment
from predator_si.settings import Settings

STOP_SECONDS = 20.0
"""Given to all processes to end by themselves before they are killed; Dagster needs up to nine of them."""
_LOG_BYTES = 10_000_000
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Service:
    """One process of the supervisor; ``port`` is what it listens on, if anything."""

    name: str
    command: tuple[str, ...]
    port: int | None = None
    url: str | None = None


def services(settings: Settings) -> list[Service]:
    """What `up` starts, in order; with Argo CD in place of the embedded reconciler, none of that."""
    from predator_si.orchestration.delivery import reconcile_command

    home, ports = settings.folders, settings.ports
    python = sys.executable
    workspace = ("-w", str(home.workspace))
    mlflow = ("--backend-store-uri", home.mlflow_uri, "--default-artifact-root", (home.mlflow / "artifacts").as_uri(), "--workers", "1")
    return [
        Service("search", search_command(settings), ports.search, f"http://127.0.0.1:{ports.search}/info"),
        *([Service("reconciler", tuple(reconcile_command(settings)))] if settings.values.deploy.kind == "local" else []),
        Service(
            "dagster",
            (python, "-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(ports.dagster), *workspace),
            ports.dagster,
            f"http://127.0.0.1:{ports.dagster}",
        ),
        Service("daemon", tuple(background.command([python, "-m", "dagster._daemon", "run", *workspace]))),  # trainings must not slow the searches
        Service(
            "mlflow",
            (python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(ports.mlflow), *mlflow),
            ports.mlflow,
            f"http://127.0.0.1:{ports.mlflow}",
        ),
        Service(
            "api",
            (python, "-m", "predator_si.api", "--home", str(settings.home), "--contour", settings.contour, "--port", str(ports.api)),
            ports.api,
            f"http://127.0.0.1:{ports.api}/health",
        ),
    ]


def search_command(settings: Settings) -> tuple[str, ...]:
    """The command line of the search service of this home."""
    return (sys.executable, "-m", "predator_si.search", "--home", str(settings.home), "--contour", settings.contour, "--port", str(settings.ports.search))


def child_environment(settings: Settings, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of every process: these settings, no telemetry, no downloads, this interpreter's programs first."""
    programs = str(Path(sys.executable).parent)
    return {
        **environment,
        **quiet_environment(offline=True),
        **settings.environment(),
        "PATH": os.pathsep.join(filter(None, (programs, environment.get("PATH")))),
        "PYTHONUNBUFFERED": "1",
        "MLFLOW_TRACKING_URI": settings.folders.mlflow_uri,
        "PREDATOR_SI_TRACES": environment.get("PREDATOR_SI_TRACES") or f"mlflow:http://127.0.0.1:{settings.ports.mlflow}",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its job workers are for remote evaluation and cost a second server
    }


# --------------------------------------------------------------------------- whose processes


@dataclass(frozen=True)
class Running:
    """A supervisor and its children as the pid file names them: process id and start time, since ids are used again."""

    supervisor: tuple[int, float]
    children: dict[int, float]


def running(home: Home) -> Running | None:
    """What `up` of this home left in its pid file, as far as it still lives; None when nothing does."""
    try:
        written = json.loads(home.up_pid.read_text(encoding="utf-8"))
        supervisor = (int(written["pid"]), float(written["started"]))
        children = {int(pid): float(started) for pid, started in written["children"].items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # cut short by a crash while it was written; without ids nothing can be ended safely
    alive = {pid: started for pid, started in children.items() if _lives(pid, started)}
    return Running(supervisor, alive) if alive or _lives(*supervisor) else None


def _lives(pid: int, started: float) -> bool:
    import psutil

    try:
        process = psutil.Process(pid)
        return bool(abs(process.create_time() - started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def take_down(home: Home, on_wait: Callable[[str], None] = lambda text: None, seconds: float = STOP_SECONDS + 10) -> int:
    """End what `up` of this home started; how many processes that were. Only processes of the pid file with their start times are touched.

    Raises
    ------
    Unavailable
        Something still lives after ``seconds``.
    """
    found = running(home)
    if found is None:
        home.up_pid.unlink(missing_ok=True)
        return 0
    everything = dict([found.supervisor]) | found.children
    if _lives(*found.supervisor):
        on_wait(f"ending the supervisor (pid {found.supervisor[0]})")
        os.kill(found.supervisor[0], signal.SIGTERM)
        _wait(lambda: not _lives(*found.supervisor), seconds)
    for pid, started in found.children.items():
        if _lives(pid, started):  # the supervisor was killed and could not take them along
            on_wait(f"ending an orphan (pid {pid})")
            os.killpg(pid, signal.SIGTERM)
    if not _wait(lambda: not any(_lives(pid, started) for pid, started in everything.items()), seconds):
        left = ", ".join(str(pid) for pid, started in everything.items() if _lives(pid, started))
        raise Unavailable(f"these processes did not end within {seconds:g} s: {left}; look at {home.logs}, then end them with `kill -9`.")
    home.up_pid.unlink(missing_ok=True)
    return len(everything)


def _wait(true: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


# --------------------------------------------------------------------------- running


class LogPrinter:
    """honcho's printer: every line goes to the screen under its process' name, and to ``<logs>/<name>.log``."""

    def __init__(self, logs: Path, on_system: Callable[[], None], quiet: bool = False) -> None:
        self.width = 0
        self._logs = logs
        self._on_system = on_system
        self._quiet = quiet
        self._files: dict[str, logging.Logger] = {}

    def write(self, message: Any) -> None:
        """Take one line from honcho."""
        text = message.data if isinstance(message.data, str) else message.data.decode("utf-8", "replace")
        self._log(message.name).info(_COLOUR.sub("", text.rstrip("\n")))
        if not self._quiet:
            sys.stdout.write(f"{message.time:%H:%M:%S} {message.name:<{self.width}} | {text.rstrip()}\n")
            sys.stdout.flush()
        if message.name == "system":
            self._on_system()

    def _log(self, name: str) -> logging.Logger:
        if name not in self._files:
            logger = logging.Logger(name)  # not of the global tree: nobody else's handlers apply
            handler = logging.handlers.RotatingFileHandler(self._logs / f"{name}.log", maxBytes=_LOG_BYTES, backupCount=3, encoding="utf-8")
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            logger.addHandler(handler)
            self._files[name] = logger
        return self._files[name]


def require_something_to_serve(home: Home, *, remote: bool = False) -> None:
    """Raise where the search service would have nothing to serve: no released model or no index.

    Parameters
    ----------
    remote
        The GitOps repository is not the one in the home folder.

    Raises
    ------
    Missing
        Nothing has been set up in this home.
    """
    seeded = remote or home.gitops_bare.is_dir()
    lacking = [what for what, there in (("a GitOps repository", seeded), ("an index", any(home.index.glob("*")))) if not there]
    if lacking:
        raise Missing(f"{home.path}: there is nothing to serve yet ({' and '.join(lacking)} missing); `predator-si demo` sets a home up and runs one loop.")


def bring_up(settings: Settings, on_ready: Callable[[str], None], what: list[Service] | None = None, quiet: bool = False) -> int:
    """Start everything, wait, and end everything on Ctrl-C, on `down`, or as soon as one of them ends; the exit code.

    Raises
    ------
    Refused
        `up` of this home runs already.
    Unavailable
        A port is in use; all such ports are named.
    """
    import filelock

    home = settings.folders.ensure()
    chosen = services(settings) if what is None else what
    try:
        # The lock ends with the process however it ends; the pid file says who it is.
        with filelock.FileLock(home.path / "up.lock", timeout=0):
            found = running(home)
            if found is not None:
                pids = ", ".join(map(str, found.children))
                raise Refused(f"{home.path}: processes of an earlier `up` that was killed still run (pid {pids}); end them with `predator-si down`.")
            require_free_ports(chosen)
            return _supervise(settings, home, chosen, on_ready, quiet)
    except filelock.Timeout as error:
        raise Refused(f"{home.path}: `predator-si up` runs here already; end it with `predator-si down`.") from error


def require_free_ports(chosen: list[Service]) -> None:
    """Raise where a port is in use.

    Raises
    ------
    Unavailable
        With all such ports, and how to move ours.
    """
    from predator_si.cli.doctor import port_is_busy

    busy = [service for service in chosen if service.port is not None and port_is_busy(service.port)]
    if busy:
        names = ", ".join(f"{service.port} ({service.name})" for service in busy)
        example = ",".join(f"{service.name}={(service.port or 0) + 100}" for service in busy)
        raise Unavailable(f"in use by another program: port {names}; end it, or move ours: PREDATOR_SI_PORTS={example} predator-si up")


def _supervise(settings: Settings, home: Home, chosen: list[Service], on_ready: Callable[[str], None], quiet: bool) -> int:
    import honcho.manager

    honcho.manager.KILL_WAIT = STOP_SECONDS  # its five seconds would kill Dagster in the middle of ending
    environment = child_environment(settings)
    printer = LogPrinter(home.logs, lambda: _write_pids(home), quiet)
    manager = honcho.manager.Manager(printer)
    for service in chosen:
        manager.add_process(service.name, f"exec {shlex.join(service.command)}", env=environment, cwd=str(home.path))
    _write_pids(home)
    over = threading.Event()
    threading.Thread(target=_announce, args=(chosen, on_ready, over), daemon=True).start()
    try:
        manager.loop()
    finally:
        over.set()
        home.up_pid.unlink(missing_ok=True)
    # Ended on purpose (Ctrl-C or `down`) is success; a process that ended by itself is not, whatever its own code was.
    return 0 if manager.returncode in (130, 143) else 1


def _write_pids(home: Home) -> None:
    """Record this process and the group leaders below it; called whenever honcho reports a start or a stop."""
    import psutil

    me = psutil.Process()
    children = {}
    for process in me.children(recursive=True):
        try:
            if os.getpgid(process.pid) == process.pid:
                children[str(process.pid)] = process.create_time()
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    partial = home.path / f".up.pid.{os.getpid()}"
    partial.write_text(json.dumps({"pid": me.pid, "started": me.create_time(), "children": children}), encoding="utf-8")
    partial.replace(home.up_pid)


def _announce(chosen: list[Service], on_ready: Callable[[str], None], over: threading.Event) -> None:
    """Say each service's address as soon as it answers."""
    import httpx

    waiting = [service for service in chosen if service.url is not None]
    while waiting and not over.wait(0.5):
        for service in list(waiting):
            try:
                answer = httpx.get(str(service.url), timeout=2.0, trust_env=False)
            except httpx.HTTPError:
                continue
            if answer.status_code < 500:
                waiting.remove(service)
                on_ready(f"{service.name} answers: {service.url}")
    if not waiting and not over.is_set():
        on_ready("everything is up; Ctrl-C ends it")
