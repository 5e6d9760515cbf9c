"""Copies of a home elsewhere, and a home made from one.

What belongs here: what is copied and how it is consistent, checked and put back. What must not: when (``orchestration.reporting``), what the files mean.

Public functions
----------------
- ``create_backup(home, destination, contour, ...)`` -> ``BackupManifest``
- ``restore_backup(source, home, ...)`` -> ``Restored``
- ``read_manifest(source)``: what a backup holds
"""

from predator_si.backup.create import create_backup
from predator_si.backup.manifest import BackupManifest, Part, read_manifest
from predator_si.backup.restore import Restored, restore_backup

__all__ = ["BackupManifest", "Part", "Restored", "create_backup", "read_manifest", "restore_backup"]
