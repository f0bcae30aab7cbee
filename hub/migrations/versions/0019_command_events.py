"""Commands can be followed, asked for in batches and asked for twice; runs say what kind of failure it was."""

import sqlalchemy as sa
from alembic import op

from hub import columns, online_changes

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None
stop = ""

_NOT_DONE = "outcome <> 'done'"
_OF_A_KIND = "kind <> ''"


def upgrade() -> None:
    """Add tables and columns, and an index for each filter of the list of runs; nothing that is there changes."""
    op.create_table(
        "command_batches",
        sa.Column("organization", sa.Uuid(), nullable=False),
        sa.Column("task_group", sa.Uuid(), nullable=True),
        sa.Column("gateway", sa.Uuid(), nullable=True),
        sa.Column("context", sa.Text(), nullable=False),
        sa.Column("call", sa.Text(), nullable=False),
        sa.Column("kwargs", columns.Document, nullable=False),
        sa.Column("delay_seconds", sa.Integer(), nullable=False),
        sa.Column("ttl_seconds", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("per_second", sa.Integer(), nullable=False),
        sa.Column("meters", sa.Integer(), nullable=False),
        sa.Column("commands", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("sent_until", columns.UtcDateTime(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["organization"], ["organizations.id"], name="fk_command_batches_organization"),
        sa.PrimaryKeyConstraint("id", name="pk_command_batches"),
        if_not_exists=True,
    )
    for column in ("organization", "created_at"):
        op.create_index(f"ix_command_batches_{column}", "command_batches", [column], unique=False, if_not_exists=True)
    op.create_table(
        "command_refusals",
        sa.Column("batch", sa.Uuid(), nullable=False),
        sa.Column("meter_device", sa.Uuid(), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("reason", sa.String(length=20), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch"], ["command_batches.id"], name="fk_command_refusals_batch", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("batch", "meter_device", name="pk_command_refusals"),
        if_not_exists=True,
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("id", columns.BigId, nullable=False),
        sa.Column("caller", sa.String(length=50), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("target", sa.Uuid(), nullable=True),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_idempotency_keys"),
        sa.UniqueConstraint("caller", "key", name="uq_idempotency_keys_caller_key"),
        if_not_exists=True,
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"], if_not_exists=True)
    online_changes.add_column("commands", sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
    # Without a foreign key: SQLite would make the table anew, and what refers to its rows would go with them.
    online_changes.add_column("commands", sa.Column("batch", sa.Uuid(), nullable=True))
    online_changes.add_column("commands", sa.Column("send_after", columns.UtcDateTime(), nullable=True))
    op.create_table(
        "command_events",
        sa.Column("number", columns.BigId, nullable=False),
        sa.Column("command", sa.Uuid(), nullable=False),
        sa.Column("organization", sa.Uuid(), nullable=False),
        sa.Column("gateway", sa.Uuid(), nullable=False),
        sa.Column("meter_device", sa.Uuid(), nullable=True),
        sa.Column("batch", sa.Uuid(), nullable=True),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["command"], ["commands.id"], name="fk_command_events_command", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("number", name="pk_command_events"),
        sqlite_autoincrement=True,
        if_not_exists=True,
    )
    op.create_index("ix_command_events_command_number", "command_events", ["command", "number"], if_not_exists=True)
    online_changes.add_column("run_reports", sa.Column("kind", sa.Text(), nullable=False, server_default=""))
    online_changes.add_index("ix_commands_batch_state", "commands", ["batch", "state"])
    online_changes.add_index("ix_commands_created_at", "commands", ["created_at", "id"])
    for column in ("gateway", "task"):
        online_changes.add_index(f"ix_run_reports_{column}_ended", "run_reports", [column, "ended"])
        online_changes.drop_index(f"ix_run_reports_{column}", "run_reports")
    online_changes.add_index("ix_run_reports_ended", "run_reports", ["ended", "id"])
    for column, only in (("outcome", _NOT_DONE), ("kind", _OF_A_KIND)):
        online_changes.add_index(f"ix_run_reports_{column}_ended", "run_reports", [column, "ended"], where=only)


def downgrade() -> None:
    """Take them away again: which commands were asked for together is lost, and of what kind failures were."""
    for column in ("outcome", "kind"):
        op.drop_index(f"ix_run_reports_{column}_ended", "run_reports")
    op.drop_index("ix_run_reports_ended", "run_reports")
    for column in ("gateway", "task"):
        op.drop_index(f"ix_run_reports_{column}_ended", "run_reports")
        op.create_index(f"ix_run_reports_{column}", "run_reports", [column], unique=False)
    op.drop_column("run_reports", "kind")
    op.drop_table("command_events")
    op.drop_index("ix_commands_created_at", "commands")
    op.drop_index("ix_commands_batch_state", "commands")
    for column in ("send_after", "batch", "priority"):
        op.drop_column("commands", column)
    op.drop_table("idempotency_keys")
    op.drop_table("command_refusals")
    op.drop_table("command_batches")
