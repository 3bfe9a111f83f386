"""All that is known of one task, and the order in which it happened."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from pipeline.ledger.port import Ledger
    from pipeline.task import TaskId

#: Of a task that the poller asks for no more.
GIVEN_UP: Final = (
    "given up: it has not ended, and nobody asks the provider for it any more"
)


class Entry(NamedTuple):
    """Something that happened to a task."""

    at: datetime
    #: ``submitted``, ``question``, ``given_up``, ``update``, ``repeat``, ``attempt``,
    #: ``link``, ``file``, ``notification`` or ``dead_letter``.
    kind: str
    what: str
    #: Of an update or a repeat: how it came.
    origin: str | None = None
    #: Of an update: since the task was submitted. Of a repeat: since what it repeats.
    delay_seconds: float | None = None


async def task_document(ledger: Ledger, task_id: TaskId) -> dict[str, Any] | None:
    """Give all that the ledger knows of a task as a JSON object; ``None``: nothing."""
    task = await ledger.find_task(task_id)
    if task is None:
        return None
    expected = await ledger.find_expected(task_id)
    updates = [asdict(one) for one in await ledger.list_updates(task_id)]
    for one in updates:
        one["delay_seconds"] = _seconds(task.submitted_at, one["received_at"])
        for repeat in one["repeats"]:
            late_seconds = _seconds(one["received_at"], repeat["received_at"])
            repeat["delay_seconds"] = late_seconds
    return {
        **asdict(task),
        "expected": None if expected is None else asdict(expected),
        "updates": updates,
        "assets": [asdict(a) for a in await ledger.list_assets(task_id)],
        "renewals": [asdict(r) for r in await ledger.list_renewals(task_id)],
        "attempts": [asdict(a) for a in await ledger.list_attempts(task_id)],
        "notifications": [asdict(n) for n in await ledger.list_notifications(task_id)],
        "dead_letters": [],
    }


def timeline(document: dict[str, Any]) -> list[Entry]:
    """Put what happened to a task into the order of time."""
    sources = (_submitted, _updates, _attempts, _files, _notifications, _dead_letters)
    found = (entry for source in sources for entry in source(document))
    return sorted(found, key=lambda entry: entry.at)


def entry_documents(entries: Sequence[Entry]) -> list[dict[str, object]]:
    """Give entries as JSON objects, with the time since the first of them."""
    return [
        {
            "at": entry.at,
            "after_seconds": (entry.at - entries[0].at).total_seconds(),
            "kind": entry.kind,
            "origin": entry.origin,
            "delay_seconds": entry.delay_seconds,
            "what": entry.what,
        }
        for entry in entries
    ]


def settled(asset: dict[str, Any]) -> str:
    """Say what became of a file."""
    what = f"{asset['key']['track_id']}/{asset['key']['kind']}"
    if asset["location"] is None:
        reason = f": {asset['reason']}" if asset["reason"] else ""
        return f"{what} {asset['state']}{reason}"
    return (
        f"{what} {asset['state']}: {asset['location']}, {asset['size_bytes']:,} bytes"
    )


def _seconds(start: datetime | None, end: datetime) -> float | None:
    return None if start is None else (end - start).total_seconds()


def _submitted(document: dict[str, Any]) -> Iterator[Entry]:
    """Say when a task was submitted, is asked for next, and was given up."""
    expected = document["expected"] or {}
    if at := expected.get("submitted_at"):
        job = expected["job_id"]
        yield Entry(at, "submitted", "submitted" + (f" as {job}" if job else ""))
    questions = expected.get("questions", 0)
    if at := expected.get("given_up_at"):
        yield Entry(at, "given_up", f"given up at question {questions}")
    if at := expected.get("due_at"):
        what = f"question {questions + 1}, unless news comes before"
        yield Entry(at, "question", what)


def _updates(document: dict[str, Any]) -> Iterator[Entry]:
    for one in document["updates"]:
        what = f"{one['origin']}: {one['stage']} ({one['verdict']})"
        at, delay_seconds = one["received_at"], one["delay_seconds"]
        yield Entry(at, "update", what, one["origin"], delay_seconds)
        yield from _repeats(one)


def _repeats(update: dict[str, Any]) -> Iterator[Entry]:
    """Name the first repeats of an update, and count the others."""
    at = update["received_at"]
    for one in update["repeats"]:
        at, delay_seconds = one["received_at"], one["delay_seconds"]
        origin = one["origin"] or None
        what = f"{origin or 'repeat'}: {update['stage']} again, {delay_seconds:+.1f} s"
        yield Entry(at, "repeat", what, origin, delay_seconds)
    if more := update["duplicates"] - len(update["repeats"]):
        what = f"{update['stage']} again, {more} times more since, not shown"
        yield Entry(at, "repeat", what)


def _attempts(document: dict[str, Any]) -> Iterator[Entry]:
    for one in document["attempts"]:
        replay = f" of replay {n}" if (n := one["replays"]) else ""
        what = (
            f"{one['queue']}: {one['subject']}, attempt {one['number']}{replay}:"
            f" {one['outcome']} {one['detail']}"
        )
        yield Entry(one["finished_at"], "attempt", what.rstrip())


def _files(document: dict[str, Any]) -> Iterator[Entry]:
    for one in document["renewals"]:
        key = one["key"]
        what = (
            f"{key['track_id']}/{key['kind']} has another link, from {one['source']}:"
            f" {_bare(one['new_url'])}, was {_bare(one['old_url'])}"
        )
        yield Entry(one["renewed_at"], "link", what)
    for one in document["assets"]:
        if one["settled_at"] is not None:
            yield Entry(one["settled_at"], "file", settled(one))


def _notifications(document: dict[str, Any]) -> Iterator[Entry]:
    for one in document["notifications"]:
        if one["delivered_at"] is not None:
            tries = f", at try {n}" if (n := one["attempts"]) > 1 else ""
            what = f"{one['subscription']} has been told {one['event_type']}{tries}"
            yield Entry(one["delivered_at"], "notification", what)


def _dead_letters(document: dict[str, Any]) -> Iterator[Entry]:
    for one in document["dead_letters"]:
        at = one["last_failed_at"] or one["published_at"]
        if at is not None:
            what = f"dead letter in {one['queue']}: {one['error_type']}: {one['error']}"
            yield Entry(at, "dead_letter", what)


def _bare(url: str) -> str:
    """Write a link without what may be a secret."""
    from yarl import URL

    from pipeline.assets.link import show

    try:
        return show(URL(url))
    except ValueError:
        return "(no link)"
