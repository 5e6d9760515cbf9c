"""The supervisor with real, small processes: start, announce, log, end on every occasion, and touch nothing of others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from predator_si.cli.supervisor import running, take_down
from predator_si.home import Home
from predator_si_tests.support.waiting import free_port, wait_until

pytestmark = pytest.mark.live

SUPERVISE = """
import sys
from pathlib import Path
from predator_si.cli.supervisor import Service, bring_up
from predator_si.settings import load_settings
from predator_si.errors import PredatorError

home, port, other = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
server = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1")
chosen = [Service("web", server, port, f"http://127.0.0.1:{port}"), Service("other", (sys.executable, "-c", other))]
try:
    sys.exit(bring_up(load_settings(home=home), lambda text: print("READY", text, flush=True), chosen))
except PredatorError as error:
    print("error:", error, flush=True)
    sys.exit(2)
"""
SLEEP = "import time; print('hello from other', flush=True); time.sleep(600)"


class Up:
    """One supervisor process."""

    def __init__(self, home: Home, other: str = SLEEP, port: int | None = None) -> None:
        self.home, self.port = home, port or free_port()
        self.log = home.path / "test-output.txt"
        with self.log.open("w") as stream:
            self.process = subprocess.Popen([sys.executable, "-c", SUPERVISE, str(home.path), str(self.port), other], stdout=stream, stderr=stream)

    def text(self) -> str:
        return self.log.read_text()

    def wait_ready(self) -> dict[int, float]:
        wait_until(lambda: "everything is up" in self.text(), 30, f"ready: {self.text()}")
        wait_until(lambda: (found := running(self.home)) is not None and len(found.children) == 2, 10, "both children in the pid file")
        found = running(self.home)
        assert found is not None and found.supervisor[0] == self.process.pid
        return found.children

    def end(self) -> None:
        take_down(self.home)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


@pytest.fixture
def start(home: Home) -> Iterator:
    started: list[Up] = []

    def begin(*arguments, **keywords) -> Up:
        started.append(Up(home, *arguments, **keywords))
        return started[-1]

    yield begin
    for up in started:
        up.end()


def gone(children: dict[int, float]) -> bool:
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in children)


def test_ctrl_c_ends_all_and_the_logs_stay(home: Home, start):
    up = start()
    children = up.wait_ready()
    assert f"web answers: http://127.0.0.1:{up.port}" in up.text()
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(15) == 0
    assert gone(children) and not home.up_pid.exists()
    assert "hello from other" in (home.logs / "other.log").read_text()
    assert "GET / HTTP" in (home.logs / "web.log").read_text()


def test_down_ends_all(home: Home, start):
    up = start()
    children = up.wait_ready()
    assert take_down(home) == 3
    assert up.process.wait(10) == 0 and gone(children)
    assert take_down(home) == 0, "nothing is left to end"


def test_one_that_ends_by_itself_takes_the_others_along(home: Home, start):
    up = start("import sys, time; time.sleep(1); print('out of order', flush=True); sys.exit(3)")
    assert up.process.wait(30) == 1
    assert "other stopped (rc=3)" in up.text() and not home.up_pid.exists()
    assert running(home) is None


def test_orphans_of_a_killed_supervisor_are_found_and_ended(home: Home, start):
    up = start()
    children = up.wait_ready()
    up.process.kill()
    up.process.wait(10)
    found = running(home)
    assert found is not None and set(found.children) == set(children), "the children outlive kill -9"
    second = start(port=free_port())
    assert second.process.wait(30) == 2 and "end them with `predator-si down`" in second.text()
    take_down(home)
    wait_until(lambda: gone(children), 10, "end of the orphans")


def test_a_second_up_of_the_same_home_is_refused(home: Home, start):
    up = start()
    up.wait_ready()
    port = free_port()
    answer = subprocess.run([sys.executable, "-c", SUPERVISE, str(home.path), str(port), SLEEP], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 2 and "runs here already" in answer.stdout
    assert up.process.poll() is None


def test_a_busy_port_is_named_before_anything_starts(home: Home, start):
    holder = subprocess.Popen([sys.executable, "-m", "http.server", str(port := free_port()), "--bind", "127.0.0.1"], stderr=subprocess.DEVNULL)
    try:
        from predator_si.cli.doctor import port_is_busy

        wait_until(lambda: port_is_busy(port), 10, "busy port")
        up = start(port=port)
        assert up.process.wait(30) == 2
        assert f"in use by another program: port {port} (web)" in up.text() and "started (pid" not in up.text()
    finally:
        holder.terminate()
        holder.wait(10)


@pytest.mark.parametrize("content", ["", "{", '{"pid": 1}', "[]", '{"pid": "x", "started": 0, "children": {}}'])
def test_a_torn_pid_file_is_nobody(home: Home, content: str):
    home.up_pid.write_text(content, encoding="utf-8")
    assert running(home) is None and take_down(home) == 0 and not home.up_pid.exists()


def test_a_process_id_that_was_used_again_is_left_alone(home: Home, tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", SLEEP], stdout=subprocess.DEVNULL, start_new_session=True) as stranger:
        try:
            old = time.time() - 3600
            home.up_pid.write_text(json.dumps({"pid": stranger.pid, "started": old, "children": {str(stranger.pid): old}}), encoding="utf-8")
            assert running(home) is None and take_down(home) == 0
            assert stranger.poll() is None
        finally:
            os.kill(stranger.pid, signal.SIGKILL)
