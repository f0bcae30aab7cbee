"""Gaps that are being closed, one row for each window of an archive."""

import sqlalchemy as sa
from alembic import op

from hub import columns

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None
stop = ""


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "backfills",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization", sa.Uuid(), nullable=False),
        sa.Column("gateway", sa.Uuid(), nullable=False),
        sa.Column("meter_device", sa.Uuid(), nullable=False),
        sa.Column("archive", sa.Integer(), nullable=False),
        sa.Column("start", columns.UtcDateTime(), nullable=False),
        sa.Column("end", columns.UtcDateTime(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("origin", sa.String(length=10), nullable=False),
        sa.Column("request", sa.Uuid(), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_at", columns.UtcDateTime(), nullable=False),
        sa.Column("noticed_at", columns.UtcDateTime(), nullable=False),
        sa.Column("cost_seconds", sa.Double(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("command", sa.Uuid(), nullable=True),
        sa.Column("ended_at", columns.UtcDateTime(), nullable=True),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["organization"], ["organizations.id"], name="fk_backfills_organization"),
        sa.ForeignKeyConstraint(["gateway"], ["gateways.id"], name="fk_backfills_gateway", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["meter_device"], ["meter_devices.id"], name="fk_backfills_meter_device", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["command"], ["commands.id"], name="fk_backfills_command", ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name="pk_backfills"),
    )
    for column in ("organization", "gateway", "request", "created_at"):
        op.create_index(f"ix_backfills_{column}", "backfills", [column], unique=False)
    op.create_index("ix_backfills_meter_device_archive", "backfills", ["meter_device", "archive"], unique=False)
    is_open = sa.text("ended_at IS NULL")
    op.create_index(
        "ix_backfills_open",
        "backfills",
        ["state", "next_at"],
        unique=False,
        sqlite_where=is_open,
        postgresql_where=is_open,
    )


def downgrade() -> None:
    """Take it away again; gaps are found anew, requests and pauses of operators are lost."""
    op.drop_table("backfills")
