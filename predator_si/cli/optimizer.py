"""`optimizer ...`: the REST API of a running home from the command line.

What belongs here: asking it, and showing what it says. What must not: doing without it what it would do (`status`, `stop`, `cycle` work without the API).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from predator_si.cli.choices import JsonFlag, settings_of
from predator_si.cli.screen import say, show_json, show_table
from predator_si.errors import BadInput

if TYPE_CHECKING:
    from predator_si.api.client import OptimizerClient

app = typer.Typer(help="The REST API of a running home.", no_args_is_help=True)
Url = Annotated[str | None, typer.Option("--url", help="Of the API [default: this contour's port on 127.0.0.1]; a token stands in $PREDATOR_SI_TOKEN.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; it goes into the ledger.")]


def client_of(context: typer.Context, url: str | None = None, seconds: float = 30.0) -> OptimizerClient:
    """The client of this contour's API."""
    from predator_si.api.client import OptimizerClient

    return OptimizerClient(url or f"http://127.0.0.1:{settings_of(context).ports.api}", os.environ.get("PREDATOR_SI_TOKEN"), seconds=seconds)


@app.command()
def status(context: typer.Context, url: Url = None, as_json: JsonFlag = False) -> None:
    """Say what the loop does now; exit code 1 where it does not run.

    Example: `predator-si optimizer status`
    """
    with client_of(context, url) as client:
        found = client.status()
    if as_json:
        show_json(found)
    else:
        cycle, last = found["current_cycle"], found["last_action"]
        minutes = found["next_cycle_in_minutes"]
        rows: list[tuple[str, object]] = [
            ("running", "yes" if found["is_running"] else "no"),
            ("contour", found["contour"]),
            ("kill switch", "ON" if found["kill_switch"] else "off"),
            ("gates", found["quality_gates_status"]),
            ("champion", found["champion"]),
            ("current cycle", f"{cycle['cycle_id']}: {cycle['state']}" if cycle else "none"),
            ("next tick", "not planned" if minutes is None else f"in {minutes:.1f} min"),
            ("cycles in 24 h", found["total_optimizations_24h"]),
            ("last action", f"{last['timestamp']} {last['type']}: {last['reason']}" if last else "none"),
            *(("problem", problem) for problem in found["problems"]),
        ]
        show_table("", ("", ""), rows, "")
    raise typer.Exit(0 if found["is_running"] else 1)


@app.command()
def trigger(
    context: typer.Context,
    force: Annotated[bool, typer.Option("--force", help="Also without a failed gate and within the interval; never past the kill switch.")] = False,
    target: Annotated[str | None, typer.Option(help="all, models or infrastructure.")] = None,
    reason: Reason = "",
    wait: Annotated[float, typer.Option(min=0, max=600, help="Seconds to wait for the cycle's end.")] = 0.0,
    url: Url = None,
    as_json: JsonFlag = False,
) -> None:
    """Begin a cycle; exit code 1 where none began.

    Example: `predator-si optimizer trigger --force --reason "new documentation"`
    """
    if target not in (None, "all", "models", "infrastructure"):
        raise BadInput(f"--target {target!r}: there are all, models, infrastructure.")
    with client_of(context, url) as client:
        found = client.trigger(force=force, target=target, reason=reason, wait=wait)  # type: ignore[arg-type]
    _tell(found, as_json, f"{found['status']}: {found['message']}")
    raise typer.Exit(0 if found["status"] in ("started", "completed") else 1)


@app.command()
def metrics(context: typer.Context, url: Url = None, as_json: JsonFlag = False) -> None:
    """Show the newest snapshot's metrics with their intervals.

    Example: `predator-si optimizer metrics`
    """
    with client_of(context, url) as client:
        found = client.metrics()
    if as_json:
        show_json(found)
        return
    rows = []
    for name, detail in found["details"].items():
        value = found.get(name)
        interval = f"[{detail['ci_low']:g}, {detail['ci_high']:g}]" if detail["ci_low"] is not None else None
        rows.append((name, "unknown" if value is None and name in found else value, interval, detail["n"], detail["source"], detail["reason"]))
    show_table(f"window until {found['timestamp']}", ("metric", "value", "95% interval", "n", "source", "why unknown"), rows, "nothing was measured yet")


