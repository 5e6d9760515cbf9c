"""What users of other canary judges and deployers complained of, each named after its thread, and how our trial, watch and release answer in that case."""

from __future__ import annotations

import ast
import json
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predator_si.control import Control
from predator_si.experiment import judge_ab
from predator_si.experiment.plan import chain
from predator_si.monitor.exposition import exposition
from predator_si.notify import Place, events_of
from predator_si.records import Answer, CycleState, ExperimentResult, MetricsSnapshot, ServingConfig, Verdict
from predator_si.release.champions import champions_of
from predator_si.release.deny import SEED_DENY
from predator_si.release.deploy import commit_patch, confirm
from predator_si.release.gitops import GitOpsRepo
from predator_si.release.patch import make_patch, make_rollback, promote_changes, trial_changes
from predator_si.release.release_file import parse_release, seed_release
from predator_si.release.watch import WatchCheck, WatchPlan, judge_watch
from predator_si.search.events import EventFrames
from predator_si_tests.support.platform import open_cycle
from predator_si_tests.support.windows import CHALLENGER, CHAMPION, START, frames, search

END = START + timedelta(hours=1)
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64
FILE, CYCLE = "release-local.yaml", "si_2026_11_23_001"
PLAN = WatchPlan(cycle_id=CYCLE, released_digest=NEW, planned_checks=4, min_requests=200, probes_expected=False)


def watched(*counts: tuple[int, int, int], plan: WatchPlan = PLAN) -> Any:
    """A watch over checks of (requests, failures, slow ones)."""
    return judge_watch(plan, [WatchCheck(at=NOW, requests=n, failures=bad, slow=slow, served_digest=NEW, probes={}) for n, bad, slow in counts])


def gate(result: Any, name: str) -> Any:
    return next(found for found in result.gates if found.criterion.name == name)


def requests(n: int, share: float, latency: Any, seed: int = 0) -> EventFrames:
    """A trial whose clients are new each time; ``latency(rng, theirs)`` in milliseconds."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        theirs = bool(rng.random() < share)
        model = {"variant": "candidate", "model_digest": CHALLENGER} if theirs else {}
        rows.append(search(i, client_id=f"c{i}", latency_ms=float(latency(rng, theirs)), simulated=True, **model))
    return frames(rows)


def judged(events: EventFrames) -> ExperimentResult:
    return judge_ab(events, CHAMPION, CHALLENGER, cycle_id=CYCLE, window_start=START, window_end=END, now=END)


def steady(rng: np.random.Generator, theirs: bool) -> float:
    return float(rng.lognormal(np.log(100.0), 0.4))


# --------------------------------------------------------------------------- no data


def test_argo_rollouts_1466_an_empty_result_does_not_abort() -> None:
    """There an empty answer of Prometheus was an error, and errors abort. Here nothing measured is unknown: neither kept nor rolled back."""
    result = watched((0, 0, 0))
    assert result.answer == "continue" and gate(result, "errors").answer is Answer.UNKNOWN
    assert judged(frames([])).verdict is Verdict.INCONCLUSIVE


def test_argo_rollouts_1905_flagger_1633_1501_no_traffic_waits() -> None:
    """Also past the planned checks: a release is never called stable, and a challenger never promoted, for lack of traffic."""
    for checks in (4, 40):
        assert watched(*[(0, 0, 0)] * checks).answer == "continue"
    assert watched(*[(0, 0, 0)] * 4, *[(60, 0, 0)] * 4).answer == "keep", "and traffic that comes later decides"


def test_kayenta_799_377_a_baseline_without_data_is_no_comparison() -> None:
    """All clients met the challenger: whatever its numbers are, they are compared with nothing."""
    result = judged(requests(400, 1.0, steady))
    assert result.verdict is Verdict.INCONCLUSIVE and result.requests["champion"] == 0


# --------------------------------------------------------------------------- numbers that were let through


def test_spinnaker_6278_seven_of_ten_samples_a_hundred_times_slower_do_not_pass() -> None:
    result = judged(requests(600, 0.2, lambda rng, theirs: steady(rng, theirs) * (100.0 if theirs and rng.random() < 0.7 else 1.0)))
    assert result.verdict is Verdict.REJECT and "latency" in result.reason
    assert watched((60, 0, 42)).answer == "rollback"


def test_kayenta_780_more_spread_around_the_same_middle_is_seen() -> None:
    """The median stays, the tail does not: P95 is judged beside the mean, and the watch counts slow requests."""

    def wider(rng: np.random.Generator, theirs: bool) -> float:
        return float(rng.lognormal(np.log(100.0), 1.4 if theirs else 0.2))

    result = judged(requests(3000, 0.2, wider))
    assert result.verdict is Verdict.REJECT
    failed = {found.criterion.metric for found in result.guardrails if found.answer is Answer.FAIL}
    assert "p95_latency_ms" in failed
    assert watched(*[(60, 0, 9)] * 4).answer == "rollback"


def test_kayenta_426_sparse_errors_add_up() -> None:
    """Two failures of sixty prove nothing; the same in each of many checks does, because evidence is kept from look to look."""
    assert watched((60, 2, 0)).answer == "continue"
    result = watched(*[(60, 2, 0)] * 30)
    assert result.answer == "rollback" and gate(result, "errors").answer is Answer.FAIL


# --------------------------------------------------------------------------- the split


def test_kserve_5335_4074_a_split_that_is_silently_ignored_is_invalid() -> None:
    """The share was asked for and nobody got it; the trial's numbers are about nothing."""
    result = judged(requests(1000, 0.0, steady))
    assert result.verdict is Verdict.INCONCLUSIVE and result.requests["challenger"] == 0
    assert judged(requests(1000, 0.4, steady)).reason.startswith("invalid")


