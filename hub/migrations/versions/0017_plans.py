"""The last plans of each gateway, as they were published."""

import sqlalchemy as sa
from alembic import op

from hub import columns

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None
stop = ""


def upgrade() -> None:
    """Add the table; relays fill in what is published when they connect."""
    op.create_table(
        "gateway_plans",
        sa.Column("gateway", sa.Uuid(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("made_at", columns.UtcDateTime(), nullable=False),
        sa.Column("made_by", sa.String(length=200), nullable=True),
        sa.Column("made_via", sa.Text(), nullable=True),
        sa.Column("published_at", columns.UtcDateTime(), nullable=True),
        sa.Column("applied_at", columns.UtcDateTime(), nullable=True),
        sa.Column("problems", columns.Document, nullable=True),
        sa.ForeignKeyConstraint(["gateway"], ["gateways.id"], name="fk_gateway_plans_gateway", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("gateway", "revision", name="pk_gateway_plans"),
    )


def downgrade() -> None:
    """Take it away again; gateways get their plan as before."""
    op.drop_table("gateway_plans")
