"""A gateway's row says what its lines did and what went wrong on them."""

import sqlalchemy as sa
from alembic import op

from hub import columns

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
stop = ""


def upgrade() -> None:
    """Add the column."""
    op.add_column("gateways", sa.Column("lines", columns.Document, nullable=False, server_default="[]"))


def downgrade() -> None:
    """Take it away again; gateways say it anew."""
    op.drop_column("gateways", "lines")
