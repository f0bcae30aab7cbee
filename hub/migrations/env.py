"""Run by Alembic: apply migrations on the connection that ``hub.database.migrate`` hands over, in its transaction."""

from alembic import context

from hub.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=False,
)
with context.begin_transaction():
    context.run_migrations()
