"""`bench metrics` in its quick form: the keys that CONTRACT.md asks for, and the same values as three peers. Its timings are for a quiet machine."""

from __future__ import annotations

import json

import pytest

from predator_si.cli import main
from predator_si.errors import BadInput
from predator_si.proof import synthetic_events
from predator_si.proof.bench_metrics import bench_metrics

KEYS = [
    "events",
    "seconds",
    "peak_rss_mb",
    "peer_queries",
    "ratio_pytrec_eval",
    "ratio_ranx",
    "ratio_ir_measures",
    "max_abs_difference",
    "slope",
    "tick_seconds",
]


@pytest.mark.slow
@pytest.mark.live
def test_the_quick_form_agrees_with_its_peers(tmp_path):
    target = tmp_path / "bench.json"
    with pytest.raises(SystemExit) as ended:
        main(["bench", "metrics", "--events", "100000", "--folder", str(tmp_path), "--json", str(target)])
    found = json.loads(target.read_text())
    assert ended.value.code in (0, None) and set(KEYS) <= set(found) and {"scale", "cores", "versions", "seed"} <= set(found)
    assert found["events"] == found["peer_queries"] == 100_000
    assert found["max_abs_difference"] <= 1e-9
    assert all(n > 90_000 for n in found["compared"].values())  # 95 of 100 requests are judged
    assert found["seconds"] > 0 and found["peak_rss_mb"] > 50 and found["ratio_pytrec_eval"] > 0
    assert found["slope"] is None and found["tick_seconds"] is None  # one size has no slope, and a tick is a million requests
    assert list(tmp_path.glob("predator-si-bench-*")) == []


def test_wrong_sizes_and_full_disks_are_refused(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="multiple"):
        bench_metrics(150_000, folder=tmp_path)
    monkeypatch.setattr(synthetic_events, "BYTES_PER_EVENT", 10**12)
    with pytest.raises(Exception, match="roomier"):
        bench_metrics(100_000, folder=tmp_path)
