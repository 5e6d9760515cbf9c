"""Every command line in the chart is one that its program takes, with the program's own parser; only the body is not run."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import typer

from predator_si.settings import CHART
from predator_si_tests.support.charts import objects, rendered

Line = tuple[str, ...]
WORKSPACE = str(CHART.parents[2] / "workspace.yaml")


def lines() -> Iterator[tuple[str, Line]]:
    """Component and command of every container, probes included."""
    found = [*objects("edge-oracle"), *rendered("edge-oracle", site={"selfImprovement": {"backup": {"enabled": True, "destination": "s3://b/p"}}})]
    for each in found:
        if each["kind"] not in ("Deployment", "CronJob"):
            continue
        spec = each["spec"]["template"]["spec"] if each["kind"] == "Deployment" else each["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        for container in spec["containers"]:
            if "command" in container:
                yield container["name"], tuple(container["command"])
            probe = container.get("livenessProbe", {}).get("exec")
            if probe:
                yield container["name"], tuple(probe["command"])


def parse(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    """Let the program's parser take the words.

    Raises
    ------
    BaseException
        Whatever the parser raises at a word that it does not know.
    """
    line = tuple(WORKSPACE if word == "/opt/dagster/workspace.yaml" else word for word in line)  # a parser looks whether the file is there
    match line:
        case ("dagster-webserver", *words):
            from dagster_webserver.cli import dagster_webserver

            dagster_webserver.make_context("dagster-webserver", list(words))
        case ("dagster-daemon", command, *words):
            from dagster._daemon.cli import create_dagster_daemon_cli

            create_dagster_daemon_cli().commands[command].make_context(command, list(words))
        case ("dagster", "api", "grpc", *words):
            from dagster._cli.api import grpc_command

            grpc_command.make_context("grpc", list(words))
        case ("python", "-m", "mlflow", "server", *words):
            from mlflow.cli import server

            server.make_context("server", list(words))
        case ("predator-si", *words):
            from predator_si.cli.commands import app

            command = typer.main.get_command(app)
            while words and words[0] in getattr(command, "commands", {}):
                command = command.commands[words.pop(0)]
            command.make_context("predator-si", list(words))
        case ("python", "-m", module, *words):
            from importlib import import_module

            with pytest.raises(SystemExit) as ended:
                import_module(f"{module}.__main__").main([*words, "--help"])
            assert ended.value.code == 0
            known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
            assert {word for word in words if word.startswith("--")} <= known
        case _:
            raise AssertionError(f"nobody knows the program of {line}")


def test_every_program_takes_its_command_line(capsys: pytest.CaptureFixture[str]):
    found = set(lines())
    assert {component for component, _ in found} >= {"search", "search-ingest", "api", "daemon", "code-server", "mlflow", "backup"}
    assert {component for component, _ in found} >= {"webserver", "webserver-read-only"}
    for _, line in sorted(found):
        parse(line, capsys)


@pytest.mark.parametrize(
    "line",
    [
        ("dagster-webserver", "--readonly"),
        ("python", "-m", "predator_si.search", "--home", "x", "--reads"),
        ("predator-si", "backup", "create", "--to", "x"),
    ],
)
def test_a_word_that_a_program_does_not_know_is_found(line: Line, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(Exception, match=r"No such option|--reads"):
        parse(line, capsys)
