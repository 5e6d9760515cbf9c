"""The command line: exit codes, one-line errors, JSON, help with examples."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import typer

from predator_si.cli.choices import hoisted
from predator_si.cli.commands import app
from predator_si.control import Control
from predator_si.orchestration.loop import Loop
from predator_si.records import CycleState, Trigger
from predator_si.settings import load_settings
from predator_si_tests.support.command_line import CommandLine

TRIGGER = Trigger(type="ndcg_down", metric="ndcg_at_10", value=0.4, baseline=0.5, delta=-0.2, actions=("retrain",), reason="ndcg_at_10 fell by 20%")


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.setenv("PREDATOR_SI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "300")
    return CommandLine(tmp_path / "home", capsys)


def commands() -> list[tuple[str, ...]]:
    """Every command's words, groups opened."""

    def walk(command, words: tuple[str, ...]):
        children = getattr(command, "commands", None)
        if not children:
            yield words
            return
        if words and getattr(command, "invoke_without_command", False):  # a command of its own, with others below it
            yield words
        for name, child in children.items():
            yield from walk(child, (*words, name))

    return list(walk(typer.main.get_command(app), ()))


# ------------------------------------------------------------------ shape


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example_that_parses(cli: CommandLine, words: tuple[str, ...]):
    answer = cli(*words, "--help")
    assert answer.code == 0
    example = re.search(r"Example:\s+predator-si (.+)", answer.out)
    assert example, f"`predator-si {' '.join(words)} --help` shows no example"
    # The shown words belong to this command, and the parser knows every option in them: --help ends it before anything is done.
    shown = shlex.split(example[1].strip().strip("│").strip())
    assert hoisted(shown)[: len(words)] == list(words) or all(word in shown for word in words)
    assert cli(*shown, "--help").code == 0


def test_help_needs_no_heavy_library():
    code = "import sys; from predator_si.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\nprint(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    for heavy in ("torch", "transformers", "sentence_transformers", "mlflow", "evidently", "dagster", "sklearn", "scipy", "matplotlib", "polars"):
        assert f"'{heavy}'" not in loaded


def test_global_options_may_stand_anywhere():
    assert hoisted(["up", "--home", "h", "--quiet"]) == ["--home", "h", "up", "--quiet"]
    assert hoisted(["cycle", "list", "--contour=local", "--debug"]) == ["--contour=local", "--debug", "cycle", "list"]
    assert hoisted(["models", "fetch", "--", "--home", "x"]) == ["models", "fetch", "--", "--home", "x"]
    assert hoisted(["up", "--home"]) == ["--home", "up"]


# ------------------------------------------------------------------ exit codes


@pytest.mark.parametrize("words", [("cycle",), ("nonsense",), ("cycle", "list", "--limit", "0"), ("cycle", "show"), ("status", "--jsn"), ("up", "--home")])
def test_wrong_use_is_two(cli: CommandLine, words: tuple[str, ...]):
    assert cli(*words).code == 2


def test_an_error_is_one_line_and_two(cli: CommandLine):
    answer = cli("audit", "verify")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ") and answer.err.count("\n") == 1 and "there is no ledger yet" in answer.err


def test_debug_shows_the_traceback(cli: CommandLine):
    answer = cli("audit", "verify", "--debug")
    assert answer.code == 2 and "Traceback" in answer.err and answer.err.splitlines()[-1].startswith("error: ")


def test_a_malformed_values_file_is_named_with_its_line(cli: CommandLine, tmp_path: Path):
    file = tmp_path / "v.yaml"
    file.write_text("selfImprovement:\n  policy: [\n", encoding="utf-8")
    answer = cli("status", "--values", file)
    assert answer.code == 2 and f"{file}:3: malformed YAML" in answer.err


def test_an_unwritable_home_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    answer = CommandLine(Path("/proc/predator"), capsys)("stop")
    assert answer.code == 2 and "error: /proc/predator: cannot be written to" in answer.err


