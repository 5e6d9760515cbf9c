"""A trial that was really judged, with its evidence in a cycle's folder; and what shadow and interleaving record."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from predator_si.experiment import judge_ab
from predator_si.experiment.evidence import anonymise, write_evidence
from predator_si.records import ExperimentResult
from predator_si.search.events import EXPOSURE_SCHEMA, SHADOW_SCHEMA, EventFrames
from predator_si.search.interleave import team_draft
from predator_si_tests.support.windows import CHALLENGER, CHAMPION, START, action, frames, search

END = START + timedelta(hours=1)
CYCLE = "si_2026_11_22_001"
WHEN: dict[str, Any] = {"cycle_id": CYCLE, "window_start": START, "window_end": END, "now": END}


def faster_trial(n: int = 400, seed: int = 0) -> EventFrames:
    """An A/B with a challenger in a third of the time that is clicked a little more."""
    rng = np.random.default_rng(seed)
    rows, clicks = [], []
    for i in range(n):
        theirs = bool(rng.random() < 0.2)
        model = {"variant": "candidate", "model_digest": CHALLENGER} if theirs else {}
        rows.append(search(i, latency_ms=float(rng.lognormal(np.log(30.0 if theirs else 100.0), 0.4)), simulated=True, **model))
        if rng.random() < (0.7 if theirs else 0.6):
            clicks.append(action(f"r{i}", simulated=True))
    return frames(rows, clicks)


def stored_trial(folder: Path, place: str = "trial/1-ab") -> ExperimentResult:
    """The verdict on it, ``ab_test_results.json`` and the step's result, and its evidence."""
    plain = anonymise(faster_trial(), START, END)
    found = judge_ab(plain, CHAMPION, CHALLENGER, **WHEN)
    result = found.model_copy(update={"evidence": write_evidence(folder, plain, place)})
    (folder / place / "result.json").write_text(result.to_json())
    (folder / "ab_test_results.json").write_text(result.to_json())
    return result


def shadowed(n: int = 120, ratio: float = 0.5, failed: float = 0.0, dropped: float = 0.0, seed: int = 0, **changes: Any) -> EventFrames:
    """Requests that both models scored, the challenger in ``ratio`` times the champion's time."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        status = "dropped" if rng.random() < dropped else "failed" if rng.random() < failed else "scored"
        served = float(rng.lognormal(4.0, 0.5))
        row: dict[str, Any] = dict.fromkeys(SHADOW_SCHEMA) | {
            "query_id": f"r{i}", "timestamp": START + timedelta(seconds=i), "role": "candidate", "status": status, "served_digest": CHAMPION,
            "shadow_digest": CHALLENGER, "release": "0" * 64, "results": [], "served_ms": served,
            "shadow_ms": served * ratio * float(rng.lognormal(0.0, 0.2)) if status == "scored" else None, "simulated": True, "probe": False,
            "seq": i, "writer": "w",
        }  # fmt: skip
        rows.append(row | changes)
    base = frames([search(i) for i in range(n)])
    return EventFrames(base.search, base.actions, base.quarantine, 0, base.losses, shadows=pl.DataFrame(rows, schema=SHADOW_SCHEMA, orient="row"))


def interleaved(n: int = 400, liked: float = 0.7, per_client: int = 1, seed: int = 0, **changes: Any) -> EventFrames:
    """Merged lists of two rankings with no document in common; people click one of the challenger's with probability ``liked``, else one of the champion's."""
    rng = np.random.default_rng(seed)
    ours, theirs = [f"a{i}" for i in range(5)], [f"b{i}" for i in range(5)]
    searches, exposures, clicks = [], [], []
    for i in range(n):
        draft = team_draft(ours, theirs, 5, f"seed-{i}")
        results = [{"object_id": one, "score": None, "first_stage_score": None, "rerank_score": None} for one in draft.ids]
        searches.append(search(i, variant="interleaved", model_digest=None, client_id=f"c{i // per_client}", results=results))
        row: dict[str, Any] = dict.fromkeys(EXPOSURE_SCHEMA) | {
            "query_id": f"r{i}", "timestamp": START + timedelta(seconds=i), "release": "0" * 64, "mode": "interleave", "weight": 0.5, "unit": "client",
            "bucket": 1,
            "variant": "interleaved", "pinned": False, "champion_digest": CHAMPION, "candidate_digest": CHALLENGER, "fell_back": False, "simulated": True,
            "probe": False, "champion_ids": ours, "candidate_ids": theirs, "teams": list(draft.teams), "draft_seed": f"seed-{i}", "seq": i, "writer": "w",
        }  # fmt: skip
        exposures.append(row | changes)
        team = "candidate" if rng.random() < liked else "champion"
        wanted = [one for one, of in zip(draft.ids, draft.teams, strict=True) if of == team]
        if wanted and rng.random() < 0.8:
            clicks.append(action(f"r{i}", object_id=wanted[0]))
    base = frames(searches, clicks)
    return EventFrames(base.search, base.actions, base.quarantine, 0, base.losses, exposures=pl.DataFrame(exposures, schema=EXPOSURE_SCHEMA, orient="row"))
