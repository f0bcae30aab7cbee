"""The ledger's sums: what all chunks of a raster have, slot by slot, so that nobody counts a fleet's chunks."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None
stop = "the ledger's sums are made from all chunks under a lock, and processes of the schema before do not keep them"

_PG_GONE = """
    CREATE FUNCTION ledger_chunk_gone() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO ledger_pending (keys, removed, raster, chunk) VALUES (OLD.bits, true, OLD.raster, OLD.chunk);
        RETURN NULL;
    END $$
"""
_PG_TRIGGER = """
    CREATE TRIGGER ledger_chunk_gone AFTER DELETE ON ledger_chunks
    FOR EACH ROW EXECUTE FUNCTION ledger_chunk_gone()
"""
_SQLITE_TRIGGER = """
    CREATE TRIGGER ledger_chunk_gone AFTER DELETE ON ledger_chunks BEGIN
        INSERT INTO ledger_pending (keys, removed, raster, chunk) VALUES (OLD.bits, 1, OLD.raster, OLD.chunk);
    END
"""


def upgrade() -> None:
    """Add columns, indexes, the trigger, and the sums of the chunks that are there."""
    postgresql = op.get_context().dialect.name == "postgresql"
    op.add_column("ledger_pending", sa.Column("raster", sa.Integer(), nullable=True))
    op.add_column("ledger_pending", sa.Column("chunk", sa.Integer(), nullable=True))
    # What is not whole is looked at one by one; clerks say more of each chunk when they write it next.
    op.add_column("ledger_chunks", sa.Column("state", sa.SmallInteger(), nullable=False, server_default=sa.text("2")))
    whole = sa.text("UPDATE ledger_chunks SET state = 0 WHERE bits = :long OR bits = :short")
    op.get_bind().execute(whole, {"long": b"\xff" * 256, "short": b"\xff" * 32})
    unfilled = sa.text("state <> 0")
    op.create_index(
        "ix_ledger_chunks_unfilled",
        "ledger_chunks",
        ["raster", "chunk", "state"],
        unique=False,
        sqlite_where=unfilled,
        postgresql_where=unfilled,
    )
    ended = sa.text("until_slot IS NOT NULL")
    op.create_index(
        "ix_expectations_ended",
        "expectations",
        ["raster", "until_slot"],
        unique=False,
        sqlite_where=ended,
        postgresql_where=ended,
    )
    op.create_table(
        "ledger_sums",
        sa.Column("raster", sa.Integer(), nullable=False),
        sa.Column("chunk", sa.Integer(), nullable=False),
        sa.Column("chunks", sa.Integer(), nullable=False),
        sa.Column("everyone", sa.Boolean(), nullable=False),
        sa.Column("planes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("raster", "chunk", name="pk_ledger_sums"),
    )
    _sum_up(op.get_bind())
    if postgresql:
        op.execute(_PG_GONE)
        op.execute(_PG_TRIGGER)
    else:
        op.execute(_SQLITE_TRIGGER)


def _sum_up(connection: sa.Connection) -> None:
    """Add up the chunks of each raster and number: plane i has the bits with the value 2**i of the counts."""
    chunks = sa.table("ledger_chunks", sa.column("raster"), sa.column("chunk"), sa.column("bits", sa.LargeBinary()))
    names = ("raster", "chunk", "chunks", "everyone", "planes")
    sums = sa.table("ledger_sums", *(sa.column(name) for name in names))
    found: dict[tuple[int, int], tuple[int, int, list[int]]] = {}
    rows = connection.execute(sa.select(chunks), execution_options={"yield_per": 5000})
    for raster, chunk, bits in rows:
        size, count, planes = found.get((raster, chunk), (len(bits), 0, []))
        carry, position = int.from_bytes(bits, "little"), 0
        while carry:
            if position == len(planes):
                planes.append(0)
            planes[position], carry = planes[position] ^ carry, planes[position] & carry
            position += 1
        found[raster, chunk] = size, count + 1, planes
    for (raster, chunk), (size, count, planes) in found.items():
        packed = b"".join(plane.to_bytes(size, "little") for plane in planes)
        values = (raster, chunk, count, False, packed)
        connection.execute(sa.insert(sums).values(dict(zip(names, values, strict=True))))


def downgrade() -> None:
    """Take it away again; chunks stay as they are, what is gone of them is of no use any more."""
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP TRIGGER ledger_chunk_gone ON ledger_chunks")
        op.execute("DROP FUNCTION ledger_chunk_gone()")
    else:
        op.execute("DROP TRIGGER ledger_chunk_gone")
    op.execute("DELETE FROM ledger_pending WHERE raster IS NOT NULL")
    op.drop_table("ledger_sums")
    op.drop_index("ix_expectations_ended", table_name="expectations")
    op.drop_index("ix_ledger_chunks_unfilled", table_name="ledger_chunks")
    op.drop_column("ledger_chunks", "state")
    op.drop_column("ledger_pending", "chunk")
    op.drop_column("ledger_pending", "raster")
