"""What the chart would start: its own command lines, over the ConfigMap that it renders, asked what its own probes ask."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from predator_si.search.index_versions import IndexVersions
from predator_si.search.retrieve import HybridIndex
from predator_si.search.tiny import HashingEmbedder
from predator_si_tests.support.charts import one, rendered
from predator_si_tests.support.tiny_models import store_tiny, toy_texts
from predator_si_tests.support.waiting import free_port, wait_until

pytestmark = [pytest.mark.live, pytest.mark.slow]
CONTOUR = "edge-oracle"


@pytest.fixture
def home(tmp_path: Path) -> tuple[Path, list[str]]:
    """A home with an index and two tiny models; and their digests."""
    embedder = HashingEmbedder()
    embedder.save(tmp_path / "embedder")
    documents = pl.DataFrame([(f"d{i}", f"Title {i}", text) for i, text in enumerate(toy_texts())], schema=["doc_id", "title", "text"], orient="row")
    IndexVersions(tmp_path / "service" / "index").publish(HybridIndex.build(documents, embedder))
    return tmp_path, [store_tiny(tmp_path, seed)[1] for seed in (0, 1)]


def search_pods(champion: str) -> list[dict[str, Any]]:
    release = {"reranker": {"champion": champion, "depth": 5}, "fusion": {"weights": {"rerank": 0.7, "firstStage": 0.3}}}
    return rendered(CONTOUR, release)


def apply(objects: list[dict[str, Any]], home: Path) -> None:
    """As the kubelet does with a mounted ConfigMap."""
    name = next(v for v in pod(objects, "search")["volumes"] if v["name"] == "release")["configMap"]["name"]
    data = next(each for each in objects if each["metadata"]["name"] == name)["data"]
    folder = home / "applied"
    folder.mkdir(exist_ok=True)
    for file, text in sorted(data.items()):
        (folder / f".{file}").write_text(text, encoding="utf-8")
        (folder / f".{file}").replace(folder / file)


def pod(objects: list[dict[str, Any]], component: str) -> dict[str, Any]:
    spec: dict[str, Any] = one(objects, "Deployment", component)["spec"]["template"]["spec"]
    return spec


def probe(objects: list[dict[str, Any]], component: str, kind: str = "readinessProbe") -> str:
    return str(pod(objects, component)["containers"][0][kind]["httpGet"]["path"])


@contextmanager
def started(objects: list[dict[str, Any]], component: str, home: Path) -> Iterator[str]:
    """The container's command as it stands, but for what one machine has otherwise: interpreter, folder, address, port."""
    container, port = pod(objects, component)["containers"][0], free_port()
    instead = {"python": sys.executable, "/var/lib/predator-si": str(home), "0.0.0.0": "127.0.0.1", "8080": str(port)}
    command = [instead.get(word, word) for word in container["command"]]
    environment = {each["name"]: each["value"] for each in container["env"] if each["name"] not in ("HOME", "PREDATOR_SI_CACHE")}
    process = subprocess.Popen(command, env={**os.environ, **environment, "OMP_NUM_THREADS": "1"})
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, f"{component} ended with {process.returncode}"
        try:
            return httpx.get(url + probe(objects, component, "startupProbe"), timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_until(answers, 120, f"the start of {component}")
        yield url
    finally:
        process.terminate()
        process.wait(60)


def test_the_chart_s_processes_share_a_home_and_are_ready_with_their_release(home: tuple[Path, list[str]]):
    folder, (old, new) = home
    before, after = search_pods(old), search_pods(new)
    apply(before, folder)
    with started(before, "search-ingest", folder) as owner, started(before, "search", folder) as reader:
        for url, component in ((owner, "search-ingest"), (reader, "search")):
            assert httpx.get(url + probe(before, component)).status_code == 200
            late = httpx.get(url + probe(after, component))
            assert late.status_code == 503 and new in late.json()["detail"], "not ready for a release that it was not started with"
        added = {"documents": [{"doc_id": "new", "title": "New", "text": "how to pivot a frame"}]}
        assert httpx.post(f"{reader}/documents", json=added).status_code == 503
        assert httpx.post(f"{owner}/documents", json=added).status_code == 202

        def found() -> bool:
            results = httpx.post(f"{reader}/search", json={"query": "pivot a frame", "k": 3}).json()["results"]
            return "new" in {result["object_id"] for result in results}

        wait_until(found, 60, "what the owner indexed is found by the reader")
        apply(after, folder)
        wait_until(lambda: httpx.get(reader + probe(after, "search")).status_code == 200, 60, "the next release")
        assert httpx.get(reader + probe(before, "search")).status_code == 503
        assert httpx.get(f"{reader}/info").json()["model_sha"] == new
