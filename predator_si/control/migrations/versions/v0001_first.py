"""The schema that existed before there were migrations: cycles, leases, flags, notes, openings of sealed sets, the ledger."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None
_ACTIVE = "state IN ('awaiting_approval', 'decided', 'evaluated', 'on_trial', 'opened', 'prepared', 'released', 'trained', 'watching')"


def upgrade() -> None:
    """Make the tables of version 1."""
    text, number = sa.String(), sa.Integer()
    op.create_table("schema_version", sa.Column("version", number, primary_key=True))
    op.create_table(
        "cycles",
        sa.Column("cycle_id", text, primary_key=True),
        *(sa.Column(name, text, nullable=False) for name in ("contour", "state")),
        sa.Column("trigger", sa.Text, nullable=False),
        *(sa.Column(name, text, nullable=False) for name in ("opened_at", "updated_at")),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("actor", text, nullable=False),
    )
    op.create_index("one_active_cycle", "cycles", ["contour"], unique=True, sqlite_where=sa.text(_ACTIVE), postgresql_where=sa.text(_ACTIVE))
    op.create_table(
        "leases",
        sa.Column("name", text, primary_key=True),
        sa.Column("holder", text, nullable=False),
        sa.Column("token", number, nullable=False),
        sa.Column("expires_at", text),
    )
    op.create_table(
        "flags", sa.Column("name", text, primary_key=True), sa.Column("contour", text, primary_key=True), sa.Column("on", sa.Boolean, nullable=False)
    )
    op.create_table(
        "notes", sa.Column("key", text, primary_key=True), sa.Column("value", sa.Text, nullable=False), sa.Column("updated_at", text, nullable=False)
    )
    op.create_table(
        "sealed_openings",
        *(sa.Column(name, text, primary_key=True) for name in ("cycle_id", "corpus", "evaluation_id")),
        sa.Column("ledger_seq", number, nullable=False),
    )
    op.create_table(
        "ledger",
        sa.Column("seq", number, primary_key=True, autoincrement=False),
        *(sa.Column(name, text, nullable=False) for name in ("timestamp", "action", "actor")),
        sa.Column("cycle_id", text),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("reason", "payload")),
        *(sa.Column(name, text, nullable=False) for name in ("previous_hash", "hash")),
    )
    op.create_index("ix_ledger_cycle_id", "ledger", ["cycle_id"])
    op.create_table(
        "ledger_head",
        sa.Column("id", number, primary_key=True, autoincrement=False),
        sa.Column("seq", number, nullable=False),
        sa.Column("hash", text, nullable=False),
    )
