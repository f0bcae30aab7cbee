"""One of several relays publishes a plan: which revision somebody is about to publish, and since when."""

import sqlalchemy as sa
from alembic import op

from hub import columns, online_changes

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None
stop = ""


def upgrade() -> None:
    """Add both to gateways."""
    online_changes.add_column("gateways", sa.Column("publishing_revision", sa.BigInteger(), nullable=True))
    online_changes.add_column("gateways", sa.Column("publishing_at", columns.UtcDateTime(), nullable=True))


def downgrade() -> None:
    """Forget who was at it."""
    op.drop_column("gateways", "publishing_at")
    op.drop_column("gateways", "publishing_revision")
