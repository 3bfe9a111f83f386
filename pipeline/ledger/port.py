"""What every ledger does for us: remember what was seen, fetched and delivered.

Two adapters (``sqlite.py``, ``postgres.py``), one contract suite for both. Methods
that take several items are one transaction: a batch of callbacks costs one commit.
Every write is idempotent: the same call by the same owner has the same answer,
because a worker may crash between the write and the settlement.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import field
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Self

from pipeline.ledger.expectations import Expectations
from pipeline.ledger.jobs import Jobs
from pipeline.ledger.links import Links
from pipeline.ledger.records import (
    EVERY_TASK,
    Attempt,
    Description,
    Notification,
    Place,
    SeenUpdate,
    TaskRecord,
    TaskSelection,
    Totals,
)
from pipeline.ledger.turns import Turns
from pipeline.task import Asset, AssetState, StageReady, StoredAsset
from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from types import TracebackType

    from pipeline.ledger.jobs import NamedJob
    from pipeline.ledger.lease import BegunAsset, BegunNotification, Lease
    from pipeline.message import MessageId
    from pipeline.task import AssetKey, EventId, Stage, TaskId, TaskUpdate

__all__ = [
    "Asset",
    "AssetState",
    "Attempt",
    "Claim",
    "Description",
    "Ledger",
    "Notification",
    "Recorded",
    "SeenUpdate",
    "Settled",
    "StageReady",
    "StoredAsset",
    "TaskRecord",
    "Totals",
    "Verdict",
]


#: How what was a dead letter came in.
REPLAY: Final = "replay"


class Verdict(StrEnum):
    """What the ledger thinks of an update."""

    #: Seen for the first time; the task moves on or stays.
    NEW = "new"
    #: Seen for the first time, but the task is past this stage already.
    LATE = "late"
    #: The same occurrence was recorded for another message.
    DUPLICATE = "duplicate"


@value
class Claim:
    """An update to be recorded, and who wants to do it."""

    update: TaskUpdate
    event_id: EventId
    #: The envelope's message id: the same over redeliveries.
    owner: MessageId
    #: How it came: ``callback`` or ``poll``.
    origin: str
    received_at: datetime
    #: The raw body, kept with the first claim of an event: it may hold more than
    #: we can read today.
    body: bytes = b""
    #: When to ask for the task if it has not ended by then; ``None``: as before.
    due_at: datetime | None = None
    #: Whether the message was a dead letter before, and was replayed.
    replayed: bool = False
    #: The door of the provider that it came through; empty: that is not known.
    door: str = ""

    @property
    def way_in(self) -> str:
        """How it came in, for the timeline: its origin, or ``replay``."""
        return REPLAY if self.replayed else self.origin

    #: The job that its address names; ``None``: it names none.
    job: NamedJob | None = None


@value
class Recorded:
    """The answer to a claim."""

    verdict: Verdict
    #: The task's stage now.
    stage: Stage
    #: Files that this owner has to request; empty when others did already.
    requested: tuple[Asset, ...] = ()
    #: Set if all files of the update's stage are settled already.
    ready: StageReady | None = None
    #: Whether this is what has ended the task; not said again.
    ended: bool = field(default=False, compare=False)
    #: Whether it moved the task on to a later stage; said again to the same owner.
    moved: bool = field(default=False, compare=False)


@value
class Settled:
    """What became of a file that was to be settled."""

    #: As it stands now; ``None``: it is not known.
    asset: Asset | None
    #: The stages that it belongs to and whose files are all settled.
    ready: tuple[StageReady, ...] = ()


class Ledger(Expectations, Links, Turns, Jobs):
    """A handle on a ledger, to be used as an async context manager.

    Entering applies missing migrations. Every method may raise
    ``LedgerUnavailable``; workers then wait and try again.
    """

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Open, and apply missing migrations.

        Raises:
            LedgerUnavailable: the database cannot be opened.
            LedgerMismatch: its schema is newer than this program.
        """

    @abstractmethod
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close. Idempotent."""

    @abstractmethod
    async def record(self, claims: Sequence[Claim]) -> Sequence[Recorded]:
        """Claim and record updates, in order, in one transaction.

        A claim whose event id is known for another owner is a duplicate: it is
        counted, once for each owner. Links of ``first`` and ``complete``, also of
        duplicates, become files: a new one is requested by this owner, a pending
        one takes the link that was received last, an expired one whose link
        differs is requested anew by this owner, a stored one stays.

        The same owner gets the same answer again. What a task looks like in the
        end does not depend on the order of claims.
        """

    @abstractmethod
    async def find_asset(self, key: AssetKey) -> Asset | None:
        """Give the file as it stands, with its newest link."""

    @abstractmethod
    async def begin_asset(
        self, key: AssetKey, *, owner: str, lasts: timedelta
    ) -> BegunAsset | None:
        """Take the lease on a file that is pending; ``None``: it is not known.

        The same owner gets it at any time, others once it has run out; whoever gets
        it gets a higher token than all before. Time is measured by the database.

        Raises:
            LeaseHeld: it is another's.
        """

    @abstractmethod
    async def renew(self, lease: Lease, *, lasts: timedelta) -> None:
        """Let a lease hold for ``lasts`` from now, also if it had run out.

        Raises:
            LeaseLost: another has taken it.
        """

    async def release(self, lease: Lease) -> None:
        """Let others take the lease at once; its token stays good until they do.

        Raises:
            LeaseLost: another has taken it.
        """
        await self.renew(lease, lasts=timedelta(0))

    @abstractmethod
    async def settle_assets(
        self,
        keys: Sequence[AssetKey],
        result: StoredAsset | str,
        *,
        at: datetime,
        lease: Lease | None = None,
    ) -> Sequence[Settled]:
        """Note that files are stored, or expired with a reason (``str``).

        One transaction; an answer for each key, in order. Each has the stages whose
        files were all settled after it and to which it belongs; calling again
        returns them again. A stored file stays stored: an expiry noted later changes
        nothing. When the last files of a stage are settled concurrently, at least
        one of the calls returns the stage. A file that is not known changes nothing.

        ``lease`` is the one under which a single file was fetched, and ends with
        this. Without one nothing is fenced off: to give files up by hand.

        Raises:
            LeaseLost: another has taken the lease; nothing has changed.
        """

    async def settle_asset(
        self, key: AssetKey, result: StoredAsset | str, *, at: datetime
    ) -> Sequence[StageReady]:
        """Settle one file as ``settle_assets`` does; give the stages that are ready."""
        (settled,) = await self.settle_assets([key], result, at=at)
        return [*settled.ready]

    @abstractmethod
    async def add_attempts(self, attempts: Sequence[Attempt]) -> None:
        """Remember tries; the same queue, message, replay and number is kept once."""

    @abstractmethod
    async def begin_notification(
        self, notification: Notification, *, owner: str, lasts: timedelta
    ) -> BegunNotification:
        """Take the lease on telling a subscription of an event, as ``begin_asset``.

        ``notification`` is one before its first try; what is known of it stays.

        Raises:
            LeaseHeld: it is another's.
        """

    @abstractmethod
    async def note_notification(
        self, notification: Notification, *, lease: Lease
    ) -> None:
        """Remember a try, and end its lease. What was delivered stays delivered.

        Raises:
            LeaseLost: another has taken the lease; nothing has changed.
        """

    @abstractmethod
    async def find_task(self, task_id: TaskId) -> TaskRecord | None:
        """Give a task as it stands."""

    @abstractmethod
    async def list_task_ids(self, start: str, *, limit: int) -> Sequence[TaskId]:
        """List ids of tasks that start so, at most ``limit``, in order.

        So one that is just that comes first. Every letter stands for itself.
        """

    @abstractmethod
    async def list_tasks(
        self,
        chosen: TaskSelection = EVERY_TASK,
        *,
        after: Place | None = None,
        limit: int = 100,
    ) -> Sequence[TaskRecord]:
        """List tasks, the last seen first, and by their ids among equals.

        ``after`` goes on behind a place, so that pages of a listing do not overlap
        though new tasks come meanwhile. One that is seen again moves to the front.
        """

    @abstractmethod
    async def list_updates(self, task_id: TaskId) -> Sequence[SeenUpdate]:
        """List what was recorded of a task, in order of arrival."""

    @abstractmethod
    async def find_body(self, task_id: TaskId, event: EventId) -> bytes | None:
        """Give the raw body that was kept for an event of a task."""

    @abstractmethod
    async def list_assets(self, task_id: TaskId) -> Sequence[Asset]:
        """List the files of a task."""

    @abstractmethod
    async def list_attempts(self, task_id: TaskId) -> Sequence[Attempt]:
        """List tries for a task, the oldest first."""

    @abstractmethod
    async def list_notifications(self, task_id: TaskId) -> Sequence[Notification]:
        """List notifications of a task of which at least one try has ended."""

    @abstractmethod
    async def describe(self) -> Description:
        """Tell what holds the ledger, and what time it is there."""

    @abstractmethod
    async def totals(self) -> Totals:
        """Sum up everything."""

    @abstractmethod
    async def count_old(self, before: datetime) -> int:
        """Count the tasks that ``prune`` would forget."""

    @abstractmethod
    async def prune(self, before: datetime, *, limit: int = 200) -> int:
        """Forget tasks last seen before a time, with all there is about them.

        The oldest first, at most ``limit`` of them in one transaction; gives how many
        it were, 0 when none is left. A task with a file that is still to come stays:
        its request would find nothing. What comes for a forgotten task later is new.
        """
