"""The ledger: what is expected, what is stored, what is lost; meters begin and end, configs say what to expect."""

import sqlalchemy as sa
from alembic import op

from hub import columns

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None
stop = "processes of the schema before do not note for the ledger what they store"


def upgrade() -> None:
    """Add columns and tables; mark every meter, so that a clerk finds out what is expected of it."""
    op.add_column("meter_devices", sa.Column("commissioned", columns.UtcDateTime(), nullable=True))
    op.add_column("meter_devices", sa.Column("decommissioned", columns.UtcDateTime(), nullable=True))
    op.add_column(
        "meter_device_configs",
        sa.Column("expectations", columns.Document, nullable=False, server_default=sa.text("'[]'")),
    )
    op.create_table(
        "ledger_rasters",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("organization", sa.Uuid(), nullable=True),
        sa.Column("interval", sa.String(length=20), nullable=False),
        sa.Column("anchor_seconds", sa.Integer(), nullable=False),
        sa.Column("zone", sa.String(length=64), nullable=False),
        sa.Column("momentary", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization"], ["organizations.id"], name="fk_ledger_rasters_organization", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_ledger_rasters"),
        sa.UniqueConstraint(
            "organization",
            "interval",
            "anchor_seconds",
            "zone",
            "momentary",
            name="uq_ledger_rasters_all",
        ),
    )
    op.create_table(
        "expectations",
        sa.Column("id", columns.BigId, nullable=False),
        sa.Column("device", sa.Uuid(), nullable=False),
        sa.Column("series", sa.Uuid(), nullable=False),
        sa.Column("raster", sa.Integer(), nullable=False),
        sa.Column("origin", sa.String(length=10), nullable=False),
        sa.Column("archive", sa.Integer(), nullable=True),
        sa.Column("since_slot", sa.BigInteger(), nullable=False),
        sa.Column("until_slot", sa.BigInteger(), nullable=True),
        sa.Column("rebuilding", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["meter_devices.id"], name="fk_expectations_device", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["series"], ["meter_reading_series.id"], name="fk_expectations_series", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["raster"], ["ledger_rasters.id"], name="fk_expectations_raster"),
        sa.PrimaryKeyConstraint("id", name="pk_expectations"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_expectations_device_series", "expectations", ["device", "series"], unique=False)
    op.create_index("ix_expectations_series", "expectations", ["series"], unique=False)
    op.create_index("ix_expectations_raster", "expectations", ["raster", "since_slot", "until_slot"], unique=False)
    rebuilding = sa.text("rebuilding")
    op.create_index(
        "ix_expectations_rebuilding",
        "expectations",
        ["id"],
        unique=False,
        sqlite_where=rebuilding,
        postgresql_where=rebuilding,
    )
    op.create_table(
        "expectation_marks",
        sa.Column("id", columns.BigId, nullable=False),
        sa.Column("device", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_expectation_marks"),
    )
    op.create_table(
        "ledger_pending",
        sa.Column("id", columns.BigId, nullable=False),
        sa.Column("keys", sa.LargeBinary(), nullable=False),
        sa.Column("removed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ledger_pending"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "ledger_chunks",
        sa.Column("expectation", columns.BigId, nullable=False),
        sa.Column("chunk", sa.Integer(), nullable=False),
        sa.Column("raster", sa.Integer(), nullable=False),
        sa.Column("bits", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["expectation"], ["expectations.id"], name="fk_ledger_chunks_expectation", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("expectation", "chunk", name="pk_ledger_chunks"),
        postgresql_with={"fillfactor": 80},
    )
    op.create_index("ix_ledger_chunks_raster_chunk", "ledger_chunks", ["raster", "chunk"], unique=False)
    op.create_table(
        "ledger_settled",
        sa.Column("id", columns.BigId, nullable=False),
        sa.Column("expectation", columns.BigId, nullable=False),
        sa.Column("start", columns.UtcDateTime(), nullable=False),
        sa.Column("end", columns.UtcDateTime(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("command", sa.Uuid(), nullable=True),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["expectation"], ["expectations.id"], name="fk_ledger_settled_expectation", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_ledger_settled"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_ledger_settled_expectation_start", "ledger_settled", ["expectation", "start"], unique=False)
    op.execute("INSERT INTO expectation_marks (device) SELECT id FROM meter_devices")


def downgrade() -> None:
    """Take all of it away again; the readings are as they were."""
    for table in (
        "ledger_settled",
        "ledger_chunks",
        "ledger_pending",
        "expectation_marks",
        "expectations",
        "ledger_rasters",
    ):
        op.drop_table(table)
    op.drop_column("meter_device_configs", "expectations")
    op.drop_column("meter_devices", "decommissioned")
    op.drop_column("meter_devices", "commissioned")
