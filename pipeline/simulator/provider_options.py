"""How a simulated provider may be asked to behave."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from pipeline.simulator.options import PLAIN, ScenarioOptions
from pipeline.simulator.poster import PostingRules
from pipeline.simulator.rates import RateLimits

if TYPE_CHECKING:
    from pipeline.simulator.doors import Door

#: Files are kept for 14 days.
LINK_LIFETIME: Final = timedelta(days=14)
RECOVERY_TAKES: Final = timedelta(seconds=20)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderOptions:
    """How a simulated provider behaves."""

    host: str = "127.0.0.1"
    #: 0 takes any free port.
    port: int = 0
    #: Base address in links, if receivers reach the server under another name.
    public_url: str | None = None
    #: Decides on links' signatures and on what happens to submitted tasks.
    seed: int = 1
    #: Simulated seconds per real second.
    time_scale: float = 60.0
    #: Which of the provider's doors to imitate where they differ.
    door: Door = "S"
    #: Asked for as a bearer token; ``None`` lets everybody in.
    api_key: str | None = "simulated-key"
    #: Submissions over HTTP until the account is empty.
    credits: int = 10_000
    #: Whether the answer that something was made before says as which task.
    names_earlier: bool = False
    #: How long signed links work, on the simulated clock.
    link_lifetime: timedelta = LINK_LIFETIME
    #: How long it takes to recover files, on the simulated clock.
    recovery_takes: timedelta = RECOVERY_TAKES
    #: What happens to tasks that are submitted one by one.
    behaviour: ScenarioOptions = PLAIN
    posting: PostingRules = field(default_factory=PostingRules)
    #: How often clients may call.
    rates: RateLimits = field(default_factory=RateLimits)
