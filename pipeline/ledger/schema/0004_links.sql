-- Links that expire: what took the place of which, what was warned of, and which tasks
-- the provider was asked to recover. Times are milliseconds since 1970.

CREATE TABLE renewals (
    task_id TEXT NOT NULL,
    track_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    -- A hash of the new link, which may be too long for an index.
    link TEXT NOT NULL,
    old_url TEXT NOT NULL,
    new_url TEXT NOT NULL,
    source TEXT NOT NULL,
    -- Until when the new link works; nothing: as long as any link to its host.
    until BIGINT,
    renewed_at BIGINT NOT NULL,
    PRIMARY KEY (task_id, track_id, kind, link)
);

CREATE TABLE link_warnings (
    task_id TEXT NOT NULL,
    track_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    link TEXT NOT NULL,
    -- Of its lifetime, in per cent.
    share INTEGER NOT NULL,
    PRIMARY KEY (task_id, track_id, kind, link, share)
);

CREATE TABLE recoveries (
    task_id TEXT NOT NULL PRIMARY KEY,
    -- The provider's name of the recovery; nothing: its answer is not known.
    recovery_id TEXT,
    -- By the database's own clock.
    asked_at BIGINT NOT NULL
);

CREATE INDEX assets_unfetched ON assets (url_received_at) WHERE state = 'pending';
