"""SIM cards, security keys of meters, and names of which there is one in an organization."""

import sqlalchemy as sa
from alembic import op

from hub import columns

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None
stop = ""

NAMED = {"amr_tasks": 150, "amr_task_groups": 150, "meter_device_configs": 50, "meter_device_types": 50}
"""Tables whose names are now unique in an organization, and the widths of the names."""


def upgrade() -> None:
    """Add the tables; of things with one name all but the oldest get a number behind it."""
    op.create_table(
        "sim_cards",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization", sa.Uuid(), nullable=True),
        sa.Column("iccid", sa.String(length=20), nullable=False),
        sa.Column("imsi", sa.String(length=15), nullable=False),
        sa.Column("ip_address", sa.String(length=45), nullable=True),
        sa.Column("phone_number", sa.String(length=30), nullable=True),
        sa.Column("external_system_link", sa.String(length=200), nullable=True),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["organization"], ["organizations.id"], name="fk_sim_cards_organization"),
        sa.PrimaryKeyConstraint("id", name="pk_sim_cards"),
        sa.UniqueConstraint("organization", "iccid", name="uq_sim_cards_organization_iccid"),
    )
    op.create_index("ix_sim_cards_iccid", "sim_cards", ["iccid"], unique=False)
    op.create_index("ix_sim_cards_imsi", "sim_cards", ["imsi"], unique=False)
    alone = sa.text("organization IS NULL")
    op.create_index(
        "uq_sim_cards_iccid_alone", "sim_cards", ["iccid"], unique=True, sqlite_where=alone, postgresql_where=alone
    )
    op.create_table(
        "meter_security_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("meter", sa.Uuid(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("stored", columns.Document, nullable=False),
        sa.Column("created_at", columns.UtcDateTime(), nullable=False),
        sa.Column("updated_at", columns.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["meter"], ["meter_devices.id"], name="fk_meter_security_keys_meter", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_meter_security_keys"),
        sa.UniqueConstraint("meter", name="uq_meter_security_keys_meter"),
    )
    for table, width in NAMED.items():
        _tell_apart(table, width)
        op.create_index(f"uq_{table}_organization_name", table, ["organization", "name"], unique=True)


def _tell_apart(table: str, width: int) -> None:
    rows = sa.table(
        table,
        sa.column("id", sa.Uuid()),
        sa.column("organization", sa.Uuid()),
        sa.column("name", sa.String()),
        sa.column("created_at", columns.UtcDateTime()),
    )
    found = op.get_bind().execute(sa.select(rows).order_by(rows.c.created_at, rows.c.id)).all()
    taken = {(row.organization, row.name) for row in found}
    seen = set()
    for row in found:
        if (row.organization, row.name) not in seen:
            seen.add((row.organization, row.name))
            continue
        number, name = 2, row.name
        while (row.organization, name) in taken:
            end = f" ({number})"
            number, name = number + 1, row.name[: width - len(end)] + end
        taken.add((row.organization, name))
        op.get_bind().execute(sa.update(rows).where(rows.c.id == row.id).values(name=name))


def downgrade() -> None:
    """Take it away again; cards and keys are lost, and interfaces lead nowhere by a card."""
    for table in NAMED:
        op.drop_index(f"uq_{table}_organization_name", table_name=table)
    op.execute(sa.text("UPDATE network_interfaces SET sim = NULL"))
    op.drop_table("meter_security_keys")
    op.drop_table("sim_cards")
