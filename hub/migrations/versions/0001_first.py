"""The first schema.

On PostgreSQL ``readings`` is range-partitioned by the month of its timestamp: ``hub.maintenance`` makes the months
ahead of need, and the default partition takes what no month takes. Its key there must contain the timestamp.
"""

import sqlalchemy as sa
from alembic import op

from hub import columns

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None
stop = ""


def upgrade() -> None:  # noqa: PLR0915 - a list of tables, each once
    """Make all tables."""
    op.create_table(
        "hub_state",
        sa.Column("key", sa.String(length=63), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_hub_state"),
    )
    op.create_table(
        "organizations",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_organizations"),
        sa.UniqueConstraint("name", name="uq_organizations_name"),
    )
    op.create_table(
        "quarantine",
        sa.Column("id", columns.BigId, nullable=False),
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("store", sa.LargeBinary(), nullable=True),
        sa.Column("first", sa.BigInteger(), nullable=True),
        sa.Column("last", sa.BigInteger(), nullable=True),
        sa.Column("digest", sa.LargeBinary(), nullable=True),
        sa.Column("identity", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", columns.UtcDateTime(), nullable=False),
        sa.Column("replayed_at", columns.UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_quarantine"),
        sa.UniqueConstraint("identity", name="uq_quarantine_identity"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=150), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("created", columns.UtcDateTime(), nullable=False),
        sa.Column("revoked", columns.UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("digest", name="uq_tokens_digest"),
    )
    op.create_table(
        "amr_task_groups",
        sa.Column("organization", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=150), nullable=False),
        sa.Column("description", sa.String(length=500), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["organization"], ["organizations.id"], name="fk_amr_task_groups_organization"),
        sa.PrimaryKeyConstraint("id", name="pk_amr_task_groups"),
    )
    op.create_index("ix_amr_task_groups_organization", "amr_task_groups", ["organization"], unique=False)
    op.create_table(
        "amr_tasks",
        sa.Column("organization", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=150), nullable=False),
        sa.Column("description", sa.String(length=500), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("schedule", sa.String(length=20), nullable=False),
        sa.Column("run_offset_seconds", sa.Integer(), nullable=False),
        sa.Column("meter_execution_type", sa.String(length=50), nullable=False),
        sa.Column("task_call", sa.String(length=50), nullable=False),
        sa.Column("task_kwargs", columns.Document, nullable=False),
        sa.Column("missed_policy", sa.String(length=10), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["organization"], ["organizations.id"], name="fk_amr_tasks_organization"),
        sa.PrimaryKeyConstraint("id", name="pk_amr_tasks"),
    )
    op.create_index("ix_amr_tasks_organization", "amr_tasks", ["organization"], unique=False)
    op.create_table(
        "gateways",
        sa.Column("gateway_id", sa.String(length=63), nullable=False),
        sa.Column("organization", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=150), nullable=False),
        sa.Column("description", sa.String(length=500), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=True),
        sa.Column("desired_revision", sa.BigInteger(), nullable=False),
        sa.Column("desired_at", columns.UtcDateTime(), nullable=True),
        sa.Column("content_digest", sa.LargeBinary(), nullable=True),
        sa.Column("published_revision", sa.BigInteger(), nullable=False),
        sa.Column("published_digest", sa.LargeBinary(), nullable=True),
        sa.Column("applied_revision", sa.BigInteger(), nullable=False),
        sa.Column("applied_digest", sa.LargeBinary(), nullable=True),
        sa.Column("applied_problems", columns.Document, nullable=False),
        sa.Column("applied_session", sa.BigInteger(), nullable=False),
        sa.Column("applied_sequence", sa.BigInteger(), nullable=False),
        sa.Column("session", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("online", sa.Boolean(), nullable=False),
        sa.Column("last_seen", columns.UtcDateTime(), nullable=True),
        sa.Column("store_id", sa.LargeBinary(), nullable=True),
        sa.Column("software", sa.Text(), nullable=False),
        sa.Column("readings_through", sa.BigInteger(), nullable=False),
        sa.Column("reports_through", sa.BigInteger(), nullable=False),
        sa.Column("depth", sa.BigInteger(), nullable=False),
        sa.Column("oldest", columns.UtcDateTime(), nullable=True),
        sa.Column("clock_believed", sa.Boolean(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["organization"], ["organizations.id"], name="fk_gateways_organization"),
        sa.PrimaryKeyConstraint("id", name="pk_gateways"),
        sa.UniqueConstraint("gateway_id", name="uq_gateways_gateway_id"),
    )
    op.create_index("ix_gateways_organization", "gateways", ["organization"], unique=False)
    op.create_table(
        "meter_device_configs",
        sa.Column("organization", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=50), nullable=False),
        sa.Column("timezone", sa.String(length=64), nullable=False),
        sa.Column("mappings", columns.Document, nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["organization"], ["organizations.id"], name="fk_meter_device_configs_organization"),
        sa.PrimaryKeyConstraint("id", name="pk_meter_device_configs"),
    )
    op.create_index("ix_meter_device_configs_organization", "meter_device_configs", ["organization"], unique=False)
    op.create_table(
        "meter_reading_series",
        sa.Column("organization", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=50), nullable=False),
        sa.Column("description", sa.String(length=250), nullable=False),
        sa.Column("unit", sa.String(length=10), nullable=False),
        sa.Column("unit_description", sa.String(length=250), nullable=True),
        sa.Column("si_multiplier", columns.ExactDecimal(), nullable=False),
        sa.Column("affected_by_ct_ratio", sa.Boolean(), nullable=False),
        sa.Column("affected_by_vt_ratio", sa.Boolean(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["organization"], ["organizations.id"], name="fk_meter_reading_series_organization"),
        sa.PrimaryKeyConstraint("id", name="pk_meter_reading_series"),
        sa.UniqueConstraint("organization", "name", name="uq_meter_reading_series_organization_name"),
    )
    op.create_index("ix_meter_reading_series_organization", "meter_reading_series", ["organization"], unique=False)
    op.create_table(
        "batches",
        sa.Column("id", columns.BigId, nullable=False),
        sa.Column("gateway", sa.Uuid(), nullable=False),
        sa.Column("channel", sa.String(length=20), nullable=False),
        sa.Column("store", sa.LargeBinary(), nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", columns.UtcDateTime(), nullable=False),
        sa.Column("stored_at", columns.UtcDateTime(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("duplicates", sa.Integer(), nullable=False),
        sa.Column("revisions", sa.Integer(), nullable=False),
        sa.Column("staged", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["gateway"], ["gateways.id"], name="fk_batches_gateway"),
        sa.PrimaryKeyConstraint("id", name="pk_batches"),
        sa.UniqueConstraint(
            "gateway",
            "store",
            "channel",
            "first",
            "last",
            "digest",
            name="uq_batches_gateway_store_channel_first_last_digest",
        ),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "callers",
        sa.Column("organization", sa.Uuid(), nullable=False),
        sa.Column("gateway", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("allowed", columns.Document, nullable=False),
        sa.Column("expires", columns.UtcDateTime(), nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["gateway"], ["gateways.id"], name="fk_callers_gateway"),
        sa.ForeignKeyConstraint(["organization"], ["organizations.id"], name="fk_callers_organization"),
        sa.PrimaryKeyConstraint("id", name="pk_callers"),
        sa.UniqueConstraint("gateway", "name", name="uq_callers_gateway_name"),
    )
    op.create_index("ix_callers_organization", "callers", ["organization"], unique=False)
    op.create_table(
        "config_series",
        sa.Column("config", sa.Uuid(), nullable=False),
        sa.Column("series", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["config"], ["meter_device_configs.id"], name="fk_config_series_config", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["series"], ["meter_reading_series.id"], name="fk_config_series_series"),
        sa.PrimaryKeyConstraint("config", "series", name="pk_config_series"),
    )
    op.create_index("ix_config_series_series", "config_series", ["series"], unique=False)
    op.create_table(
        "group_tasks",
        sa.Column("group", sa.Uuid(), nullable=False),
        sa.Column("task", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["group"], ["amr_task_groups.id"], name="fk_group_tasks_group", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["task"], ["amr_tasks.id"], name="fk_group_tasks_task", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("group", "task", name="pk_group_tasks"),
    )
    op.create_index("ix_group_tasks_task", "group_tasks", ["task"], unique=False)
    op.create_table(
        "loss_records",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("gateway", sa.Uuid(), nullable=False),
        sa.Column("device", sa.Uuid(), nullable=True),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("series", sa.Text(), nullable=False),
        sa.Column("start", columns.UtcDateTime(), nullable=False),
        sa.Column("end", columns.UtcDateTime(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("received_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["gateway"], ["gateways.id"], name="fk_loss_records_gateway"),
        sa.PrimaryKeyConstraint("id", name="pk_loss_records"),
    )
    op.create_index("ix_loss_records_gateway", "loss_records", ["gateway"], unique=False)
    op.create_table(
        "meter_device_types",
        sa.Column("organization", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=50), nullable=False),
        sa.Column("description", sa.String(length=500), nullable=False),
        sa.Column("manufacturer", sa.String(length=100), nullable=False),
        sa.Column("manufacturer_model", sa.String(length=50), nullable=False),
        sa.Column("config", sa.Uuid(), nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["config"], ["meter_device_configs.id"], name="fk_meter_device_types_config"),
        sa.ForeignKeyConstraint(["organization"], ["organizations.id"], name="fk_meter_device_types_organization"),
        sa.PrimaryKeyConstraint("id", name="pk_meter_device_types"),
    )
    op.create_index("ix_meter_device_types_config", "meter_device_types", ["config"], unique=False)
    op.create_index("ix_meter_device_types_organization", "meter_device_types", ["organization"], unique=False)
    op.create_table(
        "network_interfaces",
        sa.Column("organization", sa.Uuid(), nullable=False),
        sa.Column("static_ip_address", sa.String(length=45), nullable=True),
        sa.Column("fqdn", sa.String(length=200), nullable=True),
        sa.Column("port", sa.Integer(), nullable=True),
        sa.Column("sim", sa.Uuid(), nullable=True),
        sa.Column("can_block", sa.Boolean(), nullable=False),
        sa.Column("is_blocked", sa.Boolean(), nullable=False),
        sa.Column("block_time", columns.UtcDateTime(), nullable=True),
        sa.Column("gateway", sa.Uuid(), nullable=True),
        sa.Column("name", sa.String(length=150), nullable=False),
        sa.Column("serial_port", sa.String(length=255), nullable=True),
        sa.Column("rate", sa.Integer(), nullable=False),
        sa.Column("fixed_rate", sa.Boolean(), nullable=False),
        sa.Column("parity", sa.String(length=10), nullable=False),
        sa.Column("wake_up", sa.Boolean(), nullable=False),
        sa.Column("echo", sa.Boolean(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["gateway"], ["gateways.id"], name="fk_network_interfaces_gateway"),
        sa.ForeignKeyConstraint(["organization"], ["organizations.id"], name="fk_network_interfaces_organization"),
        sa.PrimaryKeyConstraint("id", name="pk_network_interfaces"),
    )
    op.create_index("ix_network_interfaces_gateway", "network_interfaces", ["gateway"], unique=False)
    op.create_index("ix_network_interfaces_organization", "network_interfaces", ["organization"], unique=False)
    op.create_table(
        "outbox_progress",
        sa.Column("gateway", sa.Uuid(), nullable=False),
        sa.Column("store", sa.LargeBinary(), nullable=False),
        sa.Column("channel", sa.String(length=20), nullable=False),
        sa.Column("through", sa.BigInteger(), nullable=False),
        sa.Column("asked_first", sa.BigInteger(), nullable=False),
        sa.Column("asked_through", sa.BigInteger(), nullable=False),
        sa.Column("asked_at", columns.UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["gateway"], ["gateways.id"], name="fk_outbox_progress_gateway", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("gateway", "store", "channel", name="pk_outbox_progress"),
    )
    op.create_table(
        "run_reports",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("gateway", sa.Uuid(), nullable=False),
        sa.Column("device", sa.Uuid(), nullable=False),
        sa.Column("task", sa.Uuid(), nullable=True),
        sa.Column("command", sa.Uuid(), nullable=True),
        sa.Column("tick", columns.UtcDateTime(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("started", columns.UtcDateTime(), nullable=True),
        sa.Column("ended", columns.UtcDateTime(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("readings", sa.BigInteger(), nullable=False),
        sa.Column("line_bytes", sa.BigInteger(), nullable=False),
        sa.Column("received_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["gateway"], ["gateways.id"], name="fk_run_reports_gateway"),
        sa.PrimaryKeyConstraint("id", name="pk_run_reports"),
    )
    op.create_index("ix_run_reports_command", "run_reports", ["command"], unique=False)
    op.create_index("ix_run_reports_device_ended", "run_reports", ["device", "ended"], unique=False)
    op.create_index("ix_run_reports_gateway", "run_reports", ["gateway"], unique=False)
    op.create_index("ix_run_reports_task", "run_reports", ["task"], unique=False)
    op.create_table(
        "meter_devices",
        sa.Column("organization", sa.Uuid(), nullable=True),
        sa.Column("name", sa.String(length=50), nullable=False),
        sa.Column("external_system_reference", sa.String(length=50), nullable=True),
        sa.Column("manufacturer_serial", sa.String(length=50), nullable=True),
        sa.Column("protocol", sa.String(length=20), nullable=False),
        sa.Column("iec62056_21_address", sa.String(length=8), nullable=True),
        sa.Column("dlms_logical_device_name", sa.String(length=32), nullable=True),
        sa.Column("dlms_system_title", sa.String(length=16), nullable=True),
        sa.Column("type", sa.Uuid(), nullable=True),
        sa.Column("network_interface", sa.Uuid(), nullable=True),
        sa.Column("has_current_transformer", sa.Boolean(), nullable=False),
        sa.Column("current_transformer_ratio", sa.Integer(), nullable=False),
        sa.Column("has_voltage_transformer", sa.Boolean(), nullable=False),
        sa.Column("voltage_transformer_ratio", sa.Integer(), nullable=False),
        sa.Column("has_disconnector", sa.Boolean(), nullable=False),
        sa.Column("disconnector_status", sa.Integer(), nullable=True),
        sa.Column("timezone", sa.String(length=64), nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["network_interface"], ["network_interfaces.id"], name="fk_meter_devices_network_interface"
        ),
        sa.ForeignKeyConstraint(["organization"], ["organizations.id"], name="fk_meter_devices_organization"),
        sa.ForeignKeyConstraint(["type"], ["meter_device_types.id"], name="fk_meter_devices_type"),
        sa.PrimaryKeyConstraint("id", name="pk_meter_devices"),
        sa.UniqueConstraint("organization", "name", name="uq_meter_devices_organization_name"),
    )
    op.create_index("ix_meter_devices_name", "meter_devices", ["name"], unique=False)
    op.create_index("ix_meter_devices_network_interface", "meter_devices", ["network_interface"], unique=False)
    op.create_index("ix_meter_devices_type", "meter_devices", ["type"], unique=False)
    op.create_index(
        "uq_meter_devices_name_alone",
        "meter_devices",
        ["name"],
        unique=True,
        sqlite_where=sa.text("organization IS NULL"),
        postgresql_where=sa.text("organization IS NULL"),
    )
    op.create_table(
        "staged_meter_readings",
        sa.Column("id", columns.BigId, nullable=False),
        sa.Column("identity", sa.LargeBinary(), nullable=False),
        sa.Column("organization", sa.Uuid(), nullable=True),
        sa.Column("meter_device_name", sa.String(length=50), nullable=False),
        sa.Column("series_name", sa.String(length=50), nullable=False),
        sa.Column("timestamp", columns.UtcDateTime(), nullable=False),
        sa.Column("value", columns.ExactDecimal(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("device", sa.Uuid(), nullable=True),
        sa.Column("gateway", sa.Uuid(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("batch", columns.BigId, nullable=True),
        sa.Column("collected", columns.UtcDateTime(), nullable=False),
        sa.Column("provenance", sa.Text(), nullable=False),
        sa.Column("clock_offset", sa.Double(), nullable=True),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["batch"], ["batches.id"], name="fk_staged_meter_readings_batch"),
        sa.ForeignKeyConstraint(["gateway"], ["gateways.id"], name="fk_staged_meter_readings_gateway"),
        sa.ForeignKeyConstraint(["organization"], ["organizations.id"], name="fk_staged_meter_readings_organization"),
        sa.PrimaryKeyConstraint("id", name="pk_staged_meter_readings"),
        sa.UniqueConstraint("identity", name="uq_staged_meter_readings_identity"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_staged_meter_readings_device", "staged_meter_readings", ["device"], unique=False)
    op.create_index(
        "ix_staged_meter_readings_meter_device_name", "staged_meter_readings", ["meter_device_name"], unique=False
    )
    op.create_table(
        "commands",
        sa.Column("organization", sa.Uuid(), nullable=False),
        sa.Column("gateway", sa.Uuid(), nullable=False),
        sa.Column("meter_device", sa.Uuid(), nullable=True),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("context", sa.Text(), nullable=False),
        sa.Column("call", sa.Text(), nullable=False),
        sa.Column("kwargs", columns.Document, nullable=False),
        sa.Column("delay_seconds", sa.Integer(), nullable=False),
        sa.Column("ttl_seconds", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("expires_at", columns.UtcDateTime(), nullable=False),
        sa.Column("store_id", sa.LargeBinary(), nullable=True),
        sa.Column("published_at", columns.UtcDateTime(), nullable=True),
        sa.Column("session", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("readings", columns.Document, nullable=False),
        sa.Column("result", columns.Document, nullable=False),
        sa.Column("ended_at", columns.UtcDateTime(), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("cancel_published_at", columns.UtcDateTime(), nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["gateway"], ["gateways.id"], name="fk_commands_gateway"),
        sa.ForeignKeyConstraint(
            ["meter_device"], ["meter_devices.id"], name="fk_commands_meter_device", ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(["organization"], ["organizations.id"], name="fk_commands_organization"),
        sa.PrimaryKeyConstraint("id", name="pk_commands"),
    )
    op.create_index("ix_commands_gateway", "commands", ["gateway"], unique=False)
    op.create_index("ix_commands_organization", "commands", ["organization"], unique=False)
    op.create_index("ix_commands_state_expires_at", "commands", ["state", "expires_at"], unique=False)
    op.create_table(
        "device_gateways",
        sa.Column("device", sa.Uuid(), nullable=False),
        sa.Column("gateway", sa.Uuid(), nullable=False),
        sa.Column("since", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["meter_devices.id"], name="fk_device_gateways_device", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["gateway"], ["gateways.id"], name="fk_device_gateways_gateway", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("device", "gateway", name="pk_device_gateways"),
    )
    op.create_table(
        "device_groups",
        sa.Column("device", sa.Uuid(), nullable=False),
        sa.Column("group", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["meter_devices.id"], name="fk_device_groups_device", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["group"], ["amr_task_groups.id"], name="fk_device_groups_group", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("device", "group", name="pk_device_groups"),
    )
    op.create_index("ix_device_groups_group", "device_groups", ["group"], unique=False)
    op.create_table(
        "device_tasks",
        sa.Column("device", sa.Uuid(), nullable=False),
        sa.Column("task", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["meter_devices.id"], name="fk_device_tasks_device", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["task"], ["amr_tasks.id"], name="fk_device_tasks_task", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("device", "task", name="pk_device_tasks"),
    )
    op.create_index("ix_device_tasks_task", "device_tasks", ["task"], unique=False)
    op.create_table(
        "meter_system_events",
        sa.Column("id", columns.BigId, nullable=False),
        sa.Column("organization", sa.Uuid(), nullable=False),
        sa.Column("meter_device", sa.Uuid(), nullable=False),
        sa.Column("timestamp", columns.UtcDateTime(), nullable=False),
        sa.Column("title", sa.String(length=50), nullable=False),
        sa.Column("content", sa.String(length=500), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("report", sa.Uuid(), nullable=True),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["meter_device"], ["meter_devices.id"], name="fk_meter_system_events_meter_device", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["organization"], ["organizations.id"], name="fk_meter_system_events_organization"),
        sa.PrimaryKeyConstraint("id", name="pk_meter_system_events"),
        sa.UniqueConstraint("report", name="uq_meter_system_events_report"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_meter_system_events_meter_device_timestamp",
        "meter_system_events",
        ["meter_device", "timestamp"],
        unique=False,
    )
    op.create_index("ix_meter_system_events_organization", "meter_system_events", ["organization"], unique=False)
    op.create_table(
        "reading_versions",
        sa.Column("id", columns.BigId, nullable=False),
        sa.Column("meter_device", sa.Uuid(), nullable=False),
        sa.Column("series", sa.Uuid(), nullable=False),
        sa.Column("timestamp", columns.UtcDateTime(), nullable=False),
        sa.Column("value", columns.ExactDecimal(), nullable=False),
        sa.Column("first_collected", columns.UtcDateTime(), nullable=False),
        sa.Column("collected", columns.UtcDateTime(), nullable=False),
        sa.Column("batch", columns.BigId, nullable=True),
        sa.ForeignKeyConstraint(["batch"], ["batches.id"], name="fk_reading_versions_batch"),
        sa.ForeignKeyConstraint(["meter_device"], ["meter_devices.id"], name="fk_reading_versions_meter_device"),
        sa.ForeignKeyConstraint(["series"], ["meter_reading_series.id"], name="fk_reading_versions_series"),
        sa.PrimaryKeyConstraint("id", name="pk_reading_versions"),
        sa.UniqueConstraint(
            "meter_device",
            "series",
            "timestamp",
            "value",
            name="uq_reading_versions_meter_device_series_timestamp_value",
        ),
        sqlite_autoincrement=True,
    )
    key = ["id", "timestamp"] if op.get_context().dialect.name == "postgresql" else ["id"]
    op.create_table(
        "readings",
        sa.Column("id", columns.BigId, sa.Identity(), nullable=False),
        sa.Column("organization", sa.Uuid(), nullable=False),
        sa.Column("meter_device", sa.Uuid(), nullable=False),
        sa.Column("series", sa.Uuid(), nullable=False),
        sa.Column("timestamp", columns.UtcDateTime(), nullable=False),
        sa.Column("value", columns.ExactDecimal(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("provenance", sa.Text(), nullable=False),
        sa.Column("collected", columns.UtcDateTime(), nullable=False),
        sa.Column("first_collected", columns.UtcDateTime(), nullable=True),
        sa.Column("clock_offset", sa.Double(), nullable=True),
        sa.Column("batch", columns.BigId, nullable=True),
        sa.Column("version_count", sa.Integer(), nullable=False),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["batch"], ["batches.id"], name="fk_readings_batch"),
        sa.ForeignKeyConstraint(["meter_device"], ["meter_devices.id"], name="fk_readings_meter_device"),
        sa.ForeignKeyConstraint(["organization"], ["organizations.id"], name="fk_readings_organization"),
        sa.ForeignKeyConstraint(["series"], ["meter_reading_series.id"], name="fk_readings_series"),
        sa.PrimaryKeyConstraint(*key, name="pk_readings"),
        sa.UniqueConstraint("meter_device", "series", "timestamp", name="uq_readings_meter_device_series_timestamp"),
        sqlite_autoincrement=True,
        postgresql_partition_by="RANGE (timestamp)",
    )
    if op.get_context().dialect.name == "postgresql":
        op.execute("CREATE TABLE readings_default PARTITION OF readings DEFAULT")
    op.create_index("ix_readings_organization", "readings", ["organization"], unique=False)
    op.create_index("ix_readings_series", "readings", ["series"], unique=False)
    op.create_index("ix_readings_timestamp", "readings", ["timestamp"], unique=False)
    op.create_table(
        "command_updates",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("command", sa.Uuid(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("at", columns.UtcDateTime(), nullable=False),
        sa.Column("session", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["command"], ["commands.id"], name="fk_command_updates_command", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_command_updates"),
    )
    op.create_index("ix_command_updates_command", "command_updates", ["command"], unique=False)
