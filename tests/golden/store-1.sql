-- The layout of agent.db, form 1, as every agent since the first has written it. Never changed: see tests/agent/test_store_versions.py.
CREATE TABLE commands (
        id BLOB PRIMARY KEY, body BLOB NOT NULL, origin TEXT NOT NULL, correlation BLOB, state TEXT NOT NULL,
        deadline REAL NOT NULL, last_update BLOB NOT NULL, cancels BLOB, ended_at REAL
    );
CREATE TABLE looks (
        task BLOB NOT NULL, device BLOB NOT NULL, schedule TEXT NOT NULL, offset INTEGER NOT NULL, since REAL NOT NULL,
        PRIMARY KEY (task, device)
    ) WITHOUT ROWID;
CREATE TABLE memory (
        kind TEXT NOT NULL, owner BLOB NOT NULL, archive INTEGER NOT NULL, body BLOB NOT NULL,
        PRIMARY KEY (kind, owner, archive)
    ) WITHOUT ROWID;
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE readings (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        body BLOB NOT NULL,
        stored_at REAL NOT NULL,
        receipted_at REAL,
        aside INTEGER NOT NULL DEFAULT 0
    );
CREATE TABLE reports (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        body BLOB NOT NULL,
        stored_at REAL NOT NULL,
        receipted_at REAL,
        aside INTEGER NOT NULL DEFAULT 0
    );
CREATE TABLE runs (
        id BLOB PRIMARY KEY, task BLOB, device BLOB NOT NULL, tick INTEGER, command BLOB,
        since INTEGER, not_before REAL, body BLOB, state TEXT NOT NULL, outcome TEXT, ended_at REAL,
        UNIQUE (task, device, tick)
    );
CREATE INDEX commands_cancel ON commands (cancels) WHERE cancels IS NOT NULL;
CREATE INDEX commands_open ON commands (state) WHERE ended_at IS NULL;
CREATE INDEX readings_tail ON readings (receipted_at) WHERE receipted_at IS NOT NULL;
CREATE INDEX readings_waiting ON readings (seq) WHERE receipted_at IS NULL;
CREATE INDEX reports_tail ON reports (receipted_at) WHERE receipted_at IS NOT NULL;
CREATE INDEX reports_waiting ON reports (seq) WHERE receipted_at IS NULL;
CREATE INDEX runs_ended ON runs (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX runs_open ON runs (state) WHERE ended_at IS NULL;
PRAGMA user_version = 1;
