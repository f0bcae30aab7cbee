"""Readings may go by whole months, with their partition: their versions are found by the month then."""

import sqlalchemy as sa
from alembic import op

from hub import online_changes

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None
stop = ""


def upgrade() -> None:
    """Add the column and the index; policies go by the day, as before."""
    online_changes.add_column(
        "retention_policies",
        sa.Column("readings_whole_months", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    online_changes.add_index("ix_reading_versions_timestamp", "reading_versions", ["timestamp"])


def downgrade() -> None:
    """Take them away again; what went with its month stays gone."""
    op.drop_index("ix_reading_versions_timestamp", "reading_versions")
    op.drop_column("retention_policies", "readings_whole_months")
