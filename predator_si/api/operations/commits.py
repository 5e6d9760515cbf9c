"""What a commit of the GitOps repository changed, as Git tells it.

What belongs here: asking Git, read-only. What must not: writing (``release.gitops``), HTML.
"""

from __future__ import annotations

import re
import subprocess

from predator_si.errors import Missing
from predator_si.orchestration.loop import Loop

_COMMIT = re.compile(r"[0-9a-f]{7,40}")


def commit_text(loop: Loop, commit: str, most: int = 200_000) -> tuple[str, bool]:
    """Message and changes of a commit of the GitOps repository, and whether all of it is there.

    Raises
    ------
    Missing
        That is no commit here.
    """
    if _COMMIT.fullmatch(commit) is None:
        raise Missing(f"{commit!r} is no commit: 7 to 40 hexadecimal digits.")
    folder = next((one for one in (loop.home.gitops_bare, loop.home.gitops) if one.is_dir()), None)
    if folder is None:
        raise Missing("this home has no GitOps repository yet. `predator-si up` makes one.")
    options = ("--no-color", "--no-ext-diff", "--no-textconv", "--stat", "--patch", "--end-of-options")
    command = ["git", "-C", str(folder), "show", *options, f"{commit}^{{commit}}"]
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=20, env=environment, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"commit {commit}: git did not answer ({type(error).__name__}).") from error
    if done.returncode != 0:
        raise Missing(f"the GitOps repository has no commit {commit}.")
    text = done.stdout.decode("utf-8", "replace")
    return text[:most], len(text) <= most
