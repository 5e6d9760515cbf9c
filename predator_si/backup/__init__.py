"""Copies of a home elsewhere, and a home made from one.

What belongs here: what is copied and how it is consistent, checked and put back. What must not: when (``orchestration.reporting``), what the files mean.

Public functions
----------------
- ``create_backup(home, destination, contour, ...)`` -> ``BackupManifest``
- ``restore_backup(source, home, ...)`` -> ``Restored``
- ``read_manifest(source)``: what a backup holds
- ``drop_older(destination, contour, keep)``: names of the backups that went, since newer whole ones are there
"""

from predator_si.backup.create import create_backup, drop_older
from predator_si.backup.manifest import BackupManifest, Part, read_manifest
from predator_si.backup.restore import Restored, restore_backup

__all__ = ["BackupManifest", "Part", "Restored", "create_backup", "drop_older", "read_manifest", "restore_backup"]