def test_a_defect_is_neither_no_nor_wrong_use(cli: CommandLine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("predator_si.cli.doctor.examine", lambda settings: 1 / 0)
    answer = cli("doctor")
    assert answer.code == 70 and "ZeroDivisionError" in answer.err and "Traceback" in answer.err


# ------------------------------------------------------------------ commands


def test_up_of_an_empty_home_names_a_busy_port_before_it_sets_anything_up(cli: CommandLine, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("PREDATOR_SI_PORTS", f"search={port}")
        answer = cli("up", "--scale", "small")
    assert answer.code == 2 and f"in use by another program: port {port} (search)" in answer.err
    assert not (cli.home / "plan.json").exists() and not (cli.home / "gitops.git").exists()
    assert cli("up", "--scale", "huge").code == 2


def test_a_cycle_cannot_be_run_in_a_home_that_was_not_prepared(cli: CommandLine):
    answer = cli("cycle", "run")
    assert answer.code == 2 and "this home was not prepared" in answer.err


def test_status_looks_and_makes_nothing(cli: CommandLine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREDATOR_SI_SEARCH_URL", "http://127.0.0.1:1")
    answer = cli("status", "--json")
    assert answer.code == 0 and answer.json["contour"] == "local" and answer.json["kill_switch"] is None
    assert "does not answer" in answer.json["service"]["error"]
    assert not cli.home.exists()
    assert "does not answer" in cli("status").out


def test_stop_and_start_are_idempotent_and_recorded(cli: CommandLine):
    assert "is on" in cli("stop", "--reason", "freeze").out
    assert "was on already" in cli("stop").out
    assert cli("status", "--json").json["kill_switch"] is True
    assert "is off" in cli("start").out
    records = cli("audit", "show", "--json").json
    assert [record["action"] for record in records] == ["kill_switch_on", "kill_switch_off"]
    assert records[0]["reason"] == "freeze" and records[0]["actor"].startswith("cli:")


def test_audit_verify_says_no_when_a_record_was_edited(cli: CommandLine):
    import sqlite3

    cli("stop", "--reason", "freeze")
    whole = cli("audit", "verify", "--json")
    assert (whole.code, whole.json["ok"], whole.json["records"]) == (0, True, 1)
    with sqlite3.connect(cli.home / "control.db") as connection:
        triggers = connection.execute("select name from sqlite_master where type = 'trigger'").fetchall()
        for (name,) in triggers:
            connection.execute(f"drop trigger {name}")
        assert connection.execute("update ledger set reason = 'holiday'").rowcount == 1
    edited = cli("audit", "verify", "--json")
    assert edited.code == 1 and not edited.json["ok"] and edited.json["problems"]


@pytest.mark.parametrize("word", ["approve", "reject"])
def test_only_a_cycle_that_waits_can_be_answered(cli: CommandLine, word: str):
    assert "was not prepared" in cli("cycle", word, "si_2026_01_01_001", "--reason", "because").err
    cli.home.mkdir()
    cycle = Control(cli.home / "control.db").open_cycle("local", TRIGGER, "test", "because")
    answer = cli("cycle", word, cycle.cycle_id, "--reason", "because")
    assert answer.code == 2 and "is opened and waits for nobody's approval" in answer.err
    assert cli("cycle", word, cycle.cycle_id).code == 2, "an answer needs its reason"


def test_cycles_are_listed_and_shown(cli: CommandLine):
    assert cli("cycle", "list", "--json").json == []
    assert "no cycle has run" in cli("cycle", "list").out
    assert cli("cycle", "show", "si_2026_01_01_001").code == 2
    cli.home.mkdir()
    control = Control(cli.home / "control.db")
    cycle = control.open_cycle("local", TRIGGER, "test", "because")
    control.transition(cycle.cycle_id, CycleState.PREPARED, "data made", "test")
    artifact = cli.home / "artifacts" / cycle.cycle_id / "diagnostic_report.json"
    artifact.parent.mkdir(parents=True)
    artifact.write_text("{}", encoding="utf-8")
    assert [row["cycle_id"] for row in cli("cycle", "list", "--json").json] == [cycle.cycle_id]
    shown = cli("cycle", "show", cycle.cycle_id, "--json").json
    assert shown["cycle"]["state"] == "prepared" and [record["action"] for record in shown["records"]] == ["cycle_opened", "cycle_prepared"]
    assert shown["artifacts"] == [str(artifact)]
    text = cli("cycle", "show", cycle.cycle_id).out
    assert "ndcg_at_10 fell by 20%" in text and "cycle_prepared" in text
    assert cli("cycle", "show", "si_2020_01_01_001").code == 2


def test_a_beir_folder_is_imported_listed_and_its_bad_lines_named(cli: CommandLine, tmp_path: Path):
    source = tmp_path / "tiny"
    source.mkdir()
    documents = [{"_id": f"d{i}", "title": f"t{i}", "text": f"word{i} and other words"} for i in range(6)]
    (source / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)) + "\n{broken\n", encoding="utf-8")
    (source / "queries.jsonl").write_text("\n".join(json.dumps({"_id": f"q{i}", "text": f"find word{i}"}) for i in range(6)), encoding="utf-8")
    (source / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\td{i}\t1\n" for i in range(6)), encoding="utf-8")
    answer = cli("corpus", "import", source, "--name", "mine", "--json")
    assert answer.code == 0 and answer.json["documents"] == 6
    assert "corpus.jsonl:7" in answer.err
    assert [corpus["name"] for corpus in cli("corpus", "list", "--json").json] == ["mine"]
    assert "mine" in cli("corpus", "list").out
    assert cli("corpus", "import", source, "--name", "../x").code == 2
    assert cli("corpus", "import", tmp_path / "nowhere").code == 2


def test_models_list_says_what_is_not_fetched(cli: CommandLine):
    listed = cli("models", "list", "--json").json
    assert listed["store"] == [] and set(listed["fetched"].values()) == {None}
    assert "not fetched" in cli("models", "list").out
    assert cli("models", "fetch", "no-such-model").code == 2


def test_logs_show_the_last_lines_of_each_process(cli: CommandLine):
    assert cli("logs").code == 2
    logs = cli.home / "logs"
    logs.mkdir(parents=True)
    (logs / "search.log").write_text("".join(f"line {i}\n" for i in range(50)), encoding="utf-8")
    (logs / "daemon.log").write_text("tick [1]\n", encoding="utf-8")
    shown = cli("logs", "--lines", "2").out.splitlines()
    assert [line.split("| ")[1] for line in shown] == ["tick [1]", "line 48", "line 49"]
    assert cli("logs", "search", "-n", "1").out.strip().endswith("line 49")
    unknown = cli("logs", "serch")
    assert unknown.code == 2 and "there are daemon, search" in unknown.err


def test_make_logs_shows_the_loop_by_its_name(cli: CommandLine):
    """``make logs | grep "AutoOptimizer"``, as the target stands in the Makefile."""
    Loop(load_settings("local", home=cli.home, env={})).control.append("noted", "test", None, "a word for the log", {})
    asked = ["make", "-s", "-o", "setup", f"BIN={Path(sys.executable).parent}", "ARGS=", "logs"]  # `make test ARGS=...` hands its own down
    passed_down = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL")
    environment = {**{name: value for name, value in os.environ.items() if name not in passed_down}, "PREDATOR_SI_HOME": str(cli.home)}
    with subprocess.Popen(
        ["bash", "-c", f'{shlex.join(asked)} | grep --line-buffered "AutoOptimizer"'],
        cwd=Path(__file__).resolve().parents[2], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        watchdog = threading.Timer(120, os.killpg, (process.pid, signal.SIGKILL))
        watchdog.start()
        try:
            assert process.stdout is not None and "a word for the log" in process.stdout.readline()
        finally:
            watchdog.cancel()
            os.killpg(process.pid, signal.SIGKILL)  # it follows until it is ended


def test_a_closed_reader_is_no_error(tmp_path: Path):
    """`predator-si logs | head -1` must not end in a traceback."""
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "search.log").write_text("x" * 100 + "\n", encoding="utf-8")
    (logs / "search.log").write_text("".join(f"{'x' * 100} {i}\n" for i in range(5000)), encoding="utf-8")
    command = f"{shlex.quote(sys.executable)} -m predator_si.cli --home {shlex.quote(str(tmp_path))} logs -n 5000 | head -1"
    answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, env=dict(os.environ))
    assert answer.stdout.count("\n") == 1 and "Traceback" not in answer.stderr
