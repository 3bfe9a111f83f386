"""All that is known of one task, and the order in which it happened."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from pipeline.ledger.port import Ledger
    from pipeline.task import TaskId

#: Of a file that is still to be fetched.
PENDING: Final = "pending"
#: Of a task that the poller asks for no more.
GIVEN_UP: Final = (
    "given up: it has not ended, and nobody asks the provider for it any more"
)


class Entry(NamedTuple):
    """Something that happened to a task."""

    at: datetime
    what: str


async def task_document(ledger: Ledger, task_id: TaskId) -> dict[str, Any] | None:
    """Give all that the ledger knows of a task as a JSON object; ``None``: nothing."""
    task = await ledger.find_task(task_id)
    if task is None:
        return None
    expected = await ledger.find_expected(task_id)
    return {
        **asdict(task),
        "expected": None if expected is None else asdict(expected),
        "updates": [asdict(u) for u in await ledger.list_updates(task_id)],
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


def is_over(document: dict[str, Any]) -> bool:
    """Tell whether a task has ended and each of its files is settled."""
    has_ended: bool = document["stage"].is_final
    return has_ended and all(one["state"] != PENDING for one in document["assets"])


def is_given_up(document: dict[str, Any]) -> bool:
    """Tell whether nobody asks for a task any more, though it has not ended."""
    return (document["expected"] or {}).get("given_up_at") is not None


def settled(asset: dict[str, Any]) -> str:
    """Say what became of a file."""
    what = f"{asset['key']['track_id']}/{asset['key']['kind']}"
    if asset["location"] is None:
        reason = f": {asset['reason']}" if asset["reason"] else ""
        return f"{what} {asset['state']}{reason}"
    return (
        f"{what} {asset['state']}: {asset['location']}, {asset['size_bytes']:,} bytes"
    )


def _submitted(document: dict[str, Any]) -> Iterator[Entry]:
    """Say when a task was submitted, is asked for next, and was given up."""
    expected = document["expected"] or {}
    if at := expected.get("submitted_at"):
        job = expected["job_id"]
        yield Entry(at, "submitted" + (f" as {job}" if job else ""))
    questions = expected.get("questions", 0)
    if at := expected.get("given_up_at"):
        yield Entry(at, f"given up at question {questions}")
    if at := expected.get("due_at"):
        yield Entry(at, f"question {questions + 1}, unless news comes before")


def _updates(document: dict[str, Any]) -> Iterator[Entry]:
    for one in document["updates"]:
        more = f", {n} more said the same" if (n := one["duplicates"]) else ""
        what = f"{one['origin']}: {one['stage']} ({one['verdict']}{more})"
        yield Entry(one["received_at"], what)


def _attempts(document: dict[str, Any]) -> Iterator[Entry]:
    for one in document["attempts"]:
        what = (
            f"{one['queue']}: {one['subject']}, attempt {one['number']}:"
            f" {one['outcome']} {one['detail']}"
        )
        yield Entry(one["finished_at"], what.rstrip())


def _files(document: dict[str, Any]) -> Iterator[Entry]:
    for one in document["renewals"]:
        key = one["key"]
        what = (
            f"{key['track_id']}/{key['kind']} has another link, from {one['source']}:"
            f" {_bare(one['new_url'])}, was {_bare(one['old_url'])}"
        )
        yield Entry(one["renewed_at"], what)
    for one in document["assets"]:
        if one["settled_at"] is not None:
            yield Entry(one["settled_at"], settled(one))


def _notifications(document: dict[str, Any]) -> Iterator[Entry]:
    for one in document["notifications"]:
        if one["delivered_at"] is not None:
            what = f"{one['subscription']} has been told {one['event_type']}"
            yield Entry(one["delivered_at"], what)


def _dead_letters(document: dict[str, Any]) -> Iterable[Entry]:
    for one in document["dead_letters"]:
        at = one["last_failed_at"] or one["published_at"]
        if at is not None:
            what = f"dead letter in {one['queue']}: {one['error_type']}: {one['error']}"
            yield Entry(at, what)


def _bare(url: str) -> str:
    """Write a link without what may be a secret."""
    from yarl import URL

    from pipeline.assets.link import show

    try:
        return show(URL(url))
    except ValueError:
        return "(no link)"
