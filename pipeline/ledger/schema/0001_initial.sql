-- The ledger: what was seen, fetched and delivered.
--
-- For SQLite and PostgreSQL alike. Times are milliseconds since 1970, UTC. Texts
-- hold no NUL. BYTEA is unknown to SQLite, which keeps bytes unchanged in it.

-- One row for each of the provider's tasks. Stage, code, message and operation are
-- those of the update that leads; see leads() in task.py.
CREATE TABLE tasks (
    task_id TEXT NOT NULL PRIMARY KEY,
    operation TEXT NOT NULL,
    stage TEXT NOT NULL,
    code BIGINT,
    message TEXT NOT NULL,
    first_seen_at BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL
);

CREATE INDEX tasks_by_last_seen ON tasks (last_seen_at);

-- One row for each event id: the claim that was first, and what it said.
CREATE TABLE updates (
    event_id TEXT NOT NULL PRIMARY KEY,
    -- The message that holds the claim.
    owner TEXT NOT NULL,
    task_id TEXT NOT NULL,
    stage TEXT NOT NULL,
    verdict TEXT NOT NULL,
    origin TEXT NOT NULL,
    received_at BIGINT NOT NULL,
    -- What we read, as JSON; a task's tracks are merged from those of its updates.
    tracks TEXT NOT NULL,
    -- What came in, byte for byte.
    body BYTEA NOT NULL
);

CREATE INDEX updates_by_task ON updates (task_id);

-- Further messages that said the same.
CREATE TABLE duplicates (
    event_id TEXT NOT NULL,
    owner TEXT NOT NULL,
    received_at BIGINT NOT NULL,
    PRIMARY KEY (event_id, owner)
);

-- One row for each file of a track.
CREATE TABLE assets (
    task_id TEXT NOT NULL,
    track_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    operation TEXT NOT NULL,
    -- The link that was received last, and when that was.
    url TEXT NOT NULL,
    url_received_at BIGINT NOT NULL,
    state TEXT NOT NULL,
    -- The stages that named the file: the sum of 1 shifted left by their ranks.
    stages INTEGER NOT NULL,
    -- The message whose handler has to ask for the file.
    requested_by TEXT NOT NULL,
    sha256 TEXT,
    size_bytes BIGINT,
    content_type TEXT,
    location TEXT,
    reason TEXT,
    settled_at BIGINT,
    PRIMARY KEY (task_id, track_id, kind)
);

-- One row for each try of a download or a notification.
CREATE TABLE attempts (
    queue TEXT NOT NULL,
    message_id TEXT NOT NULL,
    replays INTEGER NOT NULL,
    number INTEGER NOT NULL,
    task_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    outcome TEXT NOT NULL,
    detail TEXT NOT NULL,
    duration_seconds DOUBLE PRECISION NOT NULL,
    finished_at BIGINT NOT NULL,
    PRIMARY KEY (queue, message_id, replays, number)
);

CREATE INDEX attempts_by_task ON attempts (task_id);

-- One row for each event and subscription.
CREATE TABLE notifications (
    subscription TEXT NOT NULL,
    event_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    task_id TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    delivered_at BIGINT,
    status INTEGER,
    PRIMARY KEY (subscription, event_id)
);

CREATE INDEX notifications_by_task ON notifications (task_id);
