"""The one tree of errors, read this first.

PipelineError
├── ConfigurationError        a setting or a configuration file is wrong
├── BrokerError
│   ├── BrokerUnavailable     not reachable, or no answer in time: outcome unknown
│   │   └── TopologyMissing   something is not there yet, and we may not declare it
│   ├── Unroutable            no queue is bound for the routing key
│   ├── PublishRefused        the broker refused the message: a queue is full,
│   │                         or the leader of its copies is lost
│   ├── SpoolRefused          the outage spool is full, or cannot be written
│   ├── TopologyMismatch      a queue or exchange exists with other arguments
│   ├── AlreadySettled        a delivery was settled a second time
│   ├── DeliveryLost          settled too late: the broker took the delivery back
│   └── BrokerClosed          used before open or after close
├── LedgerError
│   ├── LedgerUnavailable     the database is not reachable, locked or full
│   ├── LedgerMismatch        the schema is newer than this program
│   ├── LeaseHeld             another worker is doing this now: wait
│   └── LeaseLost             another worker has taken this over: leave it alone
├── CallbackError
│   └── Unreadable            the body is no JSON object, or no task id is in it
├── AssetError
│   ├── LinkExpired           the link is gone for good: 403, 404, 410, 441
│   ├── AssetRefused          too large, wrong type, forbidden address
│   ├── AssetMissing          the store has no such file
│   └── FetchFailed           anything that may work next time
│       └── EmptyFile         the server says 200 and sends nothing, as new links do
├── ProviderError
│   ├── ProviderUnavailable   the provider gave no answer that can be used, this time
│   ├── ProviderRefused       it does not take our key, or the account is at an end
│   ├── TaskNotFound          it knows no such task
│   ├── NotConfirmed          it does not say of a task what a callback says
│   ├── SubmissionInvalid     we have found mistakes; nothing was sent
│   ├── SubmissionRefused     it does not take what was submitted
│   │   ├── SourceUnusable    it could not fetch the source audio
│   │   └── AlreadyThere      it has done this before: ask for the details
│   ├── JobTaken              the id belongs to a job with another request
│   ├── JobInProgress         the same job is being sent at this moment
│   └── OutcomeUnknown        it may have taken what was submitted, and may not
├── NotificationFailed        a subscriber did not answer 2xx in time
│   └── SubscriberGone        it answered 410: it wants to hear nothing more
└── Settlement                raised by handlers to say how to settle
    ├── Retry                 again later
    └── Reject                never again: to the dead-letter queue

Third-party exceptions stop at the adapter that knows the library: everything above
it sees only these, with the foreign one as ``__cause__``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta


class PipelineError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigurationError(PipelineError):
    """A setting is wrong; the message names every wrong key at once."""


class BrokerError(PipelineError):
    """Base of everything that goes wrong between us and the broker."""


class BrokerUnavailable(BrokerError):
    """The broker did not answer in time, so the outcome is unknown.

    A publish that ends so may have been stored: publish again with the same
    message id and let the consumer drop the second copy.
    """


class TopologyMissing(BrokerUnavailable):
    """A part of the topology is missing, and this user may not declare it.

    Somebody else is expected to, so whoever waits for the broker waits for this.
    """


class Unroutable(BrokerError):
    """No queue is bound for the routing key, so nothing was stored."""


class PublishRefused(BrokerError):
    """The broker answered no: a queue has reached its length limit.

    In a cluster also while a queue is without a leader, for the seconds after the
    loss of a node in which another one is chosen.
    """


class SpoolRefused(BrokerError):
    """Neither the broker nor the outage spool has taken the callback."""


class TopologyMismatch(BrokerError):
    """A queue or exchange exists already, with other arguments than ours."""


class AlreadySettled(BrokerError):
    """A delivery can be settled only once; this is an error in the program."""


class DeliveryLost(BrokerError):
    """The delivery was settled too late: it belongs to another consumer now.

    Harmless. What was published with it may be published again by the consumer
    that gets the redelivery, with the same message ids.
    """


class BrokerClosed(BrokerError):
    """The broker handle was used before it was opened or after it was closed."""


class LedgerError(PipelineError):
    """Base of everything that goes wrong between us and the ledger."""


class LedgerUnavailable(LedgerError):
    """The ledger's database is not reachable, locked for too long or full."""


class LedgerMismatch(LedgerError):
    """The ledger's schema was written by a newer version of this program."""


class LeaseHeld(LedgerError):
    """Another worker holds the lease on this work, and may be doing it now.

    Args:
        reason: what is held.
        left: how long the lease holds if nobody renews it.
    """

    def __init__(self, reason: str, *, left: timedelta) -> None:
        super().__init__(reason)
        self.left = left


