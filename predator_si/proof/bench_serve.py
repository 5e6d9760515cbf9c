"""`bench serve`: what a trial costs the person who searches: plain, with a model in shadow, with shared lists; in one service, by turns.

What belongs here: a service of its own, blocks of requests, the figures. What must not: how shadow and shared lists work (``search``).

One service process answers one closed-loop client. The release file is changed between blocks, and a block begins once the service follows it and nothing waits
for the shadow, so that work of one arm never falls on another. The shadow's process is up in every arm; where nothing is sampled it sleeps. In a round every
arm is sent the same queries, in an order of arms that is drawn anew; each request comes from a client of its own, and no score is cached. Intervals resample
rounds.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.errors import BadInput, Unavailable
from predator_si.provenance import provenance
from predator_si.quiet import quiet_environment
from predator_si.records import ServingConfig, utc_now
from predator_si.release.patch import apply_patch, make_patch, shadow_changes, trial_changes
from predator_si.release.release_file import release_name, seed_release
from predator_si.search.events import read_events
from predator_si.search.index_versions import IndexVersions
from predator_si.search.models import ModelStore
from predator_si.search.ranking import SearchIndex
from predator_si.train.export import export

Tell = Callable[[str], None]
OnProgress = Callable[[int, int], None]
Times = npt.NDArray[np.float64]
ARMS = ("plain", "shadow", "interleave")
LIMIT = 1.05
"""P95 of a user's request with a tenth of the requests in shadow, relative to plain, at most."""
_FULL = 600
"""Requests of each arm from which on a run counts as full."""
_QUANTILES = (50, 95, 99)
_DRAWS = 2000
_WARM_UP = 3
_PATIENCE = 300.0


@dataclass(frozen=True)
class ServePlan:
    """Sizes of a run.

    Attributes
    ----------
    rounds, requests
        Rounds, and measured requests of each arm in a round.
    share
        Of the requests that are scored in shadow.
    length
        Input of the champion in tokens. The other model has the same weights and eight tokens less: another digest at the same cost.
    backend
        What both models run on.
    """

    rounds: int = 20
    requests: int = 40
    share: float = 0.1
    depth: int = 20
    length: int = 128
    backend: str = "torch-fp32"
    threads: int | None = None
    seed: int = 0


