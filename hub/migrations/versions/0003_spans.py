"""A run's row may stand for several missed ticks; gateways remember every store that spoke for them of late."""

import sqlalchemy as sa
from alembic import op

from hub import columns

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None
stop = ""


def upgrade() -> None:
    """Add the columns."""
    op.add_column("run_reports", sa.Column("since", columns.UtcDateTime(), nullable=True))
    op.add_column("run_reports", sa.Column("count", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("gateways", sa.Column("past_stores", columns.Document, nullable=False, server_default="[]"))


def downgrade() -> None:
    """Take them away again; how many ticks a report stands for is lost, and which stores a gateway had."""
    op.drop_column("gateways", "past_stores")
    op.drop_column("run_reports", "count")
    op.drop_column("run_reports", "since")
