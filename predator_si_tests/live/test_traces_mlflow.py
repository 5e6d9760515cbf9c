"""A cycle's trace in a real MLflow server: sent over OTLP, read back with its tree."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from predator_si.control import Control
from predator_si.notify.trace_export import send
from predator_si.notify.tracing import JobRun, StepRun, tree
from predator_si.quiet import quiet_environment
from predator_si.records import CycleState
from predator_si_tests.support.platform import open_cycle
from predator_si_tests.support.waiting import free_port, wait_until


@pytest.mark.live
@pytest.mark.slow
def test_mlflow_takes_the_trace_and_shows_its_tree(tmp_path: Path):
    port = free_port()
    address, store = f"http://127.0.0.1:{port}", f"sqlite:///{tmp_path / 'mlflow.db'}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", store, "--workers", "1"]
    environment = {**os.environ, **quiet_environment(offline=True), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until(lambda: _answers(address), 180, "the MLflow server's answer")
        httpx.post(f"{address}/api/2.0/mlflow/experiments/create", json={"name": "predator_si"}, timeout=30, trust_env=False).raise_for_status()
        control = Control(tmp_path / "control.db")
        cycle = open_cycle(control).cycle_id
        control.transition(cycle, CycleState.REJECTED, "no gain", "loop")
        at = control.cycle(cycle).opened_at
        run = JobRun("run-a", "cycle_prepare_job", "SUCCESS", at, at + timedelta(seconds=9), [StepRun("step", at, at + timedelta(seconds=8), True)])
        assert send(cycle, tree(control.cycle(cycle), control.records(10), [run], [], 0.1), {"PREDATOR_SI_TRACES": f"mlflow:{address}"}) == ["mlflow"]
        code = (
            "import mlflow; mlflow.set_tracking_uri('" + address + "')\n"
            "e = mlflow.get_experiment_by_name('predator_si').experiment_id\n"
            "(t,) = mlflow.search_traces(locations=[e], return_type='list')\n"
            "names = {s.span_id: s.name for s in t.data.spans}\n"
            "print(sorted((s.name, str(names.get(s.parent_id))) for s in t.data.spans))"
        )
        read = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False)
        assert read.returncode == 0, read.stderr[-1500:]
        assert read.stdout.strip() == str([(f"cycle {cycle}", "None"), ("cycle_prepare_job", f"cycle {cycle}"), ("step", "cycle_prepare_job")])
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(10)


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=2.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