def bench_serve(
    queries: list[str],
    index: SearchIndex,
    embedder: Path,
    model: Path,
    work: Path,
    plan: ServePlan,
    *,
    tell: Tell = lambda _: None,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Serve the three arms by turns and time every request at the client.

    Parameters
    ----------
    queries
        Texts, used in turn; never sealed ones, their answers are not judged.
    embedder
        Folder of the bi-encoder that ``index`` was built with.
    model
        Folder of a torch cross-encoder.
    work
        An empty folder for the service's home.

    Returns
    -------
    dict
        ``arms`` (name, n, and for each quantile milliseconds with an interval), ``p95_ratio`` and ``p95_ratio_ci`` by arm against plain, ``shadow`` (counts,
        priority, log ratios of the two models' times), and what every object of figures has.

    Raises
    ------
    BadInput
        No queries, or numbers out of their range.
    Unavailable
        The service ends, or does not follow a release.
    """
    if not queries or plan.rounds < 2 or plan.requests < 2 or not 0 < plan.share <= 1:
        raise BadInput("bench serve: at least one query, two rounds, two requests a round and a share above 0, up to 1, are needed.")
    tell("preparing the models and the index")
    releases = _home(work, index, model, plan)
    tell("starting the service")
    began = utc_now()
    with _service(work, embedder, plan) as url, httpx.Client(base_url=url, timeout=60.0, trust_env=False) as client:
        found, failed = _rounds(client, work, releases, queries, plan, tell, on_progress)
        client.post("/flush").raise_for_status()
        shadow = client.get("/info").json()["shadow"]
    events = read_events(work / "service" / "events", began - timedelta(hours=1), utc_now() + timedelta(minutes=5), open_text=False)
    ratios = {arm: _ratio(found[arm], found["plain"], plan.seed) for arm in ARMS[1:]}
    return {
        **provenance("full" if plan.rounds * plan.requests >= _FULL else "small", plan.seed),
        "arms": [_arm(name, times, plan.seed) for name, times in found.items()],
        "p95_ratio": {arm: ratio[0] for arm, ratio in ratios.items()},
        "p95_ratio_ci": {arm: ratio[1] for arm, ratio in ratios.items()},
        "within_limit": ratios["shadow"][0] <= LIMIT,
        "requests": 3 * plan.rounds * plan.requests,
        "failed_requests": failed,
        "share": plan.share,
        "depth": plan.depth,
        "backend": plan.backend,
        "max_length": plan.length,
        "rounds": plan.rounds,
        "shadow": {**{key: shadow[key] for key in ("scored", "dropped", "failed", "priority")}, **_compared(events.shadows)},
        "interleaved": events.exposures.filter(pl.col("teams").list.len() > 0).height,
    }


def _home(work: Path, index: SearchIndex, model: Path, plan: ServePlan) -> dict[str, str]:
    """A home to serve from; the release file of each arm."""
    IndexVersions(work / "service" / "index").publish(index)
    store = ModelStore(work / "models")
    raw = store.add(model, name=model.name, backend="torch-fp32", max_length=512, base=model.name)
    champion, other = (ServingConfig(model=export(store, raw, plan.backend, length), depth=plan.depth) for length in (plan.length, plan.length - 8))
    file = release_name("local")
    asleep = shadow_changes(other, champion, 0.0)
    changes = {
        "plain": asleep,
        "shadow": shadow_changes(other, champion, plan.share),
        "interleave": {**asleep, **trial_changes(other, 1.0, champion, "interleave")},
    }
    seed = seed_release(champion, "local")
    releases = {arm: apply_patch(seed, make_patch(seed, keys, cycle_id="si_2000_01_01_001", stage="trial", file=file)) for arm, keys in changes.items()}
    _apply(work, releases["plain"])
    return releases


def _apply(work: Path, text: str) -> None:
    path = work / "applied" / release_name("local")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


@contextmanager
def _service(work: Path, embedder: Path, plan: ServePlan) -> Iterator[str]:
    command = [sys.executable, "-m", "predator_si.search", "--home", str(work), "--port", "0", "--embedder", str(embedder)]
    command += [] if plan.threads is None else ["--threads", str(plan.threads)]
    environment = {**os.environ, **quiet_environment(offline=True), "PYTHONUNBUFFERED": "1"}
    with (work / "service.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if "http://" not in line:
                raise Unavailable(f"the search service did not start: {(work / 'service.log').read_text()[-500:]}")
            yield line[line.index("http://") :].split()[0]
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def _rounds(
    client: httpx.Client, work: Path, releases: dict[str, str], queries: list[str], plan: ServePlan, tell: Tell, on_progress: OnProgress | None
) -> tuple[dict[str, Times], int]:
    """Milliseconds by arm (rounds x requests), and how many requests failed: then their place is the time until they failed."""
    rng = np.random.default_rng(plan.seed)
    found = {arm: np.zeros((plan.rounds, plan.requests)) for arm in ARMS}
    failed = done = number = 0
    for arm in ARMS:  # each arm's models are loaded, and every shape compiled, before anything is timed
        tell(f"warming up: {arm}")
        _follow(client, work, releases[arm])
        for query in queries[: 2 * _WARM_UP]:
            client.post("/search", json={"query": query[:1000], "probe": True, "shadow": True}).raise_for_status()
    tell("measuring, by turns")
    for turn in range(plan.rounds):
        start = turn * plan.requests
        for arm in rng.permutation(ARMS):
            _follow(client, work, releases[arm])
            for place in range(-_WARM_UP, plan.requests):
                number += 1
                body = {"query": queries[(start + place) % len(queries)][:1000], "client_id": f"bench-{plan.seed}-{number}", "simulated": True}
                sent = time.perf_counter()
                answer = client.post("/search", json=body)
                took = (time.perf_counter() - sent) * 1e3
                if place < 0:
                    continue
                found[arm][turn, place] = took
                wrong = (
                    answer.status_code != 200 or answer.json()["degraded"] or answer.json()["variant"] != ("interleaved" if arm == "interleave" else "champion")
                )
                failed += int(wrong)
                done += 1
                if on_progress is not None:
                    on_progress(done, 3 * plan.rounds * plan.requests)
        # what a release's digest says is what was served; nothing else may have been timed
        if client.get("/info").json()["release"]["sha256"] != hashlib.sha256(releases[arm].encode()).hexdigest():
            raise Unavailable("the service changed its release while it was measured. Is somebody else writing to its home?")
    return found, failed


def _follow(client: httpx.Client, work: Path, text: str) -> None:
    """Apply a release and wait until the service follows it and no shadow work is left."""
    _apply(work, text)
    wanted = hashlib.sha256(text.encode()).hexdigest()
    deadline = time.monotonic() + _PATIENCE
    while True:
        info = client.get("/info").json()
        if info["release"]["sha256"] == wanted and info["shadow"]["queued"] == 0 and info["shadow"]["priority"] is not None:
            return
        if time.monotonic() > deadline:
            raise Unavailable(f"the service does not follow a release after {_PATIENCE:g} s: {info['release']['error'] or info['shadow']['error']}.")
        time.sleep(0.05)


def _arm(name: str, times: Times, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng([seed, 1])
    drawn = [np.percentile(times[rng.integers(len(times), size=len(times))], _QUANTILES) for _ in range(_DRAWS)]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    values = np.percentile(times, _QUANTILES)
    quantiles = {f"p{q}_ms": float(values[i]) for i, q in enumerate(_QUANTILES)}
    intervals = {f"p{q}_ci": [float(low[i]), float(high[i])] for i, q in enumerate(_QUANTILES)}
    return {"name": name, "n": int(times.size), **quantiles, **intervals, "mean_ms": float(times.mean())}


def _ratio(times: Times, plain: Times, seed: int) -> tuple[float, list[float]]:
    """P95 against plain, with a 95% interval: the same rounds of both are drawn."""
    rng = np.random.default_rng([seed, 2])
    drawn = []
    for _ in range(_DRAWS):
        rows = rng.integers(len(times), size=len(times))
        drawn.append(np.percentile(times[rows], 95) / np.percentile(plain[rows], 95))
    return float(np.percentile(times, 95) / np.percentile(plain, 95)), [float(bound) for bound in np.percentile(drawn, [2.5, 97.5])]


def _compared(shadows: pl.DataFrame) -> dict[str, Any]:
    """Mean log ratio of the two models' times on the same request, with its standard error: near 0, since both cost the same here."""
    scored = shadows.filter((pl.col("status") == "scored") & ~pl.col("probe"))
    answer: dict[str, Any] = {"n": scored.height, "waited_p95_ms": scored["waited_ms"].quantile(0.95) if scored.height else None}
    for name, one, other in (("wall", "shadow_ms", "served_ms"), ("cpu", "shadow_cpu_seconds", "served_cpu_seconds")):
        logs = scored.filter((pl.col(one) > 0) & (pl.col(other) > 0)).select((pl.col(one) / pl.col(other)).log())[:, 0].to_numpy()
        answer[f"log_ratio_{name}"] = float(logs.mean()) if len(logs) else None
        answer[f"log_ratio_{name}_sd"] = float(logs.std(ddof=1)) if len(logs) > 1 else None
    return answer