class LeaseLost(LedgerError):
    """Another worker has taken the work over; what we wanted to note is refused.

    Harmless: whoever took over has the message too, and sees to everything.
    """


class CallbackError(PipelineError):
    """Base of what can be wrong with a callback's body."""


class Unreadable(CallbackError):
    """The body is no JSON object, or no task id can be found in it."""


class AssetError(PipelineError):
    """Base of what can go wrong while a file is fetched or stored."""


class LinkExpired(AssetError):
    """The link answers that the file is gone; only a fresh link can help."""


class AssetRefused(AssetError):
    """The file breaks a rule (size, type, address); fetching again is useless."""


class AssetMissing(AssetError):
    """The store has no file at that location."""


class FetchFailed(AssetError):
    """The file could not be fetched this time; it may work the next time.

    Args:
        reason: what was expected and what came.
        after: how long the server asked to be left alone, if it did.
    """

    def __init__(self, reason: str, *, after: timedelta | None = None) -> None:
        super().__init__(reason)
        self.after = after


class EmptyFile(FetchFailed):
    """There is nothing in the file: a new link may be like that for a while."""


class ProviderError(PipelineError):
    """Base of what can go wrong when the provider is asked something."""

    #: How long the provider asked to be left alone, if it did.
    after: timedelta | None = None
    #: What the provider answered, if it answered a code.
    code: int | None = None


class ProviderUnavailable(ProviderError):
    """The provider gave no answer that can be used; it may the next time.

    Args:
        reason: what was expected and what came.
        after: how long the provider asked to be left alone, if it did.
    """

    def __init__(self, reason: str, *, after: timedelta | None = None) -> None:
        super().__init__(reason)
        self.after = after


class ProviderRefused(ProviderError):
    """The provider does not take our key, or the account is at its end."""


class TaskNotFound(ProviderError):
    """The provider knows no such task."""


class NotConfirmed(ProviderError):
    """The provider does not say of a task what a callback says of it."""


class SubmissionInvalid(ProviderError):
    """What was to be submitted is wrong; nothing was sent, nothing was paid.

    Args:
        mistakes: one line for each.
    """

    def __init__(self, mistakes: Sequence[str]) -> None:
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        lines = "".join(f"\n  {mistake}" for mistake in mistakes)
        super().__init__(f"nothing was submitted: {count}:{lines}")
        self.mistakes = tuple(mistakes)


class SubmissionRefused(ProviderError):
    """The provider does not take what was submitted, and would not the next time."""


class SourceUnusable(SubmissionRefused):
    """The provider could not fetch the source audio: renew its link, then again."""


class AlreadyThere(SubmissionRefused):
    """The provider has done this already; the details tell what came of it.

    Args:
        message: what was expected and what came.
        task_id: the earlier task, if the answer names it.
    """

    def __init__(self, message: str, task_id: str | None = None) -> None:
        super().__init__(message)
        self.task_id = task_id


class OutcomeUnknown(ProviderError):
    """It is not known whether the provider has taken what was submitted.

    Submitting it again may be paid for twice, so nobody does that unasked. A callback
    or the provider's own log tells.

    Args:
        reason: what was expected and what came.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason}; it may have been accepted all the same: look for the task"
            " before you submit it again"
        )
        #: Without the advice.
        self.reason = reason


class JobTaken(ProviderError):
    """The id of a job belongs to one with another request; nothing was sent."""


class JobInProgress(ProviderError):
    """The same job is being sent at this moment; nothing was sent beside it.

    Args:
        reason: which one.
        after: when to ask again what became of it.
    """

    def __init__(self, reason: str, *, after: timedelta) -> None:
        super().__init__(reason)
        self.after = after


class NotificationFailed(PipelineError):
    """A subscriber did not answer with 2xx in time."""


class SubscriberGone(NotificationFailed):
    """A subscriber has answered 410: nothing more is sent to it."""


class Settlement(PipelineError):
    """Base of what a handler raises to say how its delivery is settled."""


class Retry(Settlement):
    """Ask for the delivery to be retried.

    Args:
        reason: what went wrong, for the dead letter and the log.
        after: how long to wait at least; ``None`` leaves it to the retry policy.
    """

    def __init__(self, reason: str, *, after: timedelta | None = None) -> None:
        super().__init__(reason)
        self.after = after


class Reject(Settlement):
    """Send the delivery to the dead-letter queue now; a retry would be useless."""
