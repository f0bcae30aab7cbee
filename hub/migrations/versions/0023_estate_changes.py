"""Changes of what readings are judged by are counted, so that relays may keep it from one transaction to the next."""

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None
stop = ""

_WATCHED = {
    "gateways": "id, gateway_id, organization, public_key",
    "meter_devices": "id, name, organization, type, network_interface",
    "meter_device_types": "id, config",
    "network_interfaces": "id, gateway",
    "device_gateways": "device, gateway",
    "config_series": "config, series",
    "meter_reading_series": "id, name, organization",
}
"""Tables, and the columns of each that it matters of."""

# The lock first: who is counted has it until its transaction ends (``hub.known_estate``). Who may write the tables is
# counted, whatever else it may do and wherever it looks for names.
_PG_COUNT = """
    CREATE FUNCTION count_estate_change() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock_shared(1835233893, 0);
        PERFORM nextval(format('%I.estate_changes', TG_TABLE_SCHEMA));
        RETURN NULL;
    END $$
"""
_PG_TRIGGER = """
    CREATE TRIGGER count_estate_change BEFORE INSERT OR DELETE OR TRUNCATE OR UPDATE OF {columns} ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION count_estate_change()
"""
_SQLITE_TRIGGER = """
    CREATE TRIGGER {table}_{event}_counted AFTER {event} {of} ON {table} BEGIN
        UPDATE hub_state SET value = value + 1 WHERE key = 'estate_changes';
    END
"""
_SQLITE_EVENTS = ("INSERT", "DELETE", "UPDATE")


def upgrade() -> None:
    """Count from now on."""
    if op.get_context().dialect.name == "postgresql":
        op.execute("CREATE SEQUENCE estate_changes")
        op.execute(_PG_COUNT)
        for table, columns in _WATCHED.items():
            op.execute(_PG_TRIGGER.format(table=table, columns=columns))
            # Also for whoever copies rows as a replica does, which leaves out triggers.
            op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER count_estate_change")
        return
    op.execute("INSERT INTO hub_state (key, value) VALUES ('estate_changes', '0')")
    for table, columns in _WATCHED.items():
        for event in _SQLITE_EVENTS:
            of = f"OF {columns}" if event == "UPDATE" else ""
            op.execute(_SQLITE_TRIGGER.format(table=table, event=event, of=of))


def downgrade() -> None:
    """Count no more: processes of the schema before keep nothing."""
    if op.get_context().dialect.name == "postgresql":
        for table in _WATCHED:
            op.execute(f"DROP TRIGGER count_estate_change ON {table}")
        op.execute("DROP FUNCTION count_estate_change()")
        op.execute("DROP SEQUENCE estate_changes")
        return
    for table in _WATCHED:
        for event in _SQLITE_EVENTS:
            op.execute(f"DROP TRIGGER {table}_{event}_counted")
    op.execute("DELETE FROM hub_state WHERE key = 'estate_changes'")
