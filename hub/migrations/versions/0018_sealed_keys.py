"""Keys of meters that push, sealed for the gateways that receive them."""

import sqlalchemy as sa
from alembic import op

from hub import columns

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None
stop = ""


def upgrade() -> None:
    """Add where sealing keys and what is sealed with them are kept; gateways say theirs when a plan needs it."""
    op.add_column("gateways", sa.Column("sealing_key", sa.LargeBinary(), nullable=True))
    op.add_column("gateways", sa.Column("keys_wanted", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("meter_security_keys", sa.Column("generation", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "sealed_meter_keys",
        sa.Column("gateway", sa.Uuid(), nullable=False),
        sa.Column("keys", sa.Uuid(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("sealed_for", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.Column("sealed_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["gateway"], ["gateways.id"], name="fk_sealed_meter_keys_gateway", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["keys"], ["meter_security_keys.id"], name="fk_sealed_meter_keys_keys", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("gateway", "keys", name="pk_sealed_meter_keys"),
    )
    op.create_index("ix_sealed_meter_keys_keys", "sealed_meter_keys", ["keys"])


def downgrade() -> None:
    """Take them away again; what gateways have opened stays with them until their next plan."""
    op.drop_table("sealed_meter_keys")
    op.drop_column("meter_security_keys", "generation")
    op.drop_column("gateways", "keys_wanted")
    op.drop_column("gateways", "sealing_key")
