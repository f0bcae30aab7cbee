"""Run by Alembic: apply migrations on the connection that ``hub.migrating`` hands over.

On PostgreSQL each migration is a transaction of its own; on SQLite all are in the one that is under way.
"""

from collections.abc import Collection, Mapping
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo

from hub.database import note_served
from hub.models import Base


def _note_served(
    ctx: MigrationContext,
    step: MigrationInfo,  # noqa: ARG001 - Alembic gives it by name
    heads: Collection[str],
    run_args: Mapping[str, Any],  # noqa: ARG001 - as above
) -> None:
    """Keep whose processes the schema serves: those of every schema since one that they had to be ended for."""
    if heads and ctx.connection is not None:
        scripts = context.script.iterate_revisions(max(heads), "base")
        stops = [script.revision for script in scripts if script.module.stop]
        note_served(ctx.connection, max(stops, default="0001"))


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=False,
    transaction_per_migration=connection.dialect.name == "postgresql",
    on_version_apply=_note_served,
)
with context.begin_transaction():
    context.run_migrations()
