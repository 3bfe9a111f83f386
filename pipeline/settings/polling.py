"""Whether results are asked for, and whether that is the only way they come."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pipeline.settings.model import Settings


def is_polling(settings: Settings) -> bool:
    """Tell whether a process with every role has a poller."""
    provider = settings.provider
    if settings.poller.enabled is None:
        return provider.base_url is not None and provider.api_key is not None
    return settings.poller.enabled


def is_polling_alone(settings: Settings) -> bool:
    """Tell whether the callback address leads nowhere, as whoever polls alone sets it.

    ``.invalid`` is a domain that never exists (RFC 2606). Without any address,
    callbacks may still come of tasks that somebody else submits.
    """
    url = settings.provider.callback_url
    host = "" if url is None else urlsplit(str(url)).hostname or ""
    return host == "invalid" or host.endswith(".invalid")
