"""Copy this home, and write into the ledger that it was copied."""

from __future__ import annotations

from collections.abc import Callable

from predator_si.backup import BackupManifest, create_backup, drop_older
from predator_si.orchestration.loop import Loop
from predator_si.release.git import shown


def back_up(loop: Loop, destination: str, actor: str, on_progress: Callable[[int, int], None] | None = None) -> tuple[str, BackupManifest]:
    """Make a backup; where it lies, and what it holds. Its own ledger record is in the next one. Once it is whole, older ones beyond ``backup.keep`` go."""
    url, manifest = create_backup(loop.home, destination, loop.contour, on_progress=on_progress)
    size = sum(part.bytes for part in manifest.parts)
    payload = {"backup": shown(url), "bytes": size, "ledger_seq": manifest.ledger_seq, "parts": {part.name: part.sha256 for part in manifest.parts}}
    keep = loop.settings.values.backup.keep
    payload["dropped"] = drop_older(destination, loop.contour, keep) if keep is not None else []
    loop.control.append("backup_created", actor, None, f"{size} bytes", payload)
    return url, manifest
