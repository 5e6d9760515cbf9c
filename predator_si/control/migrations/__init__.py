"""Steps between the schema versions of the control database, run by Alembic when an older one is opened (``control.migrate``)."""
