"""`predator-si up` on a home that never was: it sets itself up, everything answers, the daemon ticks, Ctrl-C ends all."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from predator_si.api.client import OptimizerClient
from predator_si.cli.supervisor import running, take_down
from predator_si.control import Control
from predator_si.home import Home
from predator_si.orchestration.loop import Loop
from predator_si.proof.prepare import not_prepared, prepare_for_service
from predator_si.quiet import quiet_environment
from predator_si.search.models import model_digest
from predator_si.search.tiny import tiny_cross_encoder
from predator_si.settings import DEMO_SCALES, Settings, load_settings
from predator_si_tests.support.platform import TOPICS, write_toy_corpus
from predator_si_tests.support.waiting import free_port, wait_until

pytestmark = [pytest.mark.live, pytest.mark.slow]

STATE = """{
  repositoryOrError(repositorySelector: {repositoryLocationName: "predator_si", repositoryName: "__repository__"}) {
    __typename
    ... on Repository {
      sensors { name sensorState { status ticks(limit: 1) { status skipReason } } }
      schedules { name scheduleState { status } }
      jobs { name }
    }
  }
  assetNodes { assetKey { path } }
}"""


@pytest.fixture
def environment(home: Home, tmp_path: Path) -> dict[str, str]:
    """Everything that a new home needs without a download: a body for the tiny reranker, and a corpus."""
    write_toy_corpus(home.corpus / "toy")
    body = tiny_cross_encoder(tmp_path / "cache" / "models" / "bert-tiny", [f"about {topic} verified outdated page" for topic in TOPICS], seed=3)
    (body / "source.json").write_text(json.dumps({"digest": model_digest(body)}))
    ports = {name: free_port() for name in ("dagster", "mlflow", "api", "search")}
    return {
        **os.environ,
        **quiet_environment(offline=True),
        "PREDATOR_SI_HOME": str(home.path),
        "PREDATOR_SI_CACHE": str(tmp_path / "cache"),
        "PREDATOR_SI_PORTS": ",".join(f"{name}={port}" for name, port in ports.items()),
    }


class Up:
    """`predator-si up` as a person starts it."""

    def __init__(self, home: Home, environment: dict[str, str], log: Path) -> None:
        self.home, self.log = home, log
        command = [sys.executable, "-m", "predator_si.cli", "up", "--scale", "small", "--corpus", "toy"]
        with log.open("w") as stream:
            self.process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def said(self, words: str) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"it ended with {self.process.returncode}: {self.text()[-3000:]}")
        return words in self.text()


@pytest.fixture
def up(home: Home, environment: dict[str, str], tmp_path: Path) -> Iterator[Up]:
    started = Up(home, environment, tmp_path / "up.txt")
    yield started
    take_down(home)
    if started.process.poll() is None:
        started.process.kill()
    started.process.wait(10)


def dagster_state(settings: Settings) -> dict[str, Any]:
    answer = httpx.post(f"http://127.0.0.1:{settings.ports.dagster}/graphql", json={"query": STATE}, timeout=30.0, trust_env=False).json()
    found: dict[str, Any] = answer["data"]
    assert found["repositoryOrError"]["__typename"] == "Repository", answer
    return found


def the_guides_lines(settings: Settings) -> None:
    """The curl lines of docs/api.md, which are the guide's, exactly as they stand there, but for the port."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    lines = re.findall(r"^curl -s .*127\.0\.0\.1:8000/api/v1/optimizer/.*$", text, re.MULTILINE)
    said = {}
    for line in lines:
        done = subprocess.run(["bash", "-c", line.replace(":8000/", f":{settings.ports.api}/")], capture_output=True, text=True, timeout=60, check=True)
        name = re.findall(r"optimizer/([\w-]+)(?=[\s\"?/]|$)", line)[0] + ("!" if "threshold" in line else "")
        said[name] = json.loads(done.stdout)
    assert list(said) == ["status", "trigger", "metrics", "history", "quality-gates", "quality-gates!", "stop", "start"]
    assert said["status"]["is_running"] is True and said["status"]["problems"] == [] and said["status"]["next_cycle_in_minutes"] <= 15
    assert said["trigger"]["status"] == "started" and {"message", "target", "cycle_id", "actions_taken", "improvements"} <= said["trigger"].keys()
    assert {"ndcg_at_10", "avg_latency_ms", "timestamp", "details"} <= said["metrics"].keys()
    assert said["history"]["showing"] == min(20, said["history"]["total"]) and said["quality-gates"]["gates"]["error_rate"] == 0.01
    assert said["quality-gates!"]["new_threshold"] == 0.7 and said["stop"]["status"] == "stopped" and said["start"]["status"] == "started"


def a_cycle_by_the_api(settings: Settings, loop: Loop) -> None:
    """Measured first, begun by the API, its first job launched in Dagster under the caller's name, and ended by stop."""
    with OptimizerClient(f"http://127.0.0.1:{settings.ports.api}", seconds=60.0) as client:
        wait_until(lambda: client.metrics()["timestamp"] is not None, 240, "the snapshot that the first trigger asked for")
        cycle_id = client.status()["current_cycle"] or client.trigger(force=True, reason="a try")
        cycle_id = cycle_id["cycle_id"]
        query = "query($f: RunsFilter!) { runsOrError(filter: $f) { ... on Runs { results { runId jobName status tags { key value } } } } }"
        filters = {"f": {"tags": [{"key": "dagster/partition", "value": cycle_id}]}}

        def runs() -> list[dict[str, Any]]:
            body = {"query": query, "variables": filters}
            answer = httpx.post(f"http://127.0.0.1:{settings.ports.dagster}/graphql", json=body, timeout=30.0, trust_env=False).json()
            return list(answer["data"]["runsOrError"]["results"])

        wait_until(lambda: bool(runs()), 60, "a run of the new cycle")
        [first] = [run for run in runs() if run["jobName"] in ("cycle_prepare_job", "cycle_act_job")]
        assert {"key": "predator/actor", "value": "api:local"} in first["tags"]
        client.stop("the test has seen enough")
        ended = ("CANCELED", "FAILURE", "SUCCESS")
        wait_until(lambda: all(run["status"] in ended for run in runs()), 60, "the end of what ran for the cycle")
        assert client.status()["kill_switch"] is True and client.trigger(force=True)["status"] == "refused"
        client.start()
        actions = [row["action"]["type"] for row in client.history(100)["history"]]
        assert {"gate_overridden", "kill_switch_on", "kill_switch_off", "cycle_opened"} <= set(actions)
    assert loop.control.cycle(cycle_id).actor == "api:local"


