-- Everything the service knows. Every table carries the project, and every key begins with it or leads to it.
CREATE TABLE projects (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

INSERT INTO projects (id, name, created_at) VALUES ('proj_local', 'this machine', unixepoch());

CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    project TEXT NOT NULL REFERENCES projects (id),
    name TEXT NOT NULL,
    admin INTEGER NOT NULL,
    salt BLOB NOT NULL,
    digest BLOB NOT NULL, -- sha256 of salt and secret; the secret has 256 random bits
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE files (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    project TEXT NOT NULL REFERENCES projects (id),
    filename TEXT NOT NULL,
    purpose TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    idempotency_key TEXT,
    UNIQUE (project, idempotency_key)
) STRICT;
CREATE INDEX files_of_project ON files (project, sequence);
CREATE INDEX files_by_content ON files (project, sha256);

CREATE TABLE uploads (
    id TEXT PRIMARY KEY,
    project TEXT NOT NULL REFERENCES projects (id),
    filename TEXT NOT NULL,
    purpose TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    mime_type TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'completed', 'cancelled', 'expired')),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    file TEXT,
    file_lifetime_seconds INTEGER
) STRICT;

CREATE TABLE upload_parts (
    id TEXT PRIMARY KEY,
    project TEXT NOT NULL,
    upload TEXT NOT NULL REFERENCES uploads (id),
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX parts_of_upload ON upload_parts (project, upload);
CREATE INDEX parts_by_content ON upload_parts (project, sha256);

CREATE TABLE jobs (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    project TEXT NOT NULL REFERENCES projects (id),
    status TEXT NOT NULL CHECK (
        status IN ('validating_files', 'queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')
    ),
    request TEXT NOT NULL,
    idempotency_key TEXT,
    validated INTEGER NOT NULL DEFAULT 0,
    pausing INTEGER NOT NULL DEFAULT 0,
    token INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    progress INTEGER NOT NULL DEFAULT 0, -- the furthest step that is saved
    worker TEXT,
    lease_until REAL, -- seconds on the machine's own clock since its start, which nobody sets
    lease_seconds REAL,
    lease_boot TEXT, -- which start of the machine that clock counts from
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    estimated_finish INTEGER,
    resolved TEXT NOT NULL DEFAULT '{}',
    fine_tuned_model TEXT,
    trained_tokens INTEGER,
    result_files TEXT NOT NULL DEFAULT '[]',
    error TEXT,
    comparison TEXT,
    events INTEGER NOT NULL DEFAULT 0, -- how many there are, and so the newest one's number
    UNIQUE (project, idempotency_key)
) STRICT;
CREATE INDEX jobs_of_project ON jobs (project, sequence);
CREATE INDEX jobs_to_validate ON jobs (sequence) WHERE status = 'validating_files';
CREATE INDEX jobs_to_run ON jobs (sequence) WHERE status IN ('queued', 'running');

CREATE TABLE events (
    project TEXT NOT NULL,
    job TEXT NOT NULL REFERENCES jobs (id),
    sequence INTEGER NOT NULL,
    id TEXT NOT NULL UNIQUE,
    key TEXT,
    created_at INTEGER NOT NULL,
    level TEXT NOT NULL CHECK (level IN ('info', 'warn', 'error')),
    type TEXT NOT NULL CHECK (type IN ('message', 'metrics')),
    message TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (job, sequence),
    UNIQUE (job, key)
) STRICT;

-- Events are only ever added: what a client has read stays as it was.
CREATE TRIGGER events_are_not_changed BEFORE UPDATE ON events BEGIN
    SELECT raise(ABORT, 'events are never changed');
END;
CREATE TRIGGER events_are_not_deleted BEFORE DELETE ON events BEGIN
    SELECT raise(ABORT, 'events are never deleted');
END;

CREATE TABLE checkpoints (
    id TEXT PRIMARY KEY,
    project TEXT NOT NULL,
    job TEXT NOT NULL REFERENCES jobs (id),
    step INTEGER NOT NULL,
    model TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    metrics TEXT NOT NULL,
    UNIQUE (job, step)
) STRICT;

CREATE TABLE models (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    project TEXT NOT NULL REFERENCES projects (id),
    name TEXT NOT NULL,
    job TEXT NOT NULL,
    base TEXT NOT NULL,
    adapter TEXT NOT NULL,
    step INTEGER,
    created_at INTEGER NOT NULL,
    UNIQUE (project, name)
) STRICT;
CREATE INDEX models_by_content ON models (project, adapter);

CREATE TABLE permissions (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    project TEXT NOT NULL REFERENCES projects (id),
    model TEXT NOT NULL,
    granted_to TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (project, model, granted_to)
) STRICT;

-- An index over run folders. It can be thrown away: the folders are the truth.
CREATE TABLE runs (
    project TEXT NOT NULL REFERENCES projects (id),
    folder TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('climb', 'tune')),
    task TEXT NOT NULL,
    model TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('unfinished', 'finished', 'missing')),
    created_at INTEGER NOT NULL,
    finished_at INTEGER,
    summary TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (project, folder)
) STRICT;
