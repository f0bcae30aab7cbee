"""Readings are walked by cursors: in the order of their instants, and of their ids where these are the same."""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Put an index with the ids in place of the one without."""
    op.create_index("ix_readings_timestamp_id", "readings", ["timestamp", "id"])
    op.drop_index("ix_readings_timestamp", "readings")


def downgrade() -> None:
    """Put the old one back."""
    op.create_index("ix_readings_timestamp", "readings", ["timestamp"])
    op.drop_index("ix_readings_timestamp_id", "readings")
