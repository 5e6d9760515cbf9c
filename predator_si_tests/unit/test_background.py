"""Work that gives way: the priority of a process and of what it starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from predator_si.background import command
from predator_si.cli.supervisor import services
from predator_si.settings import load_settings

_SAYS = "import os, pathlib; print(os.getpid(), os.nice(0)); group = pathlib.Path('/proc/self/autogroup'); print(group.read_text() if group.exists() else '')"


def test_a_command_in_the_background_keeps_its_process_id_and_gives_way_to_other_sessions_too() -> None:
    with subprocess.Popen(command([sys.executable, "-c", _SAYS]), stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
        assert child.stdout is not None
        pid, nice = child.stdout.readline().split()
        group = child.stdout.read()
    assert child.returncode == 0 and int(pid) == child.pid and int(nice) == 19
    if Path("/proc/self/autogroup").exists():  # a Linux without the feature has nice values alone
        assert group.split()[-1] == "19"


def test_a_command_that_is_not_there_says_so_with_the_shells_own_code() -> None:
    found = subprocess.run(command(["/nowhere/at-all"]), capture_output=True, text=True, check=False)
    assert found.returncode == 127 and "/nowhere/at-all cannot be started: No such file" in found.stderr
    assert subprocess.run(command([]), capture_output=True, check=False).returncode == 2


def test_of_the_platform_only_the_daemon_gives_way_because_trainings_run_under_it(tmp_path: Path) -> None:
    found = {one.name: one.command for one in services(load_settings("local", home=tmp_path, env={}))}
    assert [name for name, words in found.items() if "predator_si.background" in words] == ["daemon"]
    assert found["daemon"][3:6] == (sys.executable, "-m", "dagster._daemon")