def test_kserve_2130_a_route_that_leaks_from_an_earlier_canary_is_invalid() -> None:
    mixed = [search(i, client_id=f"c{i}", simulated=True) for i in range(300)]
    mixed += [search(300 + i, client_id=f"d{i}", simulated=True, variant="candidate", model_digest=CHALLENGER) for i in range(75)]
    mixed += [search(400 + i, client_id=f"e{i}", simulated=True, variant="candidate", model_digest="sha256:" + "9" * 64) for i in range(40)]
    result = judged(frames(mixed))
    assert result.verdict is Verdict.INCONCLUSIVE and result.reason.startswith("invalid") and result.requests["other"] == 40


@pytest.mark.parametrize("ramp", [(), (0.03,), (0.03, 0.07, 0.19)])
def test_flagger_189_the_last_step_is_the_share_that_was_asked_for(ramp: tuple[float, ...]) -> None:
    """There a maximum that was no multiple of the step was never reached, and success was reported all the same."""
    steps = chain(("ab",), split=0.2, ramp=ramp, min_samples=100)
    assert [step.share for step in steps] == [*ramp, 0.2]


# --------------------------------------------------------------------------- the way back


def _repo(path: Path) -> GitOpsRepo:
    GitOpsRepo.init_bare(path / "gitops.git", {FILE: seed_release(ServingConfig(model=OLD, depth=20), "local"), "deny.yaml": SEED_DENY})
    repo = GitOpsRepo(path / "gitops.git", path / "work")
    repo.sync()
    return repo


def _committed(repo: GitOpsRepo, changes: dict[str, Any], stage: Any, cycle_id: str = CYCLE) -> Any:
    return commit_patch(repo, make_patch(repo.show(FILE), changes, cycle_id=cycle_id, stage=stage, file=FILE), stage)


def test_flagger_1694_1186_the_way_back_is_whole_at_once_and_in_git(tmp_path: Path) -> None:
    """No ramp down on the way back: one commit takes every client off a challenger that does harm."""
    repo = _repo(tmp_path)
    trial = _committed(repo, trial_changes(ServingConfig(model=NEW, depth=20), 0.5), "trial")
    back = make_rollback(repo.show(FILE), [trial])
    assert (back.changes["reranker.candidateWeight"], back.changes["reranker.candidate"]) == (0.0, None)
    assert commit_patch(repo, back, "rollback").commit == repo.head() != trial.commit
    assert parse_release(repo.show(FILE), FILE).reranker.candidate_weight == 0.0


def test_mlflow_2169_who_was_champion_when_is_known_from_git(tmp_path: Path) -> None:
    """An alias forgets what it pointed to; the branch does not."""
    repo = _repo(tmp_path)
    released = _committed(repo, promote_changes(ServingConfig(model=NEW, depth=20)), "promote")
    back = commit_patch(repo, make_rollback(repo.show(FILE), [released]), "rollback: worse")
    repo.sync()
    spans = champions_of(repo, FILE, "local")
    assert [span.digest for span in spans] == [OLD, NEW, OLD]
    assert [span.commit for span in spans][1:] == [released.commit, back.commit]
    assert [span.cycle_id for span in spans] == [None, CYCLE, CYCLE]


def test_argo_rollouts_457_2087_what_was_taken_back_is_counted_and_told(tmp_path: Path) -> None:
    """There an abort left nothing to count. Here it is a ledger record, a critical message, and a number for Prometheus."""
    control = Control(tmp_path / "control.db")
    cycle_id = open_cycle(control).cycle_id
    for state in (CycleState.RELEASED, CycleState.WATCHING, CycleState.ROLLED_BACK):
        control.transition(cycle_id, state, "worse", "loop")
    control.append("rollback", "loop", cycle_id, "ndcg fell", {"verified": True, "to": OLD})
    told = events_of(control.records(100), Place("http://ops.example.org", "local"))
    assert [(one.kind, one.severity) for one in told if one.kind == "rollback"] == [("rollback", "critical")]
    counts = Counter(cycle.state.value for cycle in control.cycles(100, "local"))
    snapshot = MetricsSnapshot(snapshot_id="s", contour="local", created_at=NOW, window_start=NOW, window_end=NOW, champion=OLD, metrics={})
    lines = exposition(snapshot, cycles=counts).decode().splitlines()
    assert 'predator_si_quality_cycles{contour="local",state="rolled_back"} 1.0' in lines


def test_mlflow_10336_the_registry_is_asked_for_aliases_and_never_for_stages() -> None:
    package = Path(__file__).resolve().parents[2] / "predator_si"
    words = {
        word
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for word in ([node.attr] if isinstance(node, ast.Attribute) else [one.arg for one in node.keywords] if isinstance(node, ast.Call) else [])
    }
    assert "set_registered_model_alias" in words, "it would be seen"
    assert not {"transition_model_version_stage", "get_latest_versions", "current_stage", "archive_existing_versions"} & words


def test_nvidia_flywheel_deployed_is_not_ready() -> None:
    """A word about a state is not believed, whichever word it is: only the digest of the bytes that the service loaded."""
    told = {"status": "deployed", "ready": True, "model_id": "new", "expected": NEW, "variants": {"champion": {"model_id": "new", "model_sha": OLD}}}

    class Service(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/info"
        assert not confirm(url, NEW, "champion", 0.0, cycle_id=CYCLE, stage="promote", commit="c").confirmed
        told["variants"] = {"champion": {"model_id": "new", "model_sha": NEW}}
        assert confirm(url, NEW, "champion", 10.0, cycle_id=CYCLE, stage="promote", commit="c").confirmed
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
