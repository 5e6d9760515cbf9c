"""Two contours on one branch: a release of the first that was watched to its end, and a stand-in for the service of the next."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from predator_si.orchestration.loop import Loop
from predator_si.records import CycleState, Decision, Evaluation, Interval, ServingConfig, Verdict, WatchResult, utc_now
from predator_si.release.deploy import commit_changes
from predator_si.release.release_file import parse_release
from predator_si_tests.support.platform import ndcg_trigger

NEXT = "compute-nvidia"


class NextService:
    """The search service of a contour: ``GET /info`` says what its release file in Git says, or what it is told to say.

    Parameters
    ----------
    loop
        Through whose clone Git is read.
    has
        The digests whose bytes it has: another one it cannot load, and serves on what it served; null: all.
    port
        To listen on; 0: a free one.
    """

    def __init__(self, loop: Loop, has: Callable[[str], bool] | None = None, port: int = 0) -> None:
        self.stuck_on: str | None = None
        self._has, self._serves = has or (lambda _: True), ""
        peer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(peer.info(loop)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join(10)

    def info(self, loop: Loop) -> dict[str, Any]:
        loop.repo.sync()
        release = parse_release(loop.repo.show(f"release-{NEXT}.yaml"), "it")
        serving = release.serving
        self._serves = serving.model if self._has(serving.model) else self._serves
        arm = {"model_sha": self.stuck_on or self._serves, "depth": serving.depth, "fusion_weight": serving.fusion_weight, "early_exit": serving.early_exit}
        return {"variants": {"champion": arm, "candidate": None}, "ingest": {"workers": 1}, "index": {"build": "first"}}


def stable_release(loop: Loop, old: str, new: str, *, contour: str = "local") -> str:
    """A cycle of this contour whose release was watched to its end, with the evidence that it left."""
    cycle_id, now = loop.control.open_cycle(contour, ndcg_trigger(), "test", "a test wants it").cycle_id, utc_now()
    sides = {"champion": ServingConfig(model=old, depth=8, fusion_weight=0.2), "challenger": ServingConfig(model=new, depth=8, fusion_weight=0.2)}
    gain = Interval(estimate=0.05, low=0.02, high=0.08, p_value=0.001, n=50, sd=0.1)
    evaluation = Evaluation(
        cycle_id=cycle_id, **sides, corpus="toy", split="test", n_queries=50, ndcg_champion=0.5, ndcg_challenger=0.55, ndcg_difference=gain, created_at=now
    )
    loop.save(cycle_id, "evaluation.json", evaluation)
    decided = Decision(
        cycle_id=cycle_id, stage="promote", verdict=Verdict.PROMOTE, gates=[], policy="full", approval_required=False, **sides, reason="better", created_at=now
    )
    loop.save(cycle_id, "decision-promote.json", decided)
    watched = WatchResult(cycle_id=cycle_id, checks=[], requests=100, failed_requests=0, answer="keep", gates=[], reason="all checks passed", created_at=now)
    loop.save(cycle_id, "watch.json", watched)
    commit_changes(loop.repo, loop.release_name, {"reranker.champion": new}, "deploy: new", cycle_id, "promote")
    for state in (CycleState.EVALUATED, CycleState.RELEASED, CycleState.STABLE):
        loop.control.transition(cycle_id, state, "a test says so", "loop")
    return cycle_id
