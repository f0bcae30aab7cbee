"""Readings may go by whole months, with their partition: their versions are found by the month then."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and the index; policies go by the day, as before."""
    op.add_column(
        "retention_policies",
        sa.Column("readings_whole_months", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    op.create_index("ix_reading_versions_timestamp", "reading_versions", ["timestamp"], unique=False)


def downgrade() -> None:
    """Take them away again; what went with its month stays gone."""
    op.drop_index("ix_reading_versions_timestamp", "reading_versions")
    op.drop_column("retention_policies", "readings_whole_months")
