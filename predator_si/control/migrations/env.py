"""Alembic's way in: the steps run on the connection, and in the transaction, that ``control.migrate`` hands over."""

from __future__ import annotations

from alembic import context

from predator_si.control.schema import metadata


def run() -> None:
    """Run the steps that were asked for."""
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=metadata,
        render_as_batch=True,  # SQLite cannot alter a column: a changed table is written anew and renamed
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if getattr(context, "config", None) is not None:  # Alembic executes this file; an import by anybody else does nothing
    run()
