"""Deadlines, how their periods went, and the events that webhooks are told."""

import sqlalchemy as sa
from alembic import op

from hub import columns

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None
stop = ""


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "deadlines",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("description", sa.String(length=500), nullable=False),
        sa.Column("task_group", sa.Uuid(), nullable=True),
        sa.Column("interval", sa.String(length=20), nullable=False),
        sa.Column("anchor_seconds", sa.Integer(), nullable=False),
        sa.Column("within_seconds", sa.Integer(), nullable=False),
        sa.Column("target_percent", columns.ExactDecimal(), nullable=False),
        sa.Column("patience_seconds", sa.Integer(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("webhook_url", sa.String(length=500), nullable=True),
        sa.Column("webhook_secret", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["organization"], ["organizations.id"], name="fk_deadlines_organization"),
        sa.ForeignKeyConstraint(["task_group"], ["amr_task_groups.id"], name="fk_deadlines_task_group"),
        sa.PrimaryKeyConstraint("id", name="pk_deadlines"),
        sa.UniqueConstraint("organization", "name", name="uq_deadlines_organization_name"),
    )
    op.create_index("ix_deadlines_organization", "deadlines", ["organization"], unique=False)
    op.create_index("ix_deadlines_task_group", "deadlines", ["task_group"], unique=False)
    op.create_table(
        "deadline_series",
        sa.Column("deadline", sa.Uuid(), nullable=False),
        sa.Column("series", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["deadline"], ["deadlines.id"], name="fk_deadline_series_deadline", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["series"], ["meter_reading_series.id"], name="fk_deadline_series_series"),
        sa.PrimaryKeyConstraint("deadline", "series", name="pk_deadline_series"),
    )
    op.create_index("ix_deadline_series_series", "deadline_series", ["series"], unique=False)
    op.create_table(
        "deadline_periods",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("deadline", sa.Uuid(), nullable=False),
        sa.Column("zone", sa.String(length=64), nullable=False),
        sa.Column("slot", sa.BigInteger(), nullable=False),
        sa.Column("start", columns.UtcDateTime(), nullable=False),
        sa.Column("end", columns.UtcDateTime(), nullable=False),
        sa.Column("due_at", columns.UtcDateTime(), nullable=False),
        sa.Column("target_percent", columns.ExactDecimal(), nullable=False),
        sa.Column("seen_at", columns.UtcDateTime(), nullable=True),
        sa.Column("expected", sa.BigInteger(), nullable=False),
        sa.Column("stored", sa.BigInteger(), nullable=False),
        sa.Column("late", sa.BigInteger(), nullable=False),
        sa.Column("possible", sa.BigInteger(), nullable=False),
        sa.Column("projected", sa.BigInteger(), nullable=False),
        sa.Column("reasons", columns.Document, nullable=False),
        sa.Column("closed_at", columns.UtcDateTime(), nullable=True),
        sa.Column("counted_at", columns.UtcDateTime(), nullable=True),
        sa.Column("alerted", sa.Boolean(), nullable=False),
        sa.Column("turned_at", columns.UtcDateTime(), nullable=True),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["deadline"], ["deadlines.id"], name="fk_deadline_periods_deadline", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_deadline_periods"),
        sa.UniqueConstraint("deadline", "zone", "slot", name="uq_deadline_periods_deadline_zone_slot"),
    )
    op.create_index("ix_deadline_periods_deadline_start", "deadline_periods", ["deadline", "start"], unique=False)
    _partial("ix_deadline_periods_open", "deadline_periods", "due_at", "closed_at IS NULL")
    _partial("ix_deadline_periods_watched", "deadline_periods", "counted_at", "counted_at IS NOT NULL")
    op.create_table(
        "deadline_parts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("period", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("key", sa.Uuid(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("expected", sa.BigInteger(), nullable=False),
        sa.Column("stored", sa.BigInteger(), nullable=False),
        sa.Column("late", sa.BigInteger(), nullable=False),
        sa.Column("reasons", columns.Document, nullable=False),
        sa.ForeignKeyConstraint(
            ["period"], ["deadline_periods.id"], name="fk_deadline_parts_period", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_deadline_parts"),
    )
    op.create_index("ix_deadline_parts_period", "deadline_parts", ["period", "kind"], unique=False)
    op.create_table(
        "notifications",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("deadline", sa.Uuid(), nullable=False),
        sa.Column("period", sa.Uuid(), nullable=True),
        sa.Column("type", sa.String(length=30), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_at", columns.UtcDateTime(), nullable=False),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("ended_at", columns.UtcDateTime(), nullable=True),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["deadline"], ["deadlines.id"], name="fk_notifications_deadline", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["period"], ["deadline_periods.id"], name="fk_notifications_period", ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_notifications"),
    )
    op.create_index("ix_notifications_period", "notifications", ["period"], unique=False)
    op.create_index("ix_notifications_deadline_created_at", "notifications", ["deadline", "created_at"], unique=False)
    _partial("ix_notifications_open", "notifications", "next_at", "ended_at IS NULL")


def _partial(name: str, table: str, column: str, condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, [column], unique=False, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    """Take them away again; deadlines, their results and events are lost."""
    for table in ("notifications", "deadline_parts", "deadline_periods", "deadline_series", "deadlines"):
        op.drop_table(table)
