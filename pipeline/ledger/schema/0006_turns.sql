-- Turns of calls that count against the account, whichever process makes them. A row is
-- deleted once it counts no more. Times are milliseconds since 1970 by the database's
-- own clock; they may lie a little ahead.

-- Questions about single tasks, of which the ledger need not know.
CREATE TABLE task_turns (
    task_id TEXT NOT NULL,
    turn_at BIGINT NOT NULL
);

CREATE INDEX task_turns_by_task ON task_turns (task_id, turn_at);
CREATE INDEX task_turns_by_time ON task_turns (turn_at);

CREATE TABLE submission_turns (
    turn_at BIGINT NOT NULL
);

CREATE INDEX submission_turns_by_time ON submission_turns (turn_at);

-- Whoever takes a turn has this row first.
INSERT INTO turns (name, next_at) VALUES ('submit', 0);
