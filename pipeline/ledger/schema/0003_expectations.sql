-- Expectations: which tasks are still to end, and when to ask the provider for them.
--
-- A task is expected from the moment it was submitted or seen until it has ended or
-- was given up. Times are milliseconds since 1970 by the database's own clock.

-- When it was submitted, if it was by us, and what its caller calls it.
ALTER TABLE tasks ADD COLUMN submitted_at BIGINT;
ALTER TABLE tasks ADD COLUMN job_id TEXT;
-- When to ask next; nothing: it has ended, was given up, or nobody wanted to know.
-- Whoever asks puts this off first, so that nobody else does.
ALTER TABLE tasks ADD COLUMN due_at BIGINT;
-- How often it was asked for; the last question's number is also its token.
ALTER TABLE tasks ADD COLUMN questions BIGINT NOT NULL DEFAULT 0;
-- The event id of the answer that was handed on last.
ALTER TABLE tasks ADD COLUMN answered TEXT;
ALTER TABLE tasks ADD COLUMN given_up_at BIGINT;

CREATE INDEX tasks_by_due ON tasks (due_at) WHERE due_at IS NOT NULL;

-- When the next question to the provider may be asked, whichever process asks it.
CREATE TABLE turns (
    name TEXT NOT NULL PRIMARY KEY,
    next_at BIGINT NOT NULL
);

INSERT INTO turns (name, next_at) VALUES ('details', 0);
