-- Updates are found by task and event, with one index instead of two.
--
-- Both are hashes or look like some, so that each index costs a write at a random
-- place for every callback. The event id is made of the task's, among others: the
-- pair is as unique as it was alone.

ALTER TABLE updates RENAME TO updates_by_event;

DROP INDEX updates_by_task;

CREATE TABLE updates (
    task_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    -- The message that holds the claim.
    owner TEXT NOT NULL,
    stage TEXT NOT NULL,
    verdict TEXT NOT NULL,
    origin TEXT NOT NULL,
    received_at BIGINT NOT NULL,
    -- What we read, as JSON; a task's tracks are merged from those of its updates.
    tracks TEXT NOT NULL,
    -- What came in, byte for byte.
    body BYTEA NOT NULL,
    PRIMARY KEY (task_id, event_id)
);

INSERT INTO updates (
    task_id, event_id, owner, stage, verdict, origin, received_at, tracks, body
)
SELECT task_id, event_id, owner, stage, verdict, origin, received_at, tracks, body
FROM updates_by_event;

DROP TABLE updates_by_event;
