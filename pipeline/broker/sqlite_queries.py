"""The statements that run for every message of the embedded broker."""

from __future__ import annotations

from typing import Final

#: The oldest messages of a queue that nobody holds.
READY: Final = """
    SELECT id, routing_key, content_type, headers, body, coalesce(deliveries, 0)
    FROM messages INDEXED BY messages_by_queue LEFT JOIN leases ON message = id
    WHERE queue = ? AND consumer IS NULL ORDER BY id LIMIT ?
"""
#: Hand messages, given as JSON, to a consumer.
LEASE: Final = """
    INSERT INTO leases (message, consumer, deliveries)
    SELECT value, ?, 1 FROM json_each(?) WHERE true
    ON CONFLICT (message) DO UPDATE
    SET consumer = excluded.consumer, deliveries = deliveries + 1
"""
#: Put a message at the tail of a queue.
INSERT: Final = """
    INSERT INTO messages (queue, due_at, routing_key, content_type, headers, body)
    VALUES (?, ?, ?, ?, ?, ?)
"""
#: Put a copy of a message at the tail of a queue; ids are never changed.
COPY: Final = """
    INSERT INTO messages (queue, due_at, routing_key, content_type, headers, body)
    SELECT ?, ?, routing_key, content_type, headers, body FROM messages WHERE id = ?
"""
#: Delete messages, given as JSON pairs of id and delivery, that a consumer holds.
#: CROSS JOIN: each pair is looked up, instead of the pairs for each lease.
DELETE_HELD: Final = """
    DELETE FROM messages WHERE id IN (
        SELECT message FROM json_each(?) CROSS JOIN leases
        ON message = value ->> 0 AND deliveries = value ->> 1 WHERE consumer = ?
    )
"""
#: The same for one message, which is most of what happens.
DELETE_ONE_HELD: Final = """
    DELETE FROM messages WHERE id = ?1 AND EXISTS (
        SELECT 1 FROM leases WHERE message = ?1 AND deliveries = ?2 AND consumer = ?3
    )
"""
