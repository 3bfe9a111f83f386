"""What readiness says of a spool that is switched off and may still hold callbacks.

The ingress publishes straight to the broker then, and is ready if that is; the
forwarder brings out what the file holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.spool.outlet import Outlet


class Leftover:
    """Takes no callback; while some wait, the ingress is degraded.

    Args:
        outlet: the forwarder's; nobody else publishes by it.
    """

    #: The broker is a check of its own, and nothing stands in for it.
    broker_problem = None

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet

    @property
    def problem(self) -> str | None:
        """Why it is not known what waits; ``None``: it is."""
        return self._outlet.spool.failure

    @property
    def is_in_use(self) -> bool:
        """Whether callbacks wait in the file."""
        return self._outlet.is_in_use

    @property
    def state(self) -> Mapping[str, object]:
        """What there is to say about them, for people."""
        return self._outlet.state
