"""Exposures and shadow events on disk: numbered, rolled up, read back, lost countably, and none of the raw layer's business."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from predator_si.monitor.intake import Intake
from predator_si.monitor.sources import Spool
from predator_si.records import ExposureEvent, ScoredDocument, SearchEvent, ShadowEvent, utc_now
from predator_si.search.events import EXPOSURE_SCHEMA, SHADOW_SCHEMA, EventFrames, hour_name, read_events
from predator_si.search.rollup import roll_up
from predator_si.search.spool import EventSpool

DIGEST = f"sha256:{'a' * 64}"


def exposure(query_id: str, when: datetime) -> ExposureEvent:
    return ExposureEvent(
        query_id=query_id, timestamp=when, release="r", mode="interleave", weight=0.5, unit="client", bucket=17, variant="interleaved", champion_digest=DIGEST,
        candidate_digest=DIGEST, champion_ids=("a", "b"), candidate_ids=("b", "a"), teams=("champion", "candidate"), draft_seed="s", champion_ms=1.5,
        candidate_ms=2.5, scored_first="champion",
    )  # fmt: skip


def shadow(query_id: str, when: datetime, status: str = "scored") -> ShadowEvent:
    results = (ScoredDocument(object_id="a", score=1.0, first_stage_score=0.5, rerank_score=2.0),)
    return ShadowEvent(
        query_id=query_id, timestamp=when, role="previous", status=status,  # type: ignore[arg-type]
        served_digest=DIGEST, shadow_digest=DIGEST, release="r", depth=5, results=results, served_ms=3.0, shadow_ms=4.0, served_cpu_seconds=0.003,
        shadow_cpu_seconds=0.004, served_scored=5, shadow_scored=5, scored_first="shadow", waited_ms=0.5,
    )  # fmt: skip


def read(folder: Path, now: datetime) -> EventFrames:
    return read_events(folder, now - timedelta(hours=2), now + timedelta(hours=2))


def test_schemas_are_those_of_the_records() -> None:
    assert list(EXPOSURE_SCHEMA) == list(ExposureEvent.model_fields)
    assert list(SHADOW_SCHEMA) == list(ShadowEvent.model_fields)


def test_what_was_written_is_read_back_from_spool_and_parquet_alike(tmp_path: Path) -> None:
    now = utc_now()
    folder = tmp_path / "home" / "service" / "events"
    spool = EventSpool(folder, now=lambda: now)
    for number in range(3):
        spool.add_search(SearchEvent(query_id=f"q{number}", timestamp=now, user_query="w", status=200, latency_ms=1.0))
        spool.add_exposure(exposure(f"q{number}", now))
    spool.add_shadow(shadow("q0", now))
    spool.add_shadow(shadow("q1", now, "dropped"))
    spool.close()
    before = read(folder, now)
    assert ExposureEvent.model_validate(before.exposures.row(1, named=True)) == exposure("q1", now).model_copy(update={"seq": 2, "writer": spool.writer})
    assert ShadowEvent.model_validate(before.shadows.row(0, named=True)) == shadow("q0", now).model_copy(update={"seq": 1, "writer": spool.writer})
    assert before.shadows["status"].to_list() == ["scored", "dropped"] and (before.lost, before.unknown) == (0, ())
    assert roll_up(folder, hour_name(now + timedelta(hours=1))) == 1
    after = read(folder, now)
    assert not list((folder / "spool").iterdir()) and after.exposures.equals(before.exposures) and after.shadows.equals(before.shadows)
    assert (after.lost, len(after.quarantine)) == (0, 0)
    report = Intake(tmp_path / "telemetry", None).run([Spool(folder)])
    assert sum(report.quarantined.values()) == 0 and report.good.get("search", 0) == 3 and set(report.good) <= {"search", "action"}


def test_a_lost_shadow_event_is_counted_as_what_it_is_and_a_damaged_line_is_set_aside(tmp_path: Path) -> None:
    now = utc_now()
    spool = EventSpool(tmp_path)
    for number in range(3):
        spool.add_shadow(shadow(f"q{number}", now))
    spool.close()
    path = next((tmp_path / "spool").glob("*.jsonl"))
    lines = path.read_text().splitlines()
    broken = json.dumps({**json.loads(lines[2]), "role": "nobody"})
    path.write_text("\n".join([lines[0], broken, *lines[3:]]) + "\n")  # the second is gone, the third is no shadow event
    frames = read(tmp_path, now)
    assert frames.shadows["query_id"].to_list() == ["q0"] and len(frames.quarantine) == 1 and "role" in frames.quarantine["reason"][0]
    assert frames.losses.select("kind", "lost").rows() == [("shadow", 2)]


def test_the_raw_layer_takes_searches_from_a_spool_that_holds_more(tmp_path: Path) -> None:
    now = utc_now()
    spool = EventSpool(tmp_path / "events")
    spool.add_exposure(exposure("q0", now))
    spool.add_search(SearchEvent(query_id="q0", timestamp=now, user_query="w", status=200, latency_ms=1.0, variant="interleaved"))
    spool.add_shadow(shadow("q0", now))
    spool.close()
    report = Intake(tmp_path / "telemetry", None).run([Spool(tmp_path / "events")])
    assert report.good == {"search": 1} | ({"action": 0} if "action" in report.good else {}) and sum(report.quarantined.values()) == 0


def test_no_exposure_can_claim_an_impossible_bucket() -> None:
    with pytest.raises(ValueError, match="bucket"):
        ExposureEvent.model_validate({**exposure("q", utc_now()).model_dump(), "bucket": 10_000})
