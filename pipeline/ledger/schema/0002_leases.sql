-- Leases: who may fetch a file, or tell a subscriber, and until when.
--
-- The token grows with each lease and never becomes smaller: a write with an older
-- one is refused. Times are milliseconds since 1970 by the database's own clock.

ALTER TABLE assets ADD COLUMN lease_token BIGINT NOT NULL DEFAULT 0;
ALTER TABLE assets ADD COLUMN lease_owner TEXT NOT NULL DEFAULT '';
ALTER TABLE assets ADD COLUMN lease_until BIGINT NOT NULL DEFAULT 0;

-- A row is there from the first lease on; its attempts are 0 until one has ended.
ALTER TABLE notifications ADD COLUMN lease_token BIGINT NOT NULL DEFAULT 0;
ALTER TABLE notifications ADD COLUMN lease_owner TEXT NOT NULL DEFAULT '';
ALTER TABLE notifications ADD COLUMN lease_until BIGINT NOT NULL DEFAULT 0;
