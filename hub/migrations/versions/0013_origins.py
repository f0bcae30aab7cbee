"""Each version of a reading says which way it came: read by a task, pushed, or given through REST."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None
stop = "every version of every reading is written again in one statement: readings wait for it"


def upgrade() -> None:
    """Add the column; what is known of versions that are there is the provenance of their reading."""
    op.add_column("reading_versions", sa.Column("provenance", sa.Text(), nullable=False, server_default="meter"))
    op.execute(
        "UPDATE reading_versions SET provenance = COALESCE((SELECT r.provenance FROM readings r WHERE "
        "r.meter_device = reading_versions.meter_device AND r.series = reading_versions.series "
        "AND r.timestamp = reading_versions.timestamp AND r.value = reading_versions.value), provenance)"
    )


def downgrade() -> None:
    """Take it away again; which way older values came is lost."""
    op.drop_column("reading_versions", "provenance")
