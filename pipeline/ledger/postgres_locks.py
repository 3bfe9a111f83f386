"""Locks on tasks in PostgreSQL, known or not yet."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from pipeline.ledger import postgres_statements as sql

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.task import TaskId


def lock(task_ids: Iterable[TaskId]) -> str:
    """Say how to wait until nobody else changes these tasks, known or not.

    In ascending order, so that two who want the same tasks do not wait for each other.
    """
    return sql.lock_tasks(sorted({_key(one) for one in task_ids}))


def _key(task_id: TaskId) -> int:
    """Give the number of a task's lock; two tasks may share one."""
    digest = blake2b(task_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
