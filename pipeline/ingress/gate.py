"""Who is let in before anything of a request is read but its head.

Networks, rates and the number of requests at a time: what a caller gets to hear here
costs next to nothing, so that a flood of refusals is no flood of work.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from aiohttp import web

from pipeline.ingress.limits import RateLimit
from pipeline.ingress.networks import FORWARDED_HEADER, Networks, find_client
from pipeline.ingress.problems import problem
from pipeline.ingress.turned_away import Tally, TurnedAway

if TYPE_CHECKING:
    from pipeline.ingress.networks import Address
    from pipeline.settings import IngressSettings

#: Key under which a request carries the address of who sent it, for the log.
CLIENT: Final = web.RequestKey("client", object)
BUSY_RETRY_AFTER_SECONDS: Final = "2"


def name_of(request: web.BaseRequest) -> str:
    """Give the address of who sent a request, as far as it is known, for the log."""
    return str(request.get(CLIENT) or request.remote)


class Gate:
    """Lets callbacks in, or says why not.

    Args:
        settings: networks and limits.
    """

    def __init__(self, settings: IngressSettings) -> None:
        self._networks = Networks(settings.networks)
        self._health_networks = Networks(settings.health_networks)
        self._proxies = Networks(settings.trusted_proxies)
        self._most = settings.max_requests
        self._rate: RateLimit | None = None
        if settings.rate_per_second is not None:
            self._rate = RateLimit(settings.rate_per_second, settings.rate_burst)
        self._asks_who = bool(self._networks or self._proxies or self._rate is not None)
        self._tally = Tally()
        #: Callbacks in progress; whoever lets one in and out counts it.
        self.inside = 0

    @property
    def is_wide_open(self) -> bool:
        """Whether anybody may come in now, so that nobody has to be looked at."""
        return not self._asks_who and self.inside < self._most

    def refuse(self, request: web.BaseRequest) -> web.Response | None:
        """Say why a callback is not let in; ``None``: it is."""
        if self._asks_who:
            client = self._client_of(request)
            if self._networks and client not in self._networks:
                detail = "expected a caller from a network that is allowed"
                response = problem(403, detail, code="forbidden_network")
                return self._turn_away(request, response, TurnedAway.NETWORK)
            if self._rate is not None and (wait := self._rate.wait_of(client)):
                detail = "expected fewer requests from one address; send it later"
                after = {"Retry-After": str(math.ceil(wait))}
                response = problem(429, detail, code="too_many_requests", headers=after)
                return self._turn_away(request, response, TurnedAway.RATE)
        if self.inside >= self._most:
            detail = "expected fewer requests at the same time; send it later"
            after = {"Retry-After": BUSY_RETRY_AFTER_SECONDS}
            response = problem(503, detail, code="too_busy", headers=after)
            return self._turn_away(request, response, TurnedAway.BUSY)
        return None

    def shows_health_to(self, request: web.BaseRequest) -> bool:
        """Tell whether a caller may see health and metrics."""
        networks = self._health_networks
        return not networks or self._client_of(request) in networks

    def _turn_away(
        self, request: web.BaseRequest, response: web.Response, cause: TurnedAway
    ) -> web.Response:
        self._tally.add(cause, name_of(request))
        return response

    def _client_of(self, request: web.BaseRequest) -> Address | None:
        forwarded = request.headers.getall(FORWARDED_HEADER, ())
        client = find_client(request.remote, forwarded, self._proxies)
        request[CLIENT] = client
        return client
