"""How far the provider's callbacks are believed, and how the provider is asked."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from pipeline.settings.section import Section
from pipeline.settings.values import Hidden, Key, ProviderUrl, Timeout, refuse_alone


def _none_if_empty(given: object) -> object:
    """Take an empty file of a secret for none, as it is of a list of them."""
    return None if given == "" else given


class ProviderSettings(Section):
    """The provider's API, and what is believed without asking there."""

    #: The door in use, one of ``doors``.
    door: str = "generic"
    #: Where the API is, without the path of a call. Not given: as the door in use
    #: says; none: it is not asked.
    base_url: ProviderUrl | None = None
    #: The key of our account there.
    api_key: Annotated[Key | None, BeforeValidator(_none_if_empty), Hidden()] = None
    #: Where the provider reaches our ingress: its public base address, such as
    #: ``https://hooks.example.com``; none: no tasks are submitted.
    callback_url: ProviderUrl | None = None
    #: ``body``: what a callback says is taken as it is. ``verify``: the provider is
    #: asked first, and only what it says itself is taken.
    trust: Literal["body", "verify"] = "body"
    #: The longest for one question.
    timeout: Timeout = timedelta(seconds=10)
    #: Questions of one process at the same time.
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 8
    #: The most questions in a second, of all processes on one ledger together; none:
    #: as the door in use says.
    rate_per_second: Annotated[float, Field(gt=0, le=10_000)] | None = None

    @field_validator("trust")
    @classmethod
    def _can_ask(cls, trust: str, info: ValidationInfo) -> str:
        # One that is wrong is not in here, and reported by itself. The key is a matter
        # of those who ask: the ingress has the same file and should not have it.
        if trust == "verify" and info.data.get("base_url", "") is None:
            refuse_alone("provider.base_url")
        return trust
