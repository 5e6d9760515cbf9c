"""The monthly question whether the trial's rule cries wolf: the champion's own traffic of the last days, judged as if it had been on trial."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from predator_si.errors import BadInput
from predator_si.experiment.same import SameReplay, replay_same
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps.trial import design_of, trial_steps
from predator_si.records import utc_now
from predator_si.search.events import read_events

REPLAY = "aa_replay.json"
_DAYS = 7
_SPLITS = 100


def replay_month(loop: Loop, now: datetime | None = None, on_progress: Callable[[int, int], None] | None = None) -> SameReplay:
    """Replay the newest week in which the present champion served, write ``experiments/aa_replay.json`` and a ledger record.

    Raises
    ------
    BadInput
        Too little traffic for a trial.
    """
    end = now or utc_now()
    start, champion, step = end - timedelta(days=_DAYS), loop.serving().model, trial_steps(loop)[-1]
    events = read_events(loop.home.events, start, end, open_text=False)
    mine = events.search.filter(events.search["model_digest"] == champion)["timestamp"] if events.search.height else None
    first, last = (mine.min(), mine.max()) if mine is not None and mine.len() else (None, None)
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        raise BadInput(f"A/A replay: {champion[:19]} served nobody in the last {_DAYS} days. Wait for traffic.")
    found = replay_same(
        events,
        champion,
        window_start=first,
        window_end=last + timedelta(microseconds=1),
        now=end,
        contour=loop.contour,
        share=step.share,
        splits=_SPLITS,
        min_sample=step.min_samples,
        seed=end.toordinal(),
        design=design_of(loop),
        on_progress=on_progress,
    )
    folder = loop.home.path / "experiments"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / REPLAY).write_text(found.to_json())
    payload = {"splits": found.splits, "rejected": found.rejected, "invalid": found.invalid, "upper": found.false_alarm_upper, "holds": found.holds}
    loop.control.append(
        "aa_replay", "loop", None, f"{found.rejected + found.invalid} false alarms in {found.splits} splits of {found.requests} requests", payload
    )
    return found
