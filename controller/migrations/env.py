"""Alembic's entry point: runs the revisions on the connection, and in the transaction, of `open_database`."""

from alembic import context

from controller.database import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot alter most of a table in place; Alembic then copies it.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
