"""Secrets by their name: an environment variable or a mounted file holds the content, a values file never does.

What belongs here: finding them, and taking them out of whatever is written down. What must not: what they are for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from predator_si.errors import BadInput, Missing

FOLDER = Path("/var/run/secrets/predator-si")
"""Where a chart mounts them; PREDATOR_SI_SECRETS names another folder."""
HIDDEN = "[secret]"
_SHORT = 6
"""A shorter part of an address is a word that texts may hold."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")


def variable_of(name: str) -> str:
    """The environment variable of a secret: ``slack-webhook`` is ``SLACK_WEBHOOK``."""
    return re.sub(r"[^A-Za-z0-9]", "_", name).upper()


@dataclass
class Secrets:
    """Secrets of one process, and every one that it gave out, so that none gets into a log.

    Parameters
    ----------
    env
        Environment to read; a variable is named like the secret in capitals, with ``_`` for other characters.
    folder
        Folder of files named like the secrets.
    """

    env: Mapping[str, str] = field(default_factory=lambda: os.environ)
    folder: Path | None = None
    _given: set[str] = field(default_factory=set)

    def get(self, name: str) -> str:
        """The content of a secret, without blanks around it.

        Raises
        ------
        BadInput
            The name cannot be one, or the file cannot be read.
        Missing
            Neither variable nor file is there, or they are empty.
        """
        if not _NAME.fullmatch(name):
            raise BadInput(f"{name!r} cannot be the name of a secret: letters, digits, dots, dashes. Name the secret, never write its content there.")
        folder = self.folder or Path(self.env.get("PREDATOR_SI_SECRETS") or FOLDER)
        found = self.env.get(variable_of(name), "").strip()
        if not found:
            try:
                found = (folder / name).read_text(encoding="utf-8").strip()
            except (FileNotFoundError, NotADirectoryError):
                found = ""
            except (OSError, UnicodeDecodeError) as error:
                raise BadInput(f"{folder / name}: the secret cannot be read ({type(error).__name__}). Check the mount and its mode.") from None
        if not found:
            raise Missing(f"secret {name}: neither the environment variable {variable_of(name)} nor the file {folder / name} holds it. Set one of them.")
        self._given.update(parts_of(found))
        return found

    def scrub(self, text: str) -> str:
        """The text with every secret that was given out, and each telling part of its address, taken out."""
        return scrub(text, self._given)


def parts_of(secret: str) -> set[str]:
    """What of a secret must not be seen: itself, each of its lines, and of an address user, password, path and query with their longer pieces."""
    found: set[str] = set()
    for line in secret.split():
        found.add(line)
        try:
            url = urlsplit(line)
        except ValueError:
            continue
        if url.scheme and "://" in line:
            pieces = [url.username, url.password, url.path, url.query, *re.split(r"[/&=?]", url.path), *re.split(r"[&=]", url.query)]
            found.update(piece for piece in pieces if piece and len(piece) >= _SHORT)
    return found


def scrub(text: str, secrets: Iterable[str]) -> str:
    """The text without the secrets, the longest first."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text
