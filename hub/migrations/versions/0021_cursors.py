"""Readings are walked by cursors: in the order of their instants, and of their ids where these are the same."""

from alembic import op

from hub import online_changes

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None
stop = ""


def upgrade() -> None:
    """Put an index with the ids in place of the one without."""
    online_changes.add_index("ix_readings_timestamp_id", "readings", ["timestamp", "id"])
    online_changes.drop_index("ix_readings_timestamp", "readings")


def downgrade() -> None:
    """Put the old one back."""
    op.create_index("ix_readings_timestamp", "readings", ["timestamp"])
    op.drop_index("ix_readings_timestamp_id", "readings")
