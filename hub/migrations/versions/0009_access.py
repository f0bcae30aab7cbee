"""Users, memberships; what a token opens, and until when."""

import sqlalchemy as sa
from alembic import op

from hub import columns

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None
stop = ""


def upgrade() -> None:
    """Add the tables and columns; the tokens that are there are staff's and open what they opened."""
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("username", sa.String(length=150), nullable=False),
        sa.Column("password", sa.Text(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("sessions_since", columns.UtcDateTime(), nullable=False),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("username", name="uq_users_username"),
    )
    op.create_table(
        "memberships",
        sa.Column("id", columns.BigId, nullable=False),
        sa.Column("organization", sa.Uuid(), nullable=False),
        sa.Column("user", sa.Uuid(), nullable=False),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization"], ["organizations.id"], name="fk_memberships_organization", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["user"], ["users.id"], name="fk_memberships_user", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_memberships"),
        sa.UniqueConstraint("organization", "user", name="uq_memberships_organization_user"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_memberships_user", "memberships", ["user"], unique=False)
    # SQLite adds a column that refers to another table only by making the table anew.
    with op.batch_alter_table("tokens") as tokens:
        tokens.add_column(sa.Column("organization", sa.Uuid(), nullable=True))
        tokens.add_column(sa.Column("scopes", columns.Document, nullable=False, server_default=sa.text("'[]'")))
        tokens.add_column(sa.Column("expires", columns.UtcDateTime(), nullable=True))
        tokens.add_column(sa.Column("last_used", columns.UtcDateTime(), nullable=True))
        tokens.create_foreign_key(
            "fk_tokens_organization", "organizations", ["organization"], ["id"], ondelete="CASCADE"
        )
        tokens.create_index("ix_tokens_organization", ["organization"], unique=False)
    op.execute(sa.text("""UPDATE tokens SET scopes = '["staff"]'"""))


def downgrade() -> None:
    """Take it away again; tokens that do not open everything end, for the version before knows no others."""
    op.execute(sa.text("DELETE FROM tokens WHERE organization IS NOT NULL OR CAST(scopes AS TEXT) <> '[\"staff\"]'"))
    with op.batch_alter_table("tokens") as tokens:
        tokens.drop_index("ix_tokens_organization")
        tokens.drop_constraint("fk_tokens_organization", type_="foreignkey")
        for column in ("last_used", "expires", "scopes", "organization"):
            tokens.drop_column(column)
    op.drop_table("memberships")
    op.drop_table("users")
