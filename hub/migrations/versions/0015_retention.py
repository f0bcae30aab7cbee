"""How long readings, events and staged readings are kept."""

import sqlalchemy as sa
from alembic import op

from hub import columns

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None
stop = ""


def upgrade() -> None:
    """Add the tables; everything is kept for ever, as before."""
    op.create_table(
        "retention_policies",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization", sa.Uuid(), nullable=True),
        sa.Column("readings_days", sa.Integer(), nullable=True),
        sa.Column("events_days", sa.Integer(), nullable=True),
        sa.Column("staged_days", sa.Integer(), nullable=True),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization"], ["organizations.id"], name="fk_retention_policies_organization", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_retention_policies"),
        sa.UniqueConstraint("organization", name="uq_retention_policies_organization"),
    )
    op.create_table(
        "readings_kept",
        sa.Column("organization", sa.Uuid(), nullable=False),
        sa.Column("since", columns.UtcDateTime(), nullable=False),
        sa.Column("cleared", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization"], ["organizations.id"], name="fk_readings_kept_organization", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("organization", name="pk_readings_kept"),
    )


def downgrade() -> None:
    """Take them away again; what was deleted is then expected again."""
    op.drop_table("readings_kept")
    op.drop_table("retention_policies")
