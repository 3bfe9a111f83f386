"""The door in use: what its codes mean, what it takes, where its calls are.

One product is sold through several doors, whose paths, limits and codes drift apart;
429 even means opposite things. Whoever needs such a fact asks the ``Door``. The facts
themselves are configuration: ``pipeline/settings/doors.toml`` and ``[doors.NAME]``.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal

from pipeline.errors import ConfigurationError
from pipeline.failure import FailureClass
from pipeline.provider.signature import Scheme
from pipeline.settings.door import DEFAULT_MODEL
from pipeline.settings.doors import GENERIC, built_in_doors
from pipeline.values import value

if TYPE_CHECKING:
    from datetime import timedelta

    from pipeline.settings import DoorSettings, Settings
    from pipeline.settings.door import DoorCall, DoorLifetimes, DoorLimits


@value
class Door:
    """One door; what the settings say otherwise is in it already."""

    name: str
    #: Where its API is; ``None``: not known.
    base_url: str | None
    #: How its callbacks are signed; ``None``: they are not.
    scheme: Scheme | None
    #: Everything else that is known of it.
    settings: DoorSettings

    @property
    def limits(self) -> DoorLimits:
        """How often it may be called; for lengths see the methods."""
        return self.settings.limits

    @property
    def lifetimes(self) -> DoorLifetimes:
        """How long its files and links can be had."""
        return self.settings.lifetimes

    def failure(self, code: int | None, status: str = "") -> FailureClass:
        """Say what a failure means for another attempt.

        Args:
            code: of a callback, of an answer, or the HTTP status of one.
            status: the word of the details endpoint, in any letter case; it says more
                than a code.
        """
        found = self.settings.statuses.get(status.upper())
        if found is None and code is not None:
            found = self.settings.codes.get(code)
        return FailureClass.UNKNOWN if found is None else found

    def longest_upload(self, model: str) -> timedelta | None:
        """Say how long the source audio may be; ``None``: not known."""
        limits = self.limits.upload
        return limits.get(model, limits.get(DEFAULT_MODEL))

    def text_limit(
        self, field: Literal["prompt", "style", "title"], model: str
    ) -> int | None:
        """Say how many characters a field may have; ``None``: not known."""
        limits: dict[str, int] = getattr(self.limits, field)
        return limits.get(model, limits.get(DEFAULT_MODEL))

    def find_submit(self, operation: str) -> DoorCall | None:
        """Find where tasks of an operation are submitted."""
        return self.settings.submit.get(operation)

    def find_details(self, operation: str) -> DoorCall | None:
        """Find where tasks of an operation are asked for."""
        return self.settings.details.get(operation)

    def find_call(
        self, name: Literal["credits", "fresh_link", "recovery"]
    ) -> DoorCall | None:
        """Find one of the calls that not every door has."""
        return self.settings.calls.get(name)


def door_of(settings: Settings) -> Door:
    """Give the door in use, with what the settings say otherwise.

    Raises:
        ConfigurationError: ``provider.door`` names none that there is.
    """
    name = settings.provider.door
    table = settings.doors.get(name)
    if table is None:
        known = ", ".join(sorted(settings.doors))
        message = f"provider.door: expected one of {known}, got {name!r}"
        raise ConfigurationError(message)
    signature = settings.ingress.signature
    is_said = "scheme" in signature.model_fields_set
    return Door(
        name=name,
        base_url=settings.provider.base_url or table.base_url,
        scheme=Scheme(signature.scheme) if is_said else _scheme(table),
        settings=table,
    )


def questions_per_second(settings: Settings) -> float:
    """Say how often the account may ask, all processes on its ledger together.

    Raises:
        ConfigurationError: as ``door_of``.
    """
    said = settings.provider.rate_per_second
    return door_of(settings).limits.questions_per_second if said is None else said


def polls_per_second(settings: Settings) -> float:
    """Say how many of these questions pollers may ask.

    Raises:
        ConfigurationError: as ``door_of``.
    """
    all_of_them = questions_per_second(settings)
    said = settings.poller.rate_per_second
    return all_of_them if said is None else min(said, all_of_them)


@cache
def generic_door() -> Door:
    """Give the door of which only what all have in common is known."""
    table = built_in_doors()[GENERIC]
    return Door(name=GENERIC, base_url=None, scheme=_scheme(table), settings=table)


def _scheme(table: DoorSettings) -> Scheme | None:
    return None if table.signature == "none" else Scheme(table.signature)
