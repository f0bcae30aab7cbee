"""Receivers: what gateways take in unasked, for which meters, and what of it could not be read."""

import sqlalchemy as sa
from alembic import op

from hub import columns

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None
stop = ""


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "receivers",
        sa.Column("organization", sa.Uuid(), nullable=False),
        sa.Column("gateway", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("receiver", sa.String(length=100), nullable=False),
        sa.Column("endpoint", sa.String(length=255), nullable=False),
        sa.Column("receiver_kwargs", columns.Document, nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["gateway"], ["gateways.id"], name="fk_receivers_gateway"),
        sa.ForeignKeyConstraint(["organization"], ["organizations.id"], name="fk_receivers_organization"),
        sa.PrimaryKeyConstraint("id", name="pk_receivers"),
        sa.UniqueConstraint("gateway", "name", name="uq_receivers_gateway_name"),
    )
    op.create_index("ix_receivers_organization", "receivers", ["organization"], unique=False)
    op.create_table(
        "receiver_meters",
        sa.Column("receiver", sa.Uuid(), nullable=False),
        sa.Column("device", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["meter_devices.id"], name="fk_receiver_meters_device", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["receiver"], ["receivers.id"], name="fk_receiver_meters_receiver", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("receiver", "device", name="pk_receiver_meters"),
    )
    op.create_index("ix_receiver_meters_device", "receiver_meters", ["device"], unique=False)
    op.create_table(
        "undecodable_pushes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("gateway", sa.Uuid(), nullable=False),
        sa.Column("receiver", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("came", columns.UtcDateTime(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("received_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["gateway"], ["gateways.id"], name="fk_undecodable_pushes_gateway", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_undecodable_pushes"),
    )
    op.create_index(
        "ix_undecodable_pushes_receiver_came", "undecodable_pushes", ["gateway", "receiver", "came"], unique=False
    )


def downgrade() -> None:
    """Take the tables away again."""
    for table in ("undecodable_pushes", "receiver_meters", "receivers"):
        op.drop_table(table)
