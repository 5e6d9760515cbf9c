"""What docs/deploy.md says of the first home: `up` with the contour of a cluster prepares it, says that it is up, and Ctrl-C ends it."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import pytest

from predator_si.cli.supervisor import running, take_down
from predator_si.home import Home
from predator_si.orchestration.loop import Loop
from predator_si.release.chart import held_files
from predator_si.settings import load_settings
from predator_si_tests.live.test_up import Up
from predator_si_tests.live.test_up import environment as environment
from predator_si_tests.support.waiting import wait_until

pytestmark = [pytest.mark.live, pytest.mark.slow]


def test_up_prepares_the_first_home_of_a_cluster_s_contour(home: Home, environment: dict[str, str], tmp_path: Path):
    environment = {**environment, "PREDATOR_SI_CONTOUR": "edge-oracle"}
    settings = load_settings(env=environment)
    up = Up(home, environment, tmp_path / "up.txt")
    try:
        wait_until(lambda: up.said("everything is up"), 300, "everything is up")
        loop = Loop(settings)
        assert loop.info()["variants"]["champion"]["model_sha"] == loop.serving().model
        assert {"deny.yaml", "release-edge-oracle.yaml"} <= set(held_files(loop.repo, "edge-oracle"))
        refused = httpx.get(f"http://127.0.0.1:{settings.ports.api}/api/v1/optimizer/status", timeout=30.0, trust_env=False)
        assert refused.status_code == 401, "outside contour local nobody is let in without a token"
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(40) == 0, up.text()[-2000:]
        assert running(home) is None
    finally:
        take_down(home)
        if up.process.poll() is None:
            up.process.kill()
        up.process.wait(10)
