"""From raw callbacks to events that nobody hears of twice.

Reads each callback, claims it in the ledger, and says what is to be published: the
event of its stage, and a request for each file that nobody has asked for yet. A
duplicate publishes nothing, but its fresh links reach files that still need them.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from pipeline.errors import Reject, Unreadable
from pipeline.events.catalogue import DEFAULT_SOURCE
from pipeline.events.publications import (
    asset_requested,
    assets_ready,
    task_event,
    task_recovered,
)
from pipeline.failpoints import reach
from pipeline.ledger.jobs import NamedJob
from pipeline.ledger.port import Claim, Verdict
from pipeline.logs import get_logger
from pipeline.message import (
    JOB,
    JOB_MARK,
    OPERATION,
    ORIGIN,
    RECEIVED_AT,
    from_milliseconds,
)
from pipeline.metrics import RECOVERED, UPDATES
from pipeline.provider.callback import OPERATIONS, normalise
from pipeline.task import event_id
from pipeline.workers.confirm import POLL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime, timedelta

    from pipeline.errors import Settlement
    from pipeline.ledger.port import Ledger, Recorded
    from pipeline.message import Envelope, Publication
    from pipeline.provider.door import Door
    from pipeline.workers.confirm import Confirmation

log = get_logger("dedupe")

#: How a callback came if its envelope does not say.
CALLBACK: Final = "callback"
_KEY_WORDS: Final = 3


class Dedupe:
    """The handler of the queue ``dedupe``.

    Idempotent: an envelope that is handled again, after a crash or a lost
    connection, gives the same publications with the same ids. Envelopes of one
    batch are recorded in their order, in one transaction.

    Args:
        ledger: an open handle.
        clock: gives the present time, aware.
        quiet: says for each operation how long nothing has to be heard of a task
            before it is asked for; ``None``: nobody asks.
        confirmation: asks the provider about each callback before anything comes of
            it; ``None``: what the bodies say is taken as it is.
        door: knows what a failure means; ``None``: what it means at every door.
        polls_alone: no callback can come, so nothing that was asked for is lost.
        source: the CloudEvents source of what is published.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        clock: Callable[[], datetime],
        quiet: Callable[[str], timedelta] | None = None,
        confirmation: Confirmation | None = None,
        door: Door | None = None,
        polls_alone: bool = False,
        source: str = DEFAULT_SOURCE,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._quiet = quiet
        self._confirmation = confirmation
        self._door = door
        self._polls_alone = polls_alone
        self._source = source

    async def handle(
        self, envelopes: Sequence[Envelope]
    ) -> Sequence[Sequence[Publication] | Exception]:
        """Handle a batch; one result for each envelope, in order.

        A body that cannot be read gives ``Reject``, for its envelope alone; one that
        the provider does not confirm gives ``Retry`` or ``Reject``.

        Raises:
            LedgerUnavailable: nothing was recorded, as far as we know.
        """
        now = self._clock()
        read: Sequence[Claim | Settlement]
        read = [_claim(one, now, self._quiet, self._door) for one in envelopes]
        if self._confirmation is not None:
            read = await self._confirmation.confirm(read)
        claims = [claim for claim in read if isinstance(claim, Claim)]
        await reach("dedupe.before_record")
        recorded = await self._ledger.record(claims)
        await reach("dedupe.after_record")
        _count(claims, recorded)
        answers = iter(recorded)
        return [
            self._publications(one, next(answers), now)
            if isinstance(one, Claim)
            else one
            for one in read
        ]

    def _publications(
        self, claim: Claim, recorded: Recorded, now: datetime
    ) -> Sequence[Publication]:
        publications = []
        if recorded.verdict is not Verdict.DUPLICATE:
            publications.append(
                task_event(
                    claim.update,
                    claim.event_id,
                    late=recorded.verdict is Verdict.LATE,
                    origin=claim.origin,
                    received_at=claim.received_at,
                    source=self._source,
                    at=now,
                )
            )
        if recorded.moved and claim.origin == POLL and not self._polls_alone:
            publications.append(
                task_recovered(
                    claim.update,
                    claim.event_id,
                    received_at=claim.received_at,
                    source=self._source,
                    at=now,
                )
            )
        publications.extend(
            asset_requested(
                asset,
                owner=claim.owner,
                stage=claim.update.stage,
                source=self._source,
                at=now,
            )
            for asset in recorded.requested
        )
        if recorded.ready is not None:
            publications.append(
                assets_ready(recorded.ready, source=self._source, at=now)
            )
        return publications


def _claim(
    envelope: Envelope,
    now: datetime,
    quiet: Callable[[str], timedelta] | None,
    door: Door | None,
) -> Claim | Reject:
    try:
        update = normalise(envelope.body, operation_of(envelope), door)
    except Unreadable as error:
        return Reject(str(error))
    origin = envelope.headers.get(ORIGIN)
    received_at = _received_at(envelope, now)
    due_at = None
    # Whoever has asked for it knows when to ask again.
    if quiet is not None and origin != POLL:
        due_at = received_at + quiet(update.operation)
    return Claim(
        update=update,
        event_id=event_id(update),
        owner=envelope.message_id,
        origin=origin if isinstance(origin, str) else CALLBACK,
        received_at=received_at,
        body=envelope.body,
        due_at=due_at,
        replayed=envelope.replays > 0,
        door="" if door is None else door.name,
        job=_job(envelope, origin),
    )


def operation_of(envelope: Envelope) -> str:
    """Give the operation from the header, or from ``callback.<operation>.<stage>``."""
    operation = envelope.headers.get(OPERATION)
    if isinstance(operation, str) and operation:
        return operation
    words = envelope.routing_key.split(".")
    return words[1] if len(words) == _KEY_WORDS and words[1] else "unknown"


def _job(envelope: Envelope, origin: object) -> NamedJob | None:
    """Give the job that the address of a callback has named, if any."""
    mark, operation = envelope.headers.get(JOB), operation_of(envelope)
    if mark is None or origin == POLL or operation not in OPERATIONS:
        return None
    # Whoever writes to the exchange may write anything there.
    if not isinstance(mark, str) or not JOB_MARK.fullmatch(mark):
        return None
    return NamedJob(mark=mark, operation=operation)


def _received_at(envelope: Envelope, now: datetime) -> datetime:
    value = envelope.headers.get(RECEIVED_AT)
    if type(value) is int:
        try:
            return from_milliseconds(value)
        except ValueError:
            pass
    return envelope.published_at or now


def _count(claims: Sequence[Claim], recorded: Sequence[Recorded]) -> None:
    seen = Counter(
        (claim.update.stage.value, answer.verdict.value)
        for claim, answer in zip(claims, recorded, strict=True)
    )
    for labels, number in seen.items():
        UPDATES.labels(*labels).inc(number)
    for claim, answer in zip(claims, recorded, strict=True):
        if claim.origin == POLL and answer.ended:
            _tell_recovered(claim)


def _tell_recovered(claim: Claim) -> None:
    """Count an end that no callback has told of: it should have."""
    update = claim.update
    operation = update.operation if update.operation in OPERATIONS else "other"
    RECOVERED.labels(operation).inc()
    log.info(
        "task_recovered",
        task_id=update.task_id,
        operation=operation,
        stage=update.stage.value,
    )
