"""Who changed what, in a table that is only added to, and for how many days that is kept."""

import sqlalchemy as sa
from alembic import op

from hub import columns

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None
stop = ""

_REFUSED = "the audit log is only added to"


def upgrade() -> None:
    """Add the table; the database itself refuses to change what is in it."""
    op.create_table(
        "audit",
        sa.Column("id", columns.BigId, nullable=False),
        sa.Column("at", columns.UtcDateTime(), nullable=False),
        sa.Column("organization", sa.Uuid(), nullable=True),
        sa.Column("actor_kind", sa.String(10), nullable=False),
        sa.Column("actor", sa.Uuid(), nullable=True),
        sa.Column("actor_name", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("via", sa.Text(), nullable=False),
        sa.Column("action", sa.String(50), nullable=False),
        sa.Column("kind", sa.String(50), nullable=False),
        sa.Column("object_id", sa.Text(), nullable=True),
        sa.Column("before", columns.Document, nullable=True),
        sa.Column("after", columns.Document, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_organization_at", "audit", ["organization", "at", "id"])
    op.create_index("ix_audit_at", "audit", ["at", "id"])
    op.create_index("ix_audit_kind_object", "audit", ["kind", "object_id", "at", "id"])
    op.create_index("ix_audit_actor_name", "audit", ["actor_name", "at", "id"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{_REFUSED}'; END $$"
        )
        op.execute(
            "CREATE TRIGGER audit_stays BEFORE UPDATE ON audit FOR EACH STATEMENT "
            "EXECUTE FUNCTION refuse_audit_change()"
        )
    else:
        op.execute(f"CREATE TRIGGER audit_stays BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END")
    op.add_column("retention_policies", sa.Column("audit_days", sa.Integer(), nullable=True))


def downgrade() -> None:
    """Take it away again, with all that was noted."""
    op.drop_column("retention_policies", "audit_days")
    op.drop_table("audit")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_audit_change()")
