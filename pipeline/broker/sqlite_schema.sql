-- Schema 1 of the embedded broker.
--
-- Names of exchanges and queues carry the prefix of their topology, so that several
-- topologies in one file do not see each other. Times are milliseconds since 1970.

CREATE TABLE exchanges (
    name TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    -- Gets what no binding wants.
    alternate TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE queues (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    -- Only for delay queues: how long a message stays, and where it goes then.
    delay_milliseconds INTEGER,
    expires_to TEXT
) STRICT;

CREATE TABLE bindings (
    exchange TEXT NOT NULL REFERENCES exchanges (name),
    queue INTEGER NOT NULL REFERENCES queues (id),
    key TEXT NOT NULL,
    PRIMARY KEY (exchange, key, queue)
) STRICT, WITHOUT ROWID;

-- One row. Changes with every change of the three tables above, so that each
-- process knows when the routes that it has worked out are out of date.
CREATE TABLE topology (generation INTEGER NOT NULL) STRICT;
INSERT INTO topology VALUES (0);

-- The order of ids is the order of the queue. An id is never used a second time
-- (AUTOINCREMENT), so a late acknowledgement cannot hit another message.
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue INTEGER NOT NULL REFERENCES queues (id),
    -- Only in delay queues.
    due_at INTEGER,
    routing_key TEXT NOT NULL,
    content_type TEXT NOT NULL,
    headers BLOB NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX messages_by_queue ON messages (queue);

-- One row for each consumer, renewed by its process while that lives.
CREATE TABLE consumers (
    id INTEGER PRIMARY KEY,
    expires_at INTEGER NOT NULL
) STRICT;

-- Who holds a message now, and how often it was delivered. Apart from the messages,
-- because changing a row would write its whole body again. A message that was never
-- delivered has no row. When a consumer's row goes, its messages are free again.
CREATE TABLE leases (
    message INTEGER PRIMARY KEY REFERENCES messages (id) ON DELETE CASCADE,
    consumer INTEGER REFERENCES consumers (id) ON DELETE SET NULL,
    deliveries INTEGER NOT NULL
) STRICT;
CREATE INDEX leases_by_consumer ON leases (consumer) WHERE consumer IS NOT NULL;
