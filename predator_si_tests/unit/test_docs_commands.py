"""Every command that the pages show is executed: here, in the test that a page names below, or it stands on a short list with the reason why not."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer

from predator_si.cli.commands import app
from predator_si.control import Control
from predator_si.orchestration.loop import Loop
from predator_si.records import CycleState
from predator_si.settings import Settings
from predator_si_tests.support.command_line import CommandLine
from predator_si_tests.support.platform import fake_model, open_cycle, prepare, write_snapshot

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "predator_si_tests"
ELSEWHERE = {
    "docs/alerts.md": "unit/test_docs_operations.py",
    "docs/operations.md": "unit/test_docs_operations.py",
    "docs/deploy.md": "deploy/test_docs_deploy.py",
}
"""Page -> the test that executes everything that it shows."""
NOT_HERE = {
    r"make (demo|up|test|lint|docs|readme-table)\b|bash \.ci/run": "the demo, the services, and what CI runs",
    r"predator-si drill ": "a drill of minutes, by its functions in live/test_drills.py",
    r"predator-si adapt ": "a measurement of minutes; unit/test_cli_adapt.py runs the command on tiny models",
    r"curl .*127\.0\.0\.1:8000/api": "live/test_up.py runs these lines as they stand, but for the port",
    r"curl .*(:8080|:3000/graphql)": "wants the services; live/test_search_service.py and orchestration/test_api_graphql.py ask the same",
    r"curl .*search-loop\.example\.org": "an address that the reader has",
    r"PREDATOR_SI_FUZZ_CASES=": "minutes; orchestration/test_api_fuzz.py runs with fewer cases",
    r"python -m predator_si\.proof\.screenshot": "wants Chromium; live/test_screenshots.py",
    r"predator-si eval --corpus mine": "wants real models; unit/test_cli_eval.py runs the command on tiny ones",
    r"predator-si warehouse ": "half a minute of dbt; live/test_warehouse.py",
    r"predator-si cycle (approve|reject) ": "wants a trial that waits; orchestration/test_operations_acts.py",
    r"predator-si eval replay ": "wants a decided cycle; orchestration/test_steps_trial.py",
    r"predator-si optimizer rollback ": "wants a running API and a release; orchestration/test_api_client.py",
    r"cat \.predator/applied/status\.json": "written by the reconciler of a running home",
}
EXIT = {"predator-si cycle why-not": 1}
"""Commands whose answer on this home is "no": a cycle has just ended."""


def shown() -> list[tuple[str, str]]:
    """Page and line of every shell command in a fence, and of every `predator-si` line that is indented as code."""
    found = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        name, text = str(page.relative_to(ROOT)), page.read_text(encoding="utf-8")
        fences = re.findall(r"^\s*```(?:bash|sh)(?: \w+)?\n(.*?)^\s*```", text, re.MULTILINE | re.DOTALL)
        lines = [line for fence in fences for line in fence.splitlines()] + re.findall(r"^    (predator-si .+)$", text, re.MULTILINE)
        found += [(name, words) for line in lines if (words := re.split(r"\s+# ", line)[0].strip()) and not words.startswith("#")]
    return found


def is_listed(line: str) -> bool:
    return any(re.match(pattern, line) for pattern in NOT_HERE)


HERE = list(dict.fromkeys(line for page, line in shown() if page not in ELSEWHERE and not is_listed(line)))


def test_the_list_holds_no_more_than_the_pages_show():
    lines = [line for page, line in shown() if page not in ELSEWHERE]
    assert not [pattern for pattern in NOT_HERE if not any(re.match(pattern, line) for line in lines)]
    for pattern, reason in NOT_HERE.items():
        assert not [name for name in re.findall(r"\w+/test_\w+\.py", reason) if not (TESTS / name).is_file()], reason
        commands = {tuple(line.split()[1:3]) for line in lines if re.match(pattern, line) and line.startswith("predator-si ")}
        texts = [(TESTS / name).read_text(encoding="utf-8") for name in re.findall(r"\w+/test_\w+\.py", reason)]
        for first, second in (
            commands if texts and "by its functions" not in reason else ()
        ):  # as CommandLine takes them: the command, and what it is told to do
            words = f'"{first}"' if second.startswith("-") else f'"{first}", "{second}"'
            assert any(words in text for text in texts), f"{reason}: no such test says {words}"
    for page, test in ELSEWHERE.items():
        assert (ROOT / page).is_file() and Path(page).name in (TESTS / test).read_text(encoding="utf-8")
    assert len(HERE) >= 12


@pytest.mark.parametrize("line", sorted({line for _, line in shown() if re.match(r"predator-si \w", line)}))
def test_every_shown_command_and_option_is_known(line: str):
    """Also of those that are not executed here: the parser knows their words and options."""
    words, command = shlex.split(line, comments=True)[1:], typer.main.get_command(app)
    everywhere = {option for parameter in command.params for option in parameter.opts}
    words = [word for place, word in enumerate(words) if word not in everywhere and (place == 0 or words[place - 1] not in everywhere - {"--debug"})]
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert not getattr(command, "commands", {}) or getattr(command, "invoke_without_command", False), line
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, line


@pytest.fixture
def loop(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loop:
    found = Loop(settings)
    champion = fake_model(found, "champion")
    prepare(found, champion)
    write_snapshot(found, champion)
    found.control.transition(open_cycle(found.control).cycle_id, CycleState.REJECTED, "no gain", "loop")
    monkeypatch.chdir(tmp_path)
    collection = Path("my-collection")
    collection.mkdir()
    (collection / "corpus.jsonl").write_text('{"_id": "d1", "title": "sort", "text": "sorts a list"}\n{"_id": "d2", "title": "join", "text": "joins two"}\n')
    (collection / "queries.jsonl").write_text('{"_id": "q1", "text": "how to sort"}\n{"_id": "q2", "text": "how to join"}\n')
    (collection / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t1\n")
    return found


def test_the_other_commands_run(loop: Loop, capsys: pytest.CaptureFixture[str]):
    cli, cycle = CommandLine(loop.home.path, capsys), Control(loop.home.control_db).cycles()[0].cycle_id
    for line in HERE:
        line = re.sub(r"si_\d{4}_\d\d_\d\d_\d{3}", cycle, line)
        if line.startswith("git -C .predator/"):
            done = subprocess.run(line.replace(".predator/", f"{loop.home.path}/"), shell=True, capture_output=True, text=True, timeout=60)
            code, said = done.returncode, done.stderr
        else:
            assert line.startswith("predator-si "), f"{line}: run it here, or put it on the list with a reason"
            answer = cli(*shlex.split(line)[1:])
            code, said = answer.code, answer.err + answer.out
        assert code == EXIT.get(line, 0), f"{line}: {code}: {said}"
