"""`up`, `down`, `logs`, `status`, `doctor`: the processes on this machine and what they stand on."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from predator_si.cli.choices import JsonFlag, settings_of
from predator_si.cli.screen import remark, say, show_json, show_table, stages
from predator_si.errors import BadInput, Missing
from predator_si.settings import Settings


def register(app: typer.Typer) -> None:
    """Put the commands of this module into ``app``."""
    for command in (up, down, logs, status, doctor):
        app.command()(command)


def up(
    context: typer.Context,
    scale: Annotated[str, typer.Option(help="What a home that was never set up gets: full, or small (tiny seeded models).")] = "full",
    corpus: Annotated[str, typer.Option(help="What it is judged by: python-docs, or the name of an imported corpus.")] = "python-docs",
    quiet: Annotated[bool, typer.Option("--quiet", help="Only write the logs, do not show them.")] = False,
) -> None:
    """Start Dagster, MLflow, the search service and the reconciler; Ctrl-C or `predator-si down` ends all. A new home is set up first.

    Example: `predator-si up --home ./.predator`
    """
    from predator_si.cli.supervisor import bring_up, require_free_ports, require_something_to_serve, running, services
    from predator_si.settings import DEMO_SCALES

    settings = settings_of(context)
    if scale not in DEMO_SCALES:
        raise BadInput(f"--scale {scale!r}: there are {' and '.join(DEMO_SCALES)}.")
    # What runs here already is bring_up's to say.
    if running(settings.folders.ensure()) is None and _set_up(settings, scale, corpus, lambda: require_free_ports(services(settings))):
        # A new process of the same id: the supervisor lives long, and setting up has loaded gigabytes of libraries and models.
        values = [] if settings.values_file is None else ["--values", str(settings.values_file)]
        words = ["--home", str(settings.home), "--contour", settings.contour, *values, "up", *(["--quiet"] if quiet else [])]
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", "predator_si.cli", *words])
    require_something_to_serve(settings.folders, remote=settings.values.gitops.url is not None)
    raise typer.Exit(bring_up(settings, on_ready=remark, quiet=quiet))


def _set_up(settings: Settings, scale: str, corpus: str, before: Callable[[], None]) -> bool:
    """Set a home up that was never set up; whether that was needed. ``before`` raises where `up` could not start anyway: this may take minutes."""
    from predator_si.orchestration.loop import Loop
    from predator_si.proof.prepare import make_dagster_storage, not_prepared, prepare_for_service, take_time
    from predator_si.settings import DEMO_SCALES

    worked = False
    if not_prepared(Loop(settings)):
        before()
        with stages() as (tell, report):
            worked = prepare_for_service(settings, DEMO_SCALES[scale], tell, report, corpus) is not None
    take_time(Loop(settings))  # a demo that was killed left its haste behind
    return make_dagster_storage(settings) or worked


def down(context: typer.Context) -> None:
    """End what `predator-si up` of this home started, and nothing else.

    Example: `predator-si down`
    """
    from predator_si.cli.supervisor import take_down

    count = take_down(settings_of(context).folders, on_wait=remark)
    say(f"ended {count} processes" if count else "nothing of this home is running")


def logs(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="search, reconciler, dagster, daemon, mlflow, api, system; all when left out.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Last lines of each log to begin with.")] = 20,
) -> None:
    """Show what the processes of `predator-si up` wrote.

    Example: `predator-si logs search --lines 50 --follow`
    """
    folder = settings_of(context).folders.logs
    files = sorted(folder.glob("*.log"))
    if not files:
        raise Missing(f"{folder}: no logs yet; `predator-si up` writes them.")
    if name is not None:
        known = [file.stem for file in files]
        if name not in known:
            raise BadInput(f"no log is called {name!r}; there are {', '.join(known)}.")
        files = [folder / f"{name}.log"]
    positions = {}
    for file in files:
        with file.open(encoding="utf-8", errors="replace") as stream:
            for line in deque(stream, maxlen=lines):
                _print_log(file, line)
            positions[file] = stream.tell()
    while follow:
        time.sleep(0.3)
        for file in files:
            positions[file] = _print_new(file, positions[file])


def _print_new(file: Path, position: int) -> int:
    try:
        if file.stat().st_size < position:
            position = 0  # rotated
        with file.open(encoding="utf-8", errors="replace") as stream:
            stream.seek(position)
            while line := stream.readline():
                if not line.endswith("\n"):
                    return position
                _print_log(file, line)
                position = stream.tell()
    except FileNotFoundError:
        return 0  # between two steps of a rotation
    return position


def _print_log(file: Path, line: str) -> None:
    say(f"{file.stem:<10} | {line.rstrip()}")


def status(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Say what is served, which cycle runs, whether the kill switch is on, and what of `up` is running.

    Example: `predator-si status --json`
    """
    settings = settings_of(context)
    found = _status(settings)
    if as_json:
        show_json(found)
        return
    service, cycle = found["service"], found["current_cycle"]
    rows: list[tuple[str, object]] = [
        ("contour", f"{settings.contour} (policy {settings.policy}, {'enabled' if settings.enabled else 'not enabled'})"),
        ("home", settings.home),
        ("processes", f"{len(found['processes'])} running" if found["processes"] else "none; `predator-si up` starts them"),
        ("search service", service["error"] or f"{settings.search_url} serves {service['champion']}"),
        ("challenger", service["candidate"]),
        ("kill switch", {None: "off (nothing has run here yet)", True: "ON: `predator-si start` lifts it", False: "off"}[found["kill_switch"]]),
        ("current cycle", f"{cycle['cycle_id']}: {cycle['state']} ({cycle['reason']})" if cycle else "none"),
        ("released by", found["released_by"]),
    ]
    show_table("", ("", ""), rows, "")


