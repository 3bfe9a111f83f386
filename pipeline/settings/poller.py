"""When and how often the provider is asked for tasks that are still to end."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field

from pipeline.settings.section import Section
from pipeline.settings.values import Duration, Timeout, between, parse_table

#: The provider allows three questions for one task in a second.
_SHORTEST_INTERVAL = timedelta(milliseconds=334)


class PollerSettings(Section):
    """The poller, and what others have to know of it."""

    #: Whether ``pipeline run`` has one; none: it does where ``provider.base_url`` and
    #: ``provider.api_key`` are set.
    enabled: bool | None = None
    #: How long nothing has to be heard of a task before it is asked for.
    quiet: Duration = timedelta(minutes=3)
    #: The same for tasks of single operations, by their name.
    operation_quiet: Annotated[dict[str, Duration], BeforeValidator(parse_table)] = (
        Field(default_factory=dict)
    )
    #: From one question for a task to the next, give or take a tenth.
    interval: Annotated[Duration, between(_SHORTEST_INTERVAL)] = timedelta(seconds=30)
    #: A task of this age of which there is no news any more is given up.
    give_up_after: Timeout = timedelta(minutes=30)
    #: Of the questions of the account, the most in a second that all pollers on one
    #: ledger ask; none: all that the account may ask.
    rate_per_second: Annotated[float, Field(gt=0, le=10_000)] | None = None

    @property
    def overdue_after(self) -> timedelta:
        """Say how late a question may be before too few ask, or nobody does."""
        return self.interval * 4

    def quiet_for(self, operation: str) -> timedelta:
        """Say how long nothing has to be heard of a task of an operation."""
        return self.operation_quiet.get(operation, self.quiet)
