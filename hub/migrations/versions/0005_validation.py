"""Readings carry flags, configs the limits that these are judged by; replaced meters have periods."""

import sqlalchemy as sa
from alembic import op

from hub import columns

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
stop = "an index of all readings is built under a lock: readings wait for it"


def upgrade() -> None:
    """Add the columns and tables."""
    op.add_column("readings", sa.Column("flags", sa.SmallInteger(), nullable=False, server_default="0"))
    flagged = sa.text("flags <> 0")
    op.create_index(
        "ix_readings_flagged",
        "readings",
        ["meter_device", "timestamp"],
        unique=False,
        sqlite_where=flagged,
        postgresql_where=flagged,
    )
    op.add_column(
        "meter_device_configs", sa.Column("limits", columns.Document, nullable=False, server_default=sa.text("'[]'"))
    )
    op.create_table(
        "unjudged_readings",
        sa.Column("id", columns.BigId, nullable=False),
        sa.Column("spans", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_unjudged_readings"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "device_periods",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("meter_device", sa.Uuid(), nullable=False),
        sa.Column("serial", sa.String(length=50), nullable=False),
        sa.Column("since", columns.UtcDateTime(), nullable=True),
        sa.Column("until", columns.UtcDateTime(), nullable=True),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["meter_device"], ["meter_devices.id"], name="fk_device_periods_meter_device", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_device_periods"),
    )
    op.create_index("ix_device_periods_meter_device", "device_periods", ["meter_device"], unique=False)


def downgrade() -> None:
    """Take them away again; flags can be judged anew, limits and periods are lost."""
    op.drop_table("device_periods")
    op.drop_table("unjudged_readings")
    op.drop_column("meter_device_configs", "limits")
    op.drop_index("ix_readings_flagged", "readings")
    op.drop_column("readings", "flags")
