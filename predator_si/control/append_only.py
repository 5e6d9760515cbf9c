"""The database itself refuses to change the ledger: triggers, and on PostgreSQL no right to update or truncate.

Records are only ever added, behind the newest one. A prefix may go once ``ledger_segments`` says that it lies sealed in a file (``control.segments``); that
table only grows, too. What this keeps out: a program's error, a slip at the database's prompt. What it cannot: whoever owns the database may drop a trigger;
against that there are the hashes and their anchors in Git.

What belongs here: the statements. What must not: when they run (``control.schema`` for a new database, ``control.migrations`` for an older one).
"""

from __future__ import annotations

_SQLITE = (
    """CREATE TRIGGER ledger_grows_at_its_end BEFORE INSERT ON ledger WHEN EXISTS (SELECT 1 FROM ledger WHERE seq >= NEW.seq)
       BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: this record stands there already'); END""",
    """CREATE TRIGGER ledger_never_changes BEFORE UPDATE ON ledger
       BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: no record is changed'); END""",
    """CREATE TRIGGER ledger_never_shrinks BEFORE DELETE ON ledger
       WHEN NOT EXISTS (SELECT 1 FROM ledger_segments WHERE OLD.seq BETWEEN first_seq AND last_seq)
       BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: no record is removed before it is sealed'); END""",
    """CREATE TRIGGER segments_never_change BEFORE UPDATE ON ledger_segments
       BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: no segment is changed'); END""",
    """CREATE TRIGGER segments_never_go BEFORE DELETE ON ledger_segments
       BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: no segment is removed'); END""",
)
_POSTGRESQL = (
    """CREATE FUNCTION predator_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
       BEGIN
         IF TG_OP = 'DELETE' AND TG_TABLE_NAME = 'ledger' AND EXISTS (SELECT 1 FROM ledger_segments WHERE OLD.seq BETWEEN first_seq AND last_seq) THEN
           RETURN OLD;
         END IF;
         RAISE EXCEPTION 'the ledger is append-only: % of % is refused', TG_OP, TG_TABLE_NAME;
       END $$""",
    """CREATE FUNCTION predator_grows_at_its_end() RETURNS trigger LANGUAGE plpgsql AS $$
       BEGIN
         IF EXISTS (SELECT 1 FROM ledger WHERE seq >= NEW.seq) THEN
           RAISE EXCEPTION 'the ledger is append-only: record % stands there already', NEW.seq;
         END IF;
         RETURN NEW;
       END $$""",
    "CREATE TRIGGER ledger_grows_at_its_end BEFORE INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION predator_grows_at_its_end()",
    *(
        statement
        for table in ("ledger", "ledger_segments")
        for statement in (
            f"CREATE TRIGGER {table}_only_grows BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION predator_append_only()",
            f"CREATE TRIGGER {table}_is_not_emptied BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION predator_append_only()",
            f"REVOKE UPDATE, TRUNCATE ON {table} FROM CURRENT_USER",
        )
    ),
)


def guards(dialect: str) -> tuple[str, ...]:
    """The statements that make the ledger append-only, for ``sqlite`` or ``postgresql``."""
    return _SQLITE if dialect == "sqlite" else _POSTGRESQL
