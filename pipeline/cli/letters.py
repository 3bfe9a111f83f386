"""How dead letters look, for people and for programs."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import orjson
import typer

from pipeline.cli import render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.dead_letters import DeadLetter, Progress

#: What is needed most stands first: a narrow terminal cuts lines off.
COLUMNS = (
    render.Column("QUEUE", 16),
    render.Column("MESSAGE ID", 32),
    render.Column("ERROR TYPE", 18),
    render.Column("TRIES", 5),
    render.Column("FAILED AT", 20),
    render.Column("TASK", 32),
    render.Column("STAGE", 8),
    render.Column("REPLAYS", 7),
    render.Column("ERROR"),
)


def as_document(letter: DeadLetter, *, complete: bool = False) -> dict[str, Any]:
    """Give a dead letter as a JSON object; ``complete``: with headers and body."""
    envelope, failure = letter.envelope, letter.envelope.failure
    document: dict[str, Any] = {
        "queue": letter.queue,
        "message_id": envelope.message_id,
        "routing_key": envelope.routing_key,
        "task_id": letter.task_id,
        "stage": letter.stage,
        "error_type": failure and failure.error_type,
        "error": failure and failure.error_text,
        "attempt": envelope.attempt,
        "replays": envelope.replays,
        "first_failed_at": failure and failure.first_failed_at,
        "last_failed_at": failure and failure.last_failed_at,
        "published_at": envelope.published_at,
        "body_bytes": len(envelope.body),
    }
    if complete:
        document["content_type"] = envelope.content_type
        document["headers"] = dict(envelope.headers)
        try:
            document["body"] = envelope.body.decode()
        except UnicodeDecodeError:
            document["body_base64"] = base64.b64encode(envelope.body).decode()
    return document


def as_row(letter: DeadLetter) -> Sequence[object]:
    """Give the cells for ``COLUMNS``."""
    envelope, failure = letter.envelope, letter.envelope.failure
    return (
        letter.queue,
        envelope.message_id,
        failure and failure.error_type,
        envelope.attempt,
        letter.failed_at,
        letter.task_id,
        letter.stage,
        envelope.replays,
        failure and failure.error_text,
    )


def print_letter(letter: DeadLetter) -> None:
    """Print a dead letter with its headers and its body, for people."""
    document = as_document(letter, complete=True)
    headers = document.pop("headers")
    document.pop("body", None)
    document.pop("body_base64", None)
    render.print_fields(document)
    render.print_fields(
        {f"header {k}": v for k, v in headers.items()} or {"headers": None}
    )
    typer.echo()
    try:
        body: object = orjson.loads(letter.envelope.body)
    except orjson.JSONDecodeError:
        typer.echo(repr(letter.envelope.body))
    else:
        render.print_json(body)


def print_missed(missed: int | None) -> None:
    """Say that not all dead letters could be looked at, and what to do."""
    if missed is None:
        render.fail(
            "another reader takes dead letters now: those that it holds, if any, could"
            " not be looked at; try again when it has ended"
        )
    else:
        render.fail(
            f"{render.count_of(missed, 'dead letter')} could not be looked at: another"
            " reader holds them, or one that died less than 30 s ago, or the broker"
            " was too slow; try again when the reader has ended, or in 30 s"
        )


def print_nobody(message_id: str, missed: int | None) -> None:
    """Say that a dead letter was not found, and whether it may be there."""
    seen = "" if missed == 0 else " that could be looked at"
    render.fail(
        f"no dead letter{seen} has the message id {message_id}; give the whole id, as"
        " pipeline dead-letters list has it"
    )
    if missed != 0:
        print_missed(missed)


def print_result(verb: str, done: Progress, *, dry_run: bool, as_json: bool) -> None:
    """Say how many were replayed or discarded, or would have been."""
    if as_json:
        document = {
            verb: 0 if dry_run else done.matched,
            "matched": done.matched,
            "seen": done.seen,
            "total": done.total,
            "held": done.held,
            "queues": done.by_queue,
            "dry_run": dry_run,
        }
        render.print_json(document)
        return
    would = "would be " if dry_run else ""
    by_queue = ", ".join(f"{n:,} of {q}" for q, n in done.by_queue.items())
    detail = f" ({by_queue})" if by_queue else ""
    typer.echo(f"{render.count_of(done.matched, 'dead letter')} {would}{verb}{detail}")