@app.command()
def history(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Newest so many.")] = 20,
    url: Url = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the newest ledger records.

    Example: `predator-si optimizer history --limit 5`
    """
    with client_of(context, url) as client:
        found = client.history(limit)
    if as_json:
        show_json(found)
        return
    rows = [(row["timestamp"], row["cycle_id"], row["action"]["type"], row["actor"], row["action"]["reason"]) for row in found["history"]]
    show_table(f"{found['showing']} of {found['total']}", ("time (UTC)", "cycle", "what", "who", "why"), rows, "no records")


@app.command()
def gates(context: typer.Context, url: Url = None, as_json: JsonFlag = False) -> None:
    """Show the quality gates and what they say.

    Example: `predator-si optimizer gates`
    """
    with client_of(context, url) as client:
        found = client.quality_gates()
    if as_json:
        show_json(found)
        return
    rows = [(name, one["direction"], one["threshold"], one["value"], one["status"], one["reason"]) for name, one in found["details"].items()]
    show_table("", ("metric", "", "threshold", "value", "answer", "why"), rows, "no gates")


@app.command()
def override(
    context: typer.Context,
    metric: Annotated[str, typer.Argument(help="As `optimizer gates` names it.")],
    threshold: Annotated[float, typer.Argument(help="In the metric's unit.")],
    minutes: Annotated[int, typer.Option(min=1, max=43200, help="How long it holds.")] = 1440,
    reason: Reason = "",
    url: Url = None,
    as_json: JsonFlag = False,
) -> None:
    """Give a gate another threshold for a time.

    Example: `predator-si optimizer override ndcg_at_10 0.70 --minutes 60 --reason "holiday traffic"`
    """
    with client_of(context, url) as client:
        found = client.override_gate(metric, threshold, expires_in_minutes=minutes, reason=reason)
    _tell(found, as_json, f"{found['metric']}: {found['new_threshold']:g} instead of {found['old_threshold']} until {found['expires_at']}")


@app.command("end-override")
def end_override(
    context: typer.Context,
    metric: Annotated[str, typer.Argument(help="As `optimizer gates` names it.")],
    reason: Reason = "",
    url: Url = None,
    as_json: JsonFlag = False,
) -> None:
    """Give a gate its own threshold back; exit code 1 where it had no other.

    Example: `predator-si optimizer end-override ndcg_at_10 --reason "the holidays are over"`
    """
    with client_of(context, url) as client:
        found = client.end_override(metric, reason=reason)
    said = "the override is ended" if found["status"] == "ended" else "there was no override"
    _tell(found, as_json, f"{found['metric']}: {said}; {found['threshold']} holds")
    raise typer.Exit(0 if found["status"] == "ended" else 1)


@app.command()
def approvals(context: typer.Context, url: Url = None, as_json: JsonFlag = False) -> None:
    """Show releases that wait for a person.

    Example: `predator-si optimizer approvals`
    """
    with client_of(context, url) as client:
        found = client.approvals()
    if as_json:
        show_json(found)
        return
    rows = [(one["cycle_id"], one["stage"], one["state"], one["asked_at"], one["expires_at"], one["actor"]) for one in found["approvals"]]
    show_table("", ("cycle", "stage", "state", "asked", "expires", "who"), rows, "nobody was asked")


@app.command()
def rollback(
    context: typer.Context,
    reason: Reason,
    to_version: Annotated[str | None, typer.Option("--to", help="Digest that must serve afterwards.")] = None,
    url: Url = None,
    as_json: JsonFlag = False,
) -> None:
    """Take the newest release back, whatever its watch says.

    Example: `predator-si optimizer rollback --reason "users complain"`
    """
    with client_of(context, url) as client:
        found = client.rollback(settings_of(context).contour, to_version, reason)
    _tell(found, as_json, f"{found['cycle_id']}: {found['message']} ({found['from_digest']} -> {found['to_digest']})")


def _tell(found: dict[str, Any], as_json: bool, text: str) -> None:
    if as_json:
        show_json(found)
    else:
        say(text)
