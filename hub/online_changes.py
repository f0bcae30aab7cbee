"""What migrations do to tables that readings go into: without holding up who reads or writes them.

    from hub import online_changes

    def upgrade() -> None:
        online_changes.add_index("ix_readings_batch", "readings", ["batch"])

Rules:
- Each function looks first whether it is done already, so that a migration which was ended or refused a lock in its
  middle is run again from its beginning. A migration that uses ``add_index`` or ``drop_index`` therefore has nothing
  but these functions, and tables with ``if_not_exists``: on PostgreSQL they commit what came before.
- PostgreSQL: indexes are built CONCURRENTLY; on a partitioned table one partition after the other. Such a build waits
  for transactions that are under way, and nobody waits for it. All else is a change of the catalogue, under the
  lock that ``hub.migrating`` asks for and does not wait for long.
- SQLite: the plain change; all of a migration is one transaction there.
"""

import contextlib
from collections.abc import Iterator, Sequence

import sqlalchemy as sa
from alembic import op

_PARTITIONS = sa.text(
    "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
    "WHERE i.inhparent = to_regclass(:table) ORDER BY c.relname"
)
_VALID = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
_ATTACHED = sa.text(
    "SELECT count(*) FROM pg_inherits i JOIN pg_index x ON x.indexrelid = i.inhrelid "
    "WHERE i.inhparent = to_regclass(:name) AND x.indrelid = to_regclass(:part)"
)
_KIND = sa.text("SELECT relkind::text FROM pg_class WHERE oid = to_regclass(:table)")
_PARTITIONED = "p"
_LONGEST_NAME = 63


def add_column(table: str, column: sa.Column[object]) -> None:
    """Add a column that is nullable or has a constant as its server's default: no row is written for it."""
    if all(there["name"] != column.name for there in sa.inspect(op.get_bind()).get_columns(table)):
        op.add_column(table, column)


def add_index(name: str, table: str, columns: Sequence[str], *, where: str = "") -> None:
    """Add an index, of the rows that a condition holds for where one is given."""
    if op.get_context().dialect.name == "sqlite":
        only = sa.text(where) if where else None
        op.create_index(name, table, list(columns), unique=False, sqlite_where=only, if_not_exists=True)
        return
    what = f"({', '.join(columns)}){f' WHERE {where}' if where else ''}"
    with _by_itself() as connection:
        if connection.scalar(_KIND, {"table": table}) != _PARTITIONED:
            _build(connection, name, f"{table} {what}")
            return
        # Valid as soon as each partition has its own.
        connection.execute(sa.text(f"CREATE INDEX IF NOT EXISTS {name} ON ONLY {table} {what}"))
        for part in connection.scalars(_PARTITIONS, {"table": table}).all():
            if connection.scalar(_ATTACHED, {"name": name, "part": part}):
                continue
            # As PostgreSQL calls those of partitions that are made later.
            own = f"{part}_{'_'.join(columns)}_idx"[:_LONGEST_NAME]
            _build(connection, own, f"{part} {what}")
            connection.execute(sa.text(f"ALTER INDEX {name} ATTACH PARTITION {own}"))


def drop_index(name: str, table: str) -> None:
    """Take an index away."""
    if op.get_context().dialect.name == "sqlite":
        op.drop_index(name, table, if_exists=True)
        return
    with _by_itself() as connection:
        # Of a partitioned table they go together, which PostgreSQL does not do concurrently: it reads nothing.
        how = "" if connection.scalar(_KIND, {"table": table}) == _PARTITIONED else "CONCURRENTLY "
        with _without_hurry(connection) if how else contextlib.nullcontext():
            connection.execute(sa.text(f"DROP INDEX {how}IF EXISTS {name}"))


@contextlib.contextmanager
def _by_itself() -> Iterator[sa.Connection]:
    """Have each statement be a transaction of its own; what came before is committed."""
    with op.get_context().autocommit_block():
        yield op.get_bind()


@contextlib.contextmanager
def _without_hurry(connection: sa.Connection) -> Iterator[None]:
    """Wait for others as long as it takes: only where nobody waits for us."""
    before = connection.scalar(sa.text("SHOW lock_timeout"))
    connection.execute(sa.text("SET lock_timeout = 0"))
    try:
        yield
    finally:
        connection.execute(sa.text(f"SET lock_timeout = '{before}'"))


def _build(connection: sa.Connection, name: str, what: str) -> None:
    """Build an index while rows come and go; what an attempt before has left unfinished is thrown away."""
    with _without_hurry(connection):
        valid = connection.scalar(_VALID, {"name": name})
        if valid is False:
            connection.execute(sa.text(f"DROP INDEX CONCURRENTLY {name}"))
        if not valid:
            connection.execute(sa.text(f"CREATE INDEX CONCURRENTLY {name} ON {what}"))
