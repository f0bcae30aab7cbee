"""Run by Alembic: apply migrations on the connection that ``hub.database.migrate`` hands over, in its transaction."""

import sqlalchemy as sa
from alembic import context

from hub.late_readings import abandoning
from hub.models import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=False,
)
with context.begin_transaction():
    if connection.dialect.name == "postgresql" and sa.inspect(connection).has_table("hub_state"):
        for statement in abandoning():
            connection.execute(sa.text(statement))
    context.run_migrations()
