"""Judgment sets by name in one folder of the home, each with the origins of its rows.

What belongs here: names, files, and their damage. What must not: formats of other programs, any use of the labels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from predator_si.errors import BadInput, Missing
from predator_si.monitor.judgments.judgment_set import JudgmentSet

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class JudgmentStore:
    """The sets in ``folder``: one Parquet file each."""

    folder: Path

    def names(self) -> list[str]:
        """What there is, in order."""
        return sorted(path.stem for path in self.folder.glob("*.parquet"))

    def save(self, name: str, judgments: JudgmentSet) -> Path:
        """Write a set, whole or not at all; one of the same name is replaced.

        Raises
        ------
        BadInput
            A name that is no plain file name.
        """
        path = self._path(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        judgments.frame.write_parquet(partial)
        partial.replace(path)
        return path

    def load(self, name: str) -> JudgmentSet:
        """A set by its name.

        Raises
        ------
        Missing
            There is none.
        BadInput
            The file is damaged.
        """
        path = self._path(name)
        if not path.is_file():
            raise Missing(f"no judgments {name!r}; there are: {', '.join(self.names()) or 'none'}. `predator-si judgments import FILE` adds some.")
        try:
            return JudgmentSet(pl.read_parquet(path))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise BadInput(f"{path}: cannot be read ({str(error).splitlines()[0]}); import the judgments again.") from error

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise BadInput(f"{name!r} cannot be a name of judgments: letters, digits, dot, dash, underscore.")
        return self.folder / f"{name}.parquet"
