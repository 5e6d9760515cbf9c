"""`champions`, `cycle queue`, `cycle why-not`: who served when, what waits for a person, and what the loop may do now.

What belongs here: telling. What must not: any rule (``control.policy``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from predator_si.cli.choices import JsonFlag, settings_of
from predator_si.cli.screen import say, show_json, show_table
from predator_si.errors import BadInput, Missing

if TYPE_CHECKING:
    from predator_si.orchestration.loop import Loop


def register(app: typer.Typer, cycle: typer.Typer) -> None:
    """Put the commands of this module into ``app`` and into its group ``cycle``."""
    app.command("champions")(champions)
    app.command("flag")(flag)
    cycle.command("queue")(queue)
    cycle.command("why-not")(why_not)
    cycle.command("promote")(promote)
    cycle.command("take-back")(take_back)


def champions(context: typer.Context, limit: Annotated[int, typer.Option(min=1, help="Newest so many.")] = 20, as_json: JsonFlag = False) -> None:
    """Who was champion of this contour when and why, newest first; derived from Git again where the table does not agree with it.

    Example: `predator-si champions --limit 5`
    """
    from predator_si.cli.switch import actor
    from predator_si.orchestration.steps.champions import history

    found = history(_loop(context), actor())[:limit]
    if as_json:
        show_json([span.model_dump(mode="json") for span in found])
        return
    rows = [
        (span.digest[:19], f"{span.since:%Y-%m-%d %H:%M}", "now" if span.until is None else f"{span.until:%Y-%m-%d %H:%M}", span.cycle_id or "", span.why)
        for span in found
    ]
    show_table("", ("model", "since (UTC)", "until (UTC)", "cycle", "why"), rows, "no champion is known")


def flag(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="An automatic action, as `predator-si cycle why-not` names it, or auto_promote.")],
    state: Annotated[str, typer.Argument(help="on, or off: the loop does not do it in this contour until somebody turns it on again.")],
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; it goes into the ledger.")],
) -> None:
    """Forbid or allow one automatic action in this contour; the others go on.

    Example: `predator-si flag train off --reason "the GPU is needed elsewhere today"`
    """
    from predator_si.cli.switch import actor
    from predator_si.control.policy import ACTIONS

    if name not in (*ACTIONS, "auto_promote") or state not in ("on", "off"):
        raise BadInput(f"{name} {state}: give one of {', '.join(ACTIONS)} or auto_promote, and on or off.")
    loop = _loop(context)
    changed = loop.control.set_feature_flag(loop.contour, name, state == "on", actor(), reason)
    say(f"{name} is {state}" if changed else f"{name} was {state} already")


def queue(context: typer.Context, everything: Annotated[bool, typer.Option("--all", help="Answered ones, too.")] = False, as_json: JsonFlag = False) -> None:
    """What waits for a person's approval, with the evidence; exit code 1 when something does.

    Example: `predator-si cycle queue`
    """
    from predator_si.records import utc_now

    loop, now = _loop(context), utc_now()
    found = loop.control.approvals(loop.answered_here, waiting=not everything, now=now)
    waiting = [one for one in found if one.state(now) == "waiting"]
    if as_json:
        show_json([{**one.model_dump(mode="json"), "state": one.state(now)} for one in found])
    else:
        rows = [(one.cycle_id, one.contour, one.state(now), f"{one.expires_at:%Y-%m-%d %H:%M}", one.evidence.get("reason", "")) for one in found]
        show_table("", ("cycle", "contour", "state", "expires (UTC)", "verdict"), rows, "nobody is asked for anything")
        for one in waiting:
            for gate in one.evidence.get("gates", []):
                say(f"  {gate['answer']:<8} {gate['name']}: {gate['reason']}")
            for change in one.evidence.get("would_change", []):
                say(f"  would change it: {change}")
            say(f'answer with: predator-si cycle approve {one.cycle_id} --reason "..."   or: predator-si cycle reject {one.cycle_id} --reason "..."')
    raise typer.Exit(1 if waiting else 0)


def why_not(context: typer.Context, as_json: JsonFlag = False) -> None:
    """What the loop may do now, and why not: each automatic action by the one policy, with when a refusal ends. Exit code 1 when no cycle may start.

    Example: `predator-si cycle why-not`
    """
    from predator_si.orchestration.steps.permission import rulings

    found = rulings(_loop(context))
    if as_json:
        show_json([{"action": name, "answer": one.answer, "rule": one.rule, "reason": one.reason, "retry_at": one.retry_at} for name, one in found])
    else:
        rows = [(name, one.answer, one.rule, "" if one.retry_at is None else f"{one.retry_at:%Y-%m-%d %H:%M}", one.reason) for name, one in found]
        show_table("", ("action", "answer", "rule", "ends (UTC)", "why"), rows, "")
    raise typer.Exit(0 if any(one.answer == "allow" for name, one in found if name.startswith("start_cycle")) else 1)


def promote(context: typer.Context, cycle_id: Annotated[str, typer.Argument(help="A stable release of this contour, or a promotion that waits.")]) -> None:
    """Propose a stable release to the next contour (`promotion.to`), or go on with its promotion: commit it once a person approved, and confirm it there.

    Example: `predator-si cycle promote si_2026_11_22_001`
    """
    from predator_si.cli.switch import actor
    from predator_si.orchestration.steps import onward
    from predator_si.records import CycleState

    loop = _loop(context)
    cycle = loop.control.cycle(cycle_id)
    if cycle.trigger.type != onward.TRIGGER:
        cycle = onward.propose(loop, cycle_id, actor())
    say(f"{cycle.cycle_id} in {cycle.contour}: {onward.advance(loop, cycle.cycle_id)}")
    raise typer.Exit(0 if loop.control.cycle(cycle.cycle_id).state is CycleState.STABLE else 1)


def take_back(
    context: typer.Context,
    cycle_id: Annotated[str, typer.Argument(help="A promotion that serves in the next contour.")],
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; it goes into the ledger.")],
) -> None:
    """Reverse a promotion in the next contour; what this contour serves is not touched.

    Example: `predator-si cycle take-back si_2026_11_22_002 --reason "slower on their hardware"`
    """
    from predator_si.cli.switch import actor
    from predator_si.orchestration.steps import onward

    result = onward.take_back(_loop(context), cycle_id, actor(), reason)
    say(f"{cycle_id} is taken back: {result.to_digest} serves again" if result.verified else f"{cycle_id} is taken back, NOT verified: {result.reason}")
    raise typer.Exit(0 if result.verified else 1)


def _loop(context: typer.Context) -> Loop:
    from predator_si.control.opening import is_there
    from predator_si.orchestration.loop import Loop

    settings = settings_of(context)
    if not is_there(settings.folders):
        raise Missing(f"{settings.home}: this home was not prepared. Run `predator-si up` or `predator-si demo` first.")
    return Loop(settings)
