"""Whether callbacks are put into the outage spool."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pipeline.settings.model import Settings


def is_spooling(settings: Settings) -> bool:
    """Tell whether the ingress keeps callbacks itself while the broker takes none."""
    if settings.spool.enabled is None:
        # An embedded broker is a file on the same machine as well.
        return urlsplit(settings.broker_url).scheme != "sqlite"
    return settings.spool.enabled
