"""The ledger's SQL for SQLite.

Plain enough for PostgreSQL, too: ``postgres_statements.py`` makes its own of it.
"""
# ruff: noqa: S608 - put together of constants; values are always bound

from __future__ import annotations

from itertools import chain, repeat
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

T = TypeVar("T")

#: Of an event that is in the ledger: who was first to tell it, and what came of it.
SEEN_COLUMNS: Final = "event_id, owner, verdict, moved"
TASK_COLUMNS: Final = (
    "task_id, operation, stage, code, message, first_seen_at, last_seen_at, door"
)
ASSET_COLUMNS: Final = (
    "task_id, track_id, kind, operation, url, url_received_at, state, stages,"
    " requested_by, sha256, size_bytes, content_type, location, reason, settled_at"
)
ATTEMPT_COLUMNS: Final = (
    "queue, message_id, task_id, subject, number, outcome, detail, duration_seconds,"
    " finished_at, replays"
)
NOTIFICATION_COLUMNS: Final = (
    "subscription, event_id, event_type, task_id, attempts, delivered_at, status"
)

INSERT_UPDATE: Final = (
    "INSERT INTO updates (task_id, event_id, owner, stage, verdict, origin,"
    " received_at, tracks, body, moved) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
INSERT_DUPLICATE: Final = (
    "INSERT INTO duplicates (event_id, owner, received_at, origin) VALUES (?, ?, ?, ?)"
    " ON CONFLICT DO NOTHING"
)
#: A task that has ended is not asked for; news of another puts the question off.
PUT_TASK: Final = (
    f"INSERT INTO tasks ({TASK_COLUMNS}, due_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (task_id) DO UPDATE SET operation = excluded.operation,"
    " stage = excluded.stage, code = excluded.code, message = excluded.message,"
    " first_seen_at = excluded.first_seen_at, last_seen_at = excluded.last_seen_at,"
    " door = excluded.door,"
    " due_at = CASE WHEN excluded.stage IN ('failed', 'complete') THEN NULL"
    " WHEN tasks.due_at > excluded.due_at THEN tasks.due_at"
    " ELSE COALESCE(excluded.due_at, tasks.due_at) END,"
    " given_up_at = CASE WHEN excluded.stage IN ('failed', 'complete')"
    " OR excluded.due_at IS NOT NULL THEN NULL ELSE tasks.given_up_at END"
)
PUT_ASSET: Final = (
    f"INSERT INTO assets ({ASSET_COLUMNS})"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (task_id, track_id, kind) DO UPDATE SET url = excluded.url,"
    " url_received_at = excluded.url_received_at, state = excluded.state,"
    " stages = excluded.stages, requested_by = excluded.requested_by,"
    " sha256 = excluded.sha256, size_bytes = excluded.size_bytes,"
    " content_type = excluded.content_type, location = excluded.location,"
    " reason = excluded.reason, settled_at = excluded.settled_at"
)
INSERT_ATTEMPT: Final = (
    f"INSERT INTO attempts ({ATTEMPT_COLUMNS})"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
#: The database's clock, in milliseconds since 1970.
NOW: Final = "CAST(unixepoch('subsec') * 1000 AS INTEGER)"
_ASSET_KEY: Final = "task_id = ? AND track_id = ? AND kind = ?"
_NOTIFICATION_KEY: Final = "subscription = ? AND event_id = ?"
#: Gives no row if the file is settled, or the lease another's.
BEGIN_ASSET: Final = (
    "UPDATE assets SET lease_token = lease_token + 1, lease_owner = ?,"
    f" lease_until = {NOW} + ? WHERE {_ASSET_KEY} AND state = 'pending'"
    f" AND (lease_owner = ? OR lease_until <= {NOW})"
    f" RETURNING {ASSET_COLUMNS}, lease_token"
)
#: After no row: the file, and for how many milliseconds the lease is another's.
SELECT_HELD_ASSET: Final = (
    f"SELECT {ASSET_COLUMNS}, lease_until - {NOW} FROM assets WHERE {_ASSET_KEY}"
)
RENEW_ASSET: Final = (
    f"UPDATE assets SET lease_until = {NOW} + ? WHERE {_ASSET_KEY}"
    " AND lease_token = ? RETURNING 1"
)
#: Gives no row if it is delivered, or the lease another's.
BEGIN_NOTIFICATION: Final = (
    "INSERT INTO notifications (subscription, event_id, event_type, task_id,"
    " attempts, lease_token, lease_owner, lease_until)"
    f" VALUES (?, ?, ?, ?, 0, 1, ?, {NOW} + ?)"
    " ON CONFLICT (subscription, event_id) DO UPDATE SET"
    " lease_token = notifications.lease_token + 1,"
    " lease_owner = excluded.lease_owner, lease_until = excluded.lease_until"
    " WHERE notifications.delivered_at IS NULL"
    " AND (notifications.lease_owner = excluded.lease_owner"
    f" OR notifications.lease_until <= {NOW})"
    " RETURNING attempts, lease_token"
)
#: After no row, as for files.
SELECT_HELD_NOTIFICATION: Final = (
    f"SELECT attempts, delivered_at, lease_until - {NOW} FROM notifications"
    f" WHERE {_NOTIFICATION_KEY}"
)
RENEW_NOTIFICATION: Final = (
    f"UPDATE notifications SET lease_until = {NOW} + ? WHERE {_NOTIFICATION_KEY}"
    " AND lease_token = ? RETURNING 1"
)
#: The same note once more is no other one.
NOTE_NOTIFICATION: Final = (
    "UPDATE notifications SET attempts = ?, delivered_at = ?, status = ?,"
    f" lease_until = 0 WHERE {_NOTIFICATION_KEY} AND lease_token = ?"
    " AND (delivered_at IS NULL OR delivered_at = ?) RETURNING 1"
)
EXPECT: Final = (
    f"INSERT INTO tasks ({TASK_COLUMNS}, due_at, submitted_at, job_id)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (task_id) DO UPDATE SET first_seen_at = CASE"
    " WHEN excluded.first_seen_at < tasks.first_seen_at THEN excluded.first_seen_at"
    " ELSE tasks.first_seen_at END,"
    " submitted_at = COALESCE(tasks.submitted_at, excluded.submitted_at),"
    " job_id = COALESCE(tasks.job_id, excluded.job_id),"
    " door = CASE WHEN tasks.door = '' THEN excluded.door ELSE tasks.door END,"
    " due_at = CASE WHEN tasks.stage IN ('failed', 'complete')"
    " OR tasks.given_up_at IS NOT NULL THEN NULL"
    " ELSE COALESCE(tasks.due_at, excluded.due_at) END"
)
SELECT_EXPECTED: Final = (
    "SELECT task_id, submitted_at, job_id, due_at, questions, given_up_at"
    " FROM tasks WHERE task_id = ?"
)
SELECT_NEXT_DUE: Final = (
    f"SELECT due_at - {NOW} FROM tasks WHERE due_at IS NOT NULL ORDER BY due_at LIMIT 1"
)
#: How long it is until the next turn, in milliseconds.
SELECT_TURN: Final = f"SELECT next_at - {NOW} FROM turns WHERE name = 'details'"
PASS_TURNS: Final = (
    f"UPDATE turns SET next_at = CASE WHEN next_at > {NOW} THEN next_at"
    f" ELSE {NOW} END + ? WHERE name = 'details'"
)
#: The turn that leaves a window next: the last one but so many.
SELECT_TASK_TURN: Final = (
    f"SELECT turn_at - {NOW} FROM task_turns WHERE task_id = ?"
    " ORDER BY turn_at DESC LIMIT 1 OFFSET ?"
)
INSERT_TASK_TURN: Final = (
    f"INSERT INTO task_turns (task_id, turn_at) VALUES (?, {NOW} + ?)"
)
FORGET_TASK_TURNS: Final = f"DELETE FROM task_turns WHERE turn_at < (SELECT {NOW} - ?)"
SELECT_SUBMISSION_TURN: Final = (
    f"SELECT turn_at - {NOW} FROM submission_turns"
    " ORDER BY turn_at DESC LIMIT 1 OFFSET ?"
)
INSERT_SUBMISSION_TURN: Final = (
    f"INSERT INTO submission_turns (turn_at) VALUES ({NOW} + ?)"
)
FORGET_SUBMISSION_TURNS: Final = (
    f"DELETE FROM submission_turns WHERE turn_at < (SELECT {NOW} - ?)"
)
#: The present time is asked for once, or no index could be used. A task that was asked
#: for too often just now, by whomever, is left for later.
SELECT_DUE: Final = (
    f"SELECT task_id, operation, stage, {NOW} - first_seen_at, {NOW} - due_at,"
    f" questions, answered FROM tasks WHERE due_at <= (SELECT {NOW})"
    " AND (SELECT COUNT(*) FROM task_turns WHERE task_turns.task_id = tasks.task_id"
    f" AND turn_at > (SELECT {NOW} - ?)) < ? ORDER BY due_at LIMIT ?"
)
PUT_OFF: Final = (
    f"UPDATE tasks SET due_at = {NOW} + ?, questions = questions + 1"
    " WHERE task_id IN (SELECT value FROM json_each(?))"
)
_ASKED: Final = "task_id = ? AND questions = ? AND due_at IS NOT NULL RETURNING 1"
NOTE_ANSWER: Final = (
    f"UPDATE tasks SET due_at = {NOW} + ?, answered = COALESCE(?, answered)"
    f" WHERE {_ASKED}"
)
GIVE_UP: Final = f"UPDATE tasks SET due_at = NULL, given_up_at = {NOW} WHERE {_ASKED}"
COUNT_OPEN: Final = (
    "SELECT (SELECT COUNT(*) FROM tasks WHERE due_at IS NOT NULL),"
    f" (SELECT COUNT(*) FROM tasks WHERE due_at <= (SELECT {NOW} - ?))"
)
RENEW_LINK: Final = (
    "UPDATE assets SET url = ?, url_received_at = CASE WHEN url_received_at > ?"
    " THEN url_received_at ELSE ? END"
    f" WHERE {_ASSET_KEY} AND lease_token = ? AND state = 'pending' RETURNING 1"
)
PUT_RENEWAL: Final = (
    "INSERT INTO renewals (task_id, track_id, kind, link, old_url, new_url, source,"
    " until, renewed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (task_id, track_id, kind, link) DO UPDATE SET"
    " until = excluded.until, renewed_at = excluded.renewed_at"
)
SELECT_RENEWALS: Final = (
    "SELECT task_id, track_id, kind, old_url, new_url, source, until, renewed_at"
    " FROM renewals WHERE task_id = ? ORDER BY renewed_at, track_id, kind, link"
)
#: A renewal whose new link is not the file's any more says nothing of it.
SELECT_UNFETCHED: Final = (
    "SELECT a.task_id, a.track_id, a.kind, a.url, a.url_received_at, r.until"
    " FROM assets AS a LEFT JOIN renewals AS r ON r.task_id = a.task_id"
    " AND r.track_id = a.track_id AND r.kind = a.kind AND r.new_url = a.url"
    " WHERE a.state = 'pending' AND (a.url_received_at < ? OR r.until IS NOT NULL)"
    " AND a.url_received_at >= ?"
    " AND (a.url_received_at, a.task_id, a.track_id, a.kind) > (?, ?, ?, ?)"
    " ORDER BY a.url_received_at, a.task_id, a.track_id, a.kind LIMIT ?"
)
NOTE_WARNING: Final = (
    "INSERT INTO link_warnings (task_id, track_id, kind, link, share)"
    " VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
    " RETURNING task_id, track_id, kind, link, share"
)
CLAIM_RECOVERY: Final = (
    f"INSERT INTO recoveries (task_id, asked_at) VALUES (?, {NOW})"
    " ON CONFLICT (task_id) DO UPDATE SET asked_at = excluded.asked_at,"
    " recovery_id = NULL WHERE recoveries.asked_at <= excluded.asked_at - ?"
    " RETURNING 1"
)
NOTE_RECOVERY: Final = (
    "UPDATE recoveries SET recovery_id = ? WHERE task_id = ? RETURNING 1"
)
DROP_RECOVERY: Final = "DELETE FROM recoveries WHERE task_id = ? RETURNING 1"
SELECT_RECOVERY: Final = (
    "SELECT recovery_id, asked_at FROM recoveries WHERE task_id = ?"
)
SELECT_ASSET: Final = f"SELECT {ASSET_COLUMNS} FROM assets WHERE {_ASSET_KEY}"
SELECT_ASSETS: Final = (
    f"SELECT {ASSET_COLUMNS} FROM assets WHERE task_id = ? ORDER BY track_id, kind"
)
SELECT_BODY: Final = "SELECT body FROM updates WHERE task_id = ? AND event_id = ?"
SELECT_ATTEMPTS: Final = (
    f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE task_id = ?"
    " ORDER BY finished_at, replays, number, queue, message_id"
)
SELECT_NOTIFICATIONS: Final = (
    f"SELECT {NOTIFICATION_COLUMNS} FROM notifications WHERE task_id = ?"
    " AND attempts > 0"
    " ORDER BY subscription, event_type, event_id"
)
SELECT_UPDATES: Final = (
    "SELECT u.event_id, u.stage, u.verdict, u.origin, u.received_at,"
    " (SELECT COUNT(*) FROM duplicates AS d WHERE d.event_id = u.event_id)"
    " FROM updates AS u WHERE u.task_id = ?"
)
DESCRIBE: Final = (
    f"SELECT sqlite_version(), (SELECT user_version FROM pragma_user_version), {NOW}"
)
SELECT_TOTALS: Final = (
    "SELECT (SELECT COUNT(*) FROM tasks), (SELECT COUNT(*) FROM updates),"
    " (SELECT COUNT(*) FROM duplicates),"
    " (SELECT COUNT(*) FROM assets WHERE state = 'pending'),"
    " (SELECT COUNT(*) FROM assets WHERE state = 'stored'),"
    " (SELECT COUNT(*) FROM assets WHERE state = 'expired'),"
    " (SELECT COUNT(*) FROM notifications WHERE delivered_at IS NOT NULL)"
)

#: Tasks to forget: last seen before a time, and with no file that is still to come.
IS_OLD: Final = (
    "last_seen_at < ? AND NOT EXISTS (SELECT 1 FROM assets WHERE"
    " assets.task_id = tasks.task_id AND assets.state = 'pending')"
)
COUNT_OLD: Final = f"SELECT COUNT(*) FROM tasks WHERE {IS_OLD}"
SELECT_OLD: Final = (
    f"SELECT task_id FROM tasks WHERE {IS_OLD} ORDER BY last_seen_at, task_id LIMIT ?"
)
_FORGET_DUPLICATES: Final = (
    "DELETE FROM duplicates WHERE event_id IN"
    " (SELECT event_id FROM updates WHERE task_id IN (?))"
)
#: Each forgets rows of the tasks in a JSON list; those that others refer to go last.
FORGET: Final = tuple(
    statement.replace("(?)", "(SELECT value FROM json_each(?))")
    for statement in (
        _FORGET_DUPLICATES,
        "DELETE FROM updates WHERE task_id IN (?)",
        "DELETE FROM assets WHERE task_id IN (?)",
        "DELETE FROM attempts WHERE task_id IN (?)",
        "DELETE FROM notifications WHERE task_id IN (?)",
        "DELETE FROM renewals WHERE task_id IN (?)",
        "DELETE FROM link_warnings WHERE task_id IN (?)",
        "DELETE FROM recoveries WHERE task_id IN (?)",
        "DELETE FROM jobs WHERE task_id IN (?)",
        "DELETE FROM tasks WHERE task_id IN (?)",
    )
)

#: Lists in ``IN (…)`` have one of these lengths, so that few statements are prepared.
_LIST_LENGTHS: Final = (1, 4, 16, 64, 256)


def select_in(
    columns: str, table: str, key: str, values: Sequence[str]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Give statements with their bindings that select all rows with these keys.

    Lists are filled up with their last value, which changes nothing.
    """
    for part in _filled_up(values):
        marks = ",".join("?" * len(part))
        yield f"SELECT {columns} FROM {table} WHERE {key} IN ({marks})", part


def select_seen(
    keys: Sequence[tuple[str, str]],
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Give statements with their bindings that select events by task and event id."""
    for part in _filled_up(keys):
        marks = ",".join(["(?,?)"] * len(part))
        where = f"(task_id, event_id) IN (VALUES {marks})"
        yield f"SELECT {SEEN_COLUMNS} FROM updates WHERE {where}", tuple(chain(*part))


def _filled_up(values: Sequence[T]) -> Iterator[tuple[T, ...]]:
    """Divide ``values`` into lists of a few lengths, the last one repeated."""
    longest = _LIST_LENGTHS[-1]
    for start in range(0, len(values), longest):
        part = values[start : start + longest]
        length = next(size for size in _LIST_LENGTHS if size >= len(part))
        yield tuple(chain(part, repeat(part[-1], length - len(part))))
