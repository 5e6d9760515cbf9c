"""Approvals, overridden gates, champion history, feature flags; the ledger can be read by action."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    """Add the tables of version 2."""
    text, words = sa.String(), sa.Text()

    def needed(kind: sa.types.TypeEngine[str], *names: str) -> list[sa.Column[str]]:
        return [sa.Column(name, kind, nullable=False) for name in names]

    op.create_table(
        "approvals",
        sa.Column("cycle_id", text, primary_key=True),
        sa.Column("stage", text, primary_key=True),
        *needed(text, "contour", "evidence_hash"),
        *needed(words, "evidence"),
        *needed(text, "asked_at", "expires_at"),
        sa.Column("decision", text),
        sa.Column("actor", text),
        *needed(words, "reason"),
        sa.Column("at", text),
    )
    op.create_table(
        "gate_overrides",
        sa.Column("id", sa.Integer, primary_key=True),
        *needed(text, "contour", "metric"),
        sa.Column("threshold", sa.Float, nullable=False),
        sa.Column("old", sa.Float),
        *needed(text, "actor"),
        *needed(words, "reason"),
        *needed(text, "set_at", "expires_at"),
        sa.Column("ended_at", text),
    )
    op.create_index("gate_overrides_of_a_contour", "gate_overrides", ["contour", "expires_at"])
    op.create_table(
        "champions",
        sa.Column("id", sa.Integer, primary_key=True),
        *needed(text, "contour", "digest"),
        sa.Column("cycle_id", text),
        *needed(text, "since"),
        sa.Column("until", text),
        *needed(words, "why"),
        sa.Column("commit", text),
    )
    one = sa.text("until IS NULL")
    op.create_index("one_champion", "champions", ["contour"], unique=True, sqlite_where=one, postgresql_where=one)
    op.create_table(
        "feature_flags",
        sa.Column("contour", text, primary_key=True),
        sa.Column("name", text, primary_key=True),
        sa.Column("on", sa.Boolean, nullable=False),
        *needed(text, "actor"),
        *needed(words, "reason"),
        *needed(text, "set_at"),
    )
    op.create_index("ix_ledger_action", "ledger", ["action"])
    op.execute(sa.text("UPDATE schema_version SET version = 2"))
