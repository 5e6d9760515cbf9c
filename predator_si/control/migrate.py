"""From an older schema of the control database to today's: by Alembic, in one transaction, at the first opening.

What belongs here: when steps are run. What must not: the steps (``control.migrations``), the tables (``control.schema``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from alembic.config import Config

BASE, HEAD = "0001", "0003"
"""Alembic's names of schema version 1, the oldest there is, and of today's."""


def upgrade(connection: sa.Connection, to: str = HEAD) -> None:
    """Run the steps that a database of an earlier version lacks; one without Alembic's mark is of version 1.

    Parameters
    ----------
    connection
        In a writing transaction: steps and data are there together or not at all.
    """
    from alembic import command
    from alembic.runtime.migration import MigrationContext

    config = _config(connection)
    if MigrationContext.configure(connection).get_current_revision() is None and sa.inspect(connection).has_table("cycles"):
        command.stamp(config, BASE)
    command.upgrade(config, to)


def mark(connection: sa.Connection) -> None:
    """Say of a database that was made by today's program that it is at ``HEAD``; Alembic itself, half a second to import, is not needed for that."""
    table = sa.Table("alembic_version", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True))
    table.create(connection, checkfirst=True)
    connection.execute(table.insert().values(version_num=HEAD))


def _config(connection: sa.Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config
