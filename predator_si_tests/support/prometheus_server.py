"""A real Prometheus on a free port of loopback, scraping what a test names once a second."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from predator_si_tests.support.waiting import free_port, wait_until

PROGRAM = "prometheus"
ABSENT = "the program prometheus is not on PATH"


@dataclass(frozen=True)
class PrometheusServer:
    """A running Prometheus."""

    url: str

    def query(self, promql: str, time: float | None = None) -> list[dict[str, Any]]:
        """The result of an instant query; the test fails where Prometheus refuses it."""
        found = httpx.get(f"{self.url}/api/v1/query", params={"query": promql} | ({} if time is None else {"time": time}), timeout=10, trust_env=False)
        assert found.status_code == 200, found.text
        result: list[dict[str, Any]] = found.json()["data"]["result"]
        return result

    def targets_up(self) -> int:
        """How many targets were scraped with success the last time."""
        return sum(float(one["value"][1]) == 1.0 for one in self.query("up"))


def prometheus_is_here() -> bool:
    """Whether this machine has Prometheus."""
    return shutil.which(PROGRAM) is not None


@contextmanager
def prometheus_server(
    jobs: Mapping[str, int], *, rules: Mapping[str, Any] | str | None = None, interval: str = "1s", settings: Mapping[str, Any] | None = None
) -> Iterator[PrometheusServer]:
    """Start Prometheus and wait until it has scraped every job; end it and its folder.

    Parameters
    ----------
    jobs
        Job name -> port on loopback that serves ``/metrics``.
    rules
        A rule file's content, as a mapping or as text.
    interval
        Between scrapes and between evaluations.
    settings
        Further top-level keys of the configuration, for example ``alerting``.
    """
    folder = Path(tempfile.mkdtemp(prefix="prom-"))
    configuration: dict[str, Any] = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "scrape_configs": [{"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for job, port in jobs.items()],
    } | dict(settings or {})
    if rules is not None:
        (folder / "rules.yml").write_text(rules if isinstance(rules, str) else yaml.safe_dump(dict(rules)))
        configuration["rule_files"] = [str(folder / "rules.yml")]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    port = free_port()
    command = [PROGRAM, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    try:
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([*command, "--log.level=warn"], stdout=log, stderr=log, cwd=folder, start_new_session=True)
        server = PrometheusServer(f"http://127.0.0.1:{port}")
        try:
            wait_until(lambda: _ready(server, process, folder / "log"), 30, "readiness of Prometheus")
            wait_until(lambda: server.targets_up() >= len(jobs), 30, f"a scrape of each of {', '.join(jobs) or 'no jobs'}")
            yield server
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=10)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ready(server: PrometheusServer, process: subprocess.Popen[bytes], log: Path) -> bool:
    if process.poll() is not None:
        raise AssertionError(f"Prometheus ended at once: {log.read_text(errors='replace')[-2000:]}")
    try:
        return httpx.get(f"{server.url}/-/ready", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
