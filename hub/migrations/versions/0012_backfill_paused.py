"""Backfills of a gateway can be paused."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None
stop = ""


def upgrade() -> None:
    """Add the column."""
    op.add_column("gateways", sa.Column("backfill_paused", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    """Take it away again; what was paused goes on."""
    op.drop_column("gateways", "backfill_paused")
