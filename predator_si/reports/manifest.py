"""``manifest.json``: the sha256 and size of every file of a cycle, and what the cycle cost; null where nothing was metered."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from predator_si.errors import BadInput
from predator_si.reports.costs import NAME as COSTS
from predator_si.reports.costs import read_costs

NAME = "manifest.json"


def manifest(artifacts: Path) -> Path:
    """Write ``manifest.json`` over all files below ``artifacts`` sorted by path.

    Left out are itself, half-written ``*.partial`` files, and the costs: the work that writes it adds to them.

    Raises
    ------
    BadInput
        ``artifacts`` is not a folder.
    """
    artifacts = Path(artifacts)
    path = artifacts / NAME
    partial = path.with_suffix(".partial")
    costs = read_costs(artifacts)
    content = {"cycle_id": artifacts.name, "total_cost_usd": costs.total_cost_usd if costs is not None else None, "files": _files(artifacts)}
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def check_manifest(artifacts: Path) -> list[str]:
    """What differs from ``manifest.json``: one line for each file changed, gone or added; empty when all is as written down.

    Raises
    ------
    BadInput
        There is no readable ``manifest.json``.
    """
    artifacts = Path(artifacts)
    try:
        written = json.loads((artifacts / NAME).read_text(encoding="utf-8"))["files"]
        digests = {name: entry["sha256"] for name, entry in written.items()}
    except FileNotFoundError as error:
        raise BadInput(f"{artifacts / NAME}: no such file. Write the cycle's report first.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{artifacts / NAME}: not a manifest ({error!r}). Write the cycle's report again, or restore the file.") from error
    now = {name: entry["sha256"] for name, entry in _files(artifacts).items()}
    changed = [f"changed: {name}" for name in sorted(digests.keys() & now.keys()) if digests[name] != now[name]]
    return [*changed, *(f"gone: {name}" for name in sorted(digests.keys() - now.keys())), *(f"added: {name}" for name in sorted(now.keys() - digests.keys()))]


def _files(artifacts: Path) -> dict[str, dict[str, str | int]]:
    if not artifacts.is_dir():
        raise BadInput(f"{artifacts}: no such folder. Give the folder of a cycle's artifacts.")
    found: dict[str, dict[str, str | int]] = {}
    for path in sorted(artifacts.rglob("*")):
        name = path.relative_to(artifacts).as_posix()
        if path.is_file() and name not in (NAME, COSTS) and path.suffix != ".partial":
            with path.open("rb") as stream:
                found[name] = {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "bytes": path.stat().st_size}
    return found