def test_up_of_a_new_home(home: Home, environment: dict[str, str], up: Up, tmp_path: Path):
    settings = load_settings(env=environment)
    wait_until(lambda: up.said("everything is up"), 300, "everything is up")
    loop = Loop(settings)

    info = loop.info()
    assert info["index"]["documents"] == loop.corpus.documents().height, "both parts are indexed"
    assert info["variants"]["champion"]["model_sha"] == loop.serving().model and info["release"]["error"] is None
    answer = httpx.post(f"{settings.search_url}/search", json={"query": "about sorting", "k": 3}, timeout=30.0, trust_env=False).json()
    assert len(answer["results"]) == 3 and "sorting" in answer["results"][0]["object_id"]

    found = dagster_state(settings)
    repository = found["repositoryOrError"]
    sensors = {sensor["name"]: sensor["sensorState"]["status"] for sensor in repository["sensors"]}
    names = {
        "intake_sensor",
        "quality_gate_sensor",
        "cycle_advance_sensor",
        "rollback_sensor",
        "cycle_failure_sensor",
        "service_guard_sensor",
        "messenger_sensor",
    }
    assert names <= sensors.keys() and set(sensors.values()) == {"RUNNING"}
    schedules = {schedule["name"]: schedule["scheduleState"]["status"] for schedule in repository["schedules"]}
    running_schedules = dict.fromkeys(("snapshot_schedule", "warehouse_schedule", "aa_replay_schedule"), "RUNNING")
    assert (running_schedules | {"training_schedule": "STOPPED"}).items() <= schedules.items()  # training by the calendar only where a contour wants it
    assert ["cycle", "deployment"] in [node["assetKey"]["path"] for node in found["assetNodes"]]
    assert httpx.get(f"http://127.0.0.1:{settings.ports.mlflow}/health", timeout=10.0, trust_env=False).status_code == 200
    assert httpx.get(f"http://127.0.0.1:{settings.ports.api}/", timeout=10.0, trust_env=False).status_code == 200

    def ticked() -> bool:
        sensors = {sensor["name"]: sensor["sensorState"]["ticks"] for sensor in dagster_state(settings)["repositoryOrError"]["sensors"]}
        return [(tick["status"], tick["skipReason"]) for tick in sensors["cycle_advance_sensor"]] == [("SKIPPED", "no cycle is active")]

    wait_until(ticked, 60, "a tick of the daemon that says why it does nothing")

    the_guides_lines(settings)
    a_cycle_by_the_api(settings, loop)

    children = running(home)
    assert children is not None and len(children.children) >= 6
    assert not_prepared(loop) == [] and prepare_for_service(settings, DEMO_SCALES["small"]) is None, "a second `up` sets nothing up again"
    shown = subprocess.run(
        [sys.executable, "-m", "predator_si.cli", "logs", "search", "-n", "5"], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert "serves sha256:" in shown.stdout
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(40) == 0, up.text()[-2000:]
    assert running(home) is None and not home.up_pid.exists()
    assert [record.action for record in Control(home.control_db).records()][:2] == ["seeded", "twin_checked"]
    a_restored_home_starts(home, environment, tmp_path)


def a_restored_home_starts(home: Home, environment: dict[str, str], tmp_path: Path) -> None:
    """The drill of the restore: the home is lost, comes back elsewhere, its ledger is whole, and the platform starts on it."""

    def command(*words: str, **env: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "predator_si.cli", *words, "--json"], env={**environment, **env}, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    url = command("backup", "create", str(tmp_path / "store"))["backup"]
    shutil.rmtree(home.path)
    again = Home(tmp_path / "another machine" / "home")
    place = {"PREDATOR_SI_HOME": str(again.path)}
    restored = command("backup", "restore", url, **place)
    assert restored["missing"] == [] and restored["lost"] is None
    verified = command("audit", "verify", **place)
    assert verified["ok"] and verified["records"] > restored["ledger_seq"]
    second = Up(again, {**environment, **place}, tmp_path / "again.txt")
    try:
        wait_until(lambda: second.said("everything is up"), 300, "everything is up on the restored home")
        settings = load_settings(env={**environment, **place})
        with OptimizerClient(f"http://127.0.0.1:{settings.ports.api}", seconds=60.0) as client:
            status = client.status()
            assert (
                status["problems"] == [] and status["champion"] == Loop(settings).serving().model == Loop(settings).info()["variants"]["champion"]["model_sha"]
            )
        assert command("audit", "verify", **place)["ok"]
        second.process.send_signal(signal.SIGINT)
        assert second.process.wait(40) == 0, second.text()[-2000:]
    finally:
        take_down(again)
        if second.process.poll() is None:
            second.process.kill()
        second.process.wait(10)