def _status(settings: Settings) -> dict[str, Any]:
    from predator_si.cli.supervisor import running

    alive = running(settings.folders)
    answer: dict[str, Any] = {
        "contour": settings.contour,
        "home": str(settings.home),
        "enabled": settings.enabled,
        "policy": settings.policy,
        "processes": [] if alive is None else [alive.supervisor[0], *alive.children],
        "service": _service(settings.search_url),
        "kill_switch": None,
        "current_cycle": None,
        "released_by": None,
    }
    from predator_si.control.opening import is_there, open_control

    if is_there(settings.folders):
        control = open_control(settings.folders)
        current, released = control.active_cycle(settings.contour), control.current_release(settings.contour)
        answer["kill_switch"] = control.kill_switch(settings.contour) or settings.kill_switch
        answer["current_cycle"] = current.model_dump(mode="json") if current else None
        answer["released_by"] = released.cycle_id if released else None
    return answer


def _service(url: str) -> dict[str, Any]:
    """What the search service says about itself; ``error`` is null when it answered."""
    import httpx

    try:
        answer = httpx.get(f"{url}/info", timeout=3.0)
        answer.raise_for_status()
        variants = answer.json()["variants"]
        champion, candidate = variants["champion"], variants["candidate"]
    except httpx.HTTPError as error:
        return {"url": url, "champion": None, "candidate": None, "error": f"{url} does not answer ({error})"}
    except (ValueError, KeyError, TypeError) as error:
        return {"url": url, "champion": None, "candidate": None, "error": f"{url} answers, but not as a search service does ({error!r})"}
    return {
        "url": url,
        "champion": champion["model_sha"] if champion else None,
        "candidate": candidate["model_sha"] if candidate else None,
        "error": None,
    }


def doctor(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Say what this machine has, what it lacks and how to get it; exit code 1 when something required is missing.

    Example: `predator-si doctor --json`
    """
    from predator_si.cli.doctor import as_json as to_json
    from predator_si.cli.doctor import examine

    findings = examine(settings_of(context))
    answer = to_json(findings)
    if as_json:
        show_json(answer)
    else:
        marks = {"ok": "ok", "missing": "MISSING", "absent": "absent", "unknown": "unknown"}
        show_table("", ("", "what", "found", "how to get it"), [(marks[f.state], f.name, f.found, f.how) for f in findings], "")
        say("everything required is here" if answer["ok"] else "something required is missing")
    raise typer.Exit(0 if answer["ok"] else 1)
