"""The ledger refuses changes, knows its sealed segments and is found by time; cycles stand in the order of the ledger; openings keep their own time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from predator_si.control.append_only import guards

revision, down_revision = "0003", "0002"


def upgrade() -> None:
    """Add what version 3 has; what can be known of older rows is taken from the ledger."""
    text, number = sa.String(), sa.Integer()
    op.create_table(
        "ledger_segments",
        sa.Column("first_seq", number, primary_key=True, autoincrement=False),
        sa.Column("last_seq", number, nullable=False),
        *(sa.Column(name, text, nullable=False) for name in ("previous_hash", "last_hash", "sha256", "file", "sealed_at", "anchor_commit")),
    )
    op.create_index("ledger_by_time", "ledger", ["timestamp", "action"])
    op.add_column("cycles", sa.Column("opened_seq", number, nullable=False, server_default="0"))
    op.execute(
        "UPDATE cycles SET opened_seq = COALESCE("
        "(SELECT MIN(ledger.seq) FROM ledger WHERE ledger.cycle_id = cycles.cycle_id AND ledger.action = 'cycle_opened'), 0)"
    )
    op.create_index("cycles_by_opening", "cycles", ["opened_seq"])
    op.add_column("sealed_openings", sa.Column("opened_at", text))
    # a record that somebody removed by hand is for `audit verify` to report: it must not keep the database from opening
    op.execute(
        "UPDATE sealed_openings SET opened_at = COALESCE("
        "(SELECT ledger.timestamp FROM ledger WHERE ledger.seq = sealed_openings.ledger_seq), '1970-01-01T00:00:00.000000+00:00')"
    )
    with op.batch_alter_table("sealed_openings") as table:
        table.alter_column("opened_at", existing_type=text, nullable=False)
    for statement in guards(op.get_bind().dialect.name):
        op.execute(sa.text(statement))
    op.execute(sa.text("UPDATE schema_version SET version = 3"))
