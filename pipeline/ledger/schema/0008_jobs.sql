-- Jobs: submissions, each noted before it is sent.
--
-- A process that dies, or gets no answer, between sending and noting leaves a job of
-- which it is not known whether there is a task. Its mark stands in the callback
-- address, so a callback tells. Times are milliseconds since 1970.

CREATE TABLE jobs (
    -- What its caller calls it, or made.
    job_id TEXT NOT NULL PRIMARY KEY,
    -- Cannot be guessed; another one for each time that it is sent.
    mark TEXT NOT NULL UNIQUE,
    operation TEXT NOT NULL,
    door TEXT NOT NULL,
    -- A hash of the request.
    digest TEXT NOT NULL,
    -- What was found out about the source audio, as JSON.
    source_seconds TEXT NOT NULL,
    state TEXT NOT NULL,
    begun_at BIGINT NOT NULL,
    -- By the database's own clock; after that nobody is sending it any more.
    held_until BIGINT NOT NULL,
    task_id TEXT,
    settled_at BIGINT,
    reason TEXT NOT NULL
);

CREATE INDEX jobs_by_task ON jobs (task_id) WHERE task_id IS NOT NULL;
CREATE INDEX jobs_without_task ON jobs (begun_at) WHERE task_id IS NULL;
