"""Gateways remember a rival (another agent under their id); failed runs are found by gateway."""

import sqlalchemy as sa
from alembic import op

from hub import columns

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None
stop = "an index of all run reports is built under a lock: reports wait for it"


def upgrade() -> None:
    """Add the columns and the index."""
    op.add_column("gateways", sa.Column("said_at", columns.UtcDateTime(), nullable=True))
    op.add_column("gateways", sa.Column("rival_store", sa.LargeBinary(), nullable=True))
    op.add_column("gateways", sa.Column("rival_said_at", columns.UtcDateTime(), nullable=True))
    op.add_column("gateways", sa.Column("rival_returns", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("gateways", sa.Column("rival_key", sa.LargeBinary(), nullable=True))
    op.add_column("gateways", sa.Column("rival_at", columns.UtcDateTime(), nullable=True))
    failed = sa.text("outcome <> 'done'")
    op.create_index(
        "ix_run_reports_failed",
        "run_reports",
        ["gateway", "ended"],
        unique=False,
        sqlite_where=failed,
        postgresql_where=failed,
    )


def downgrade() -> None:
    """Take them away again; who was a rival is found out anew."""
    op.drop_index("ix_run_reports_failed", "run_reports")
    for column in ("rival_at", "rival_key", "rival_returns", "rival_said_at", "rival_store", "said_at"):
        op.drop_column("gateways", column)
