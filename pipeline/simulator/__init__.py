"""The provider and the subscribers, simulated: for demos, and for your own tests.

``SimulatedProvider`` answers the provider's API, offers real audio files and
pictures under links that expire, and posts callbacks to an address of yours, with
the provider's retries, repeats and oddities. ``SimulatedSubscriber`` stands for
those who are notified. Both listen on loopback and need nothing else of this
package. Names are imported when they are first used, so that planning a scenario
does not load a web server.

    async with SimulatedProvider() as provider:
        scenario = plan_scenario(ScenarioOptions(tasks=6, seed=1))
        report = await provider.run(scenario, callback_url=address)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pipeline.simulator.audio import audio_format, make_audio
    from pipeline.simulator.clock import SimulatedClock
    from pipeline.simulator.journal import (
        ExpectedFile,
        Outcome,
        Report,
        SentCallback,
    )
    from pipeline.simulator.load import (
        LoadOptions,
        LoadResult,
        plan_load,
        run_load,
    )
    from pipeline.simulator.operations import OPERATIONS
    from pipeline.simulator.options import PLAIN, ScenarioOptions
    from pipeline.simulator.picture import make_picture
    from pipeline.simulator.plan import Oddity, SemanticId, TaskPlan
    from pipeline.simulator.poster import PostingRules
    from pipeline.simulator.provider import SimulatedProvider
    from pipeline.simulator.provider_options import ProviderOptions
    from pipeline.simulator.rates import AskedDetails, RateLimits, Violation
    from pipeline.simulator.scenario import Scenario, plan_scenario
    from pipeline.simulator.subscriber import ReceivedRequest, SimulatedSubscriber

__all__ = [
    "OPERATIONS",
    "PLAIN",
    "AskedDetails",
    "ExpectedFile",
    "LoadOptions",
    "LoadResult",
    "Oddity",
    "Outcome",
    "PostingRules",
    "ProviderOptions",
    "RateLimits",
    "ReceivedRequest",
    "Report",
    "Scenario",
    "ScenarioOptions",
    "SemanticId",
    "SentCallback",
    "SimulatedClock",
    "SimulatedProvider",
    "SimulatedSubscriber",
    "TaskPlan",
    "Violation",
    "audio_format",
    "make_audio",
    "make_picture",
    "plan_load",
    "plan_scenario",
    "run_load",
]

_HOMES: Final = {
    "OPERATIONS": "operations",
    "PLAIN": "options",
    "AskedDetails": "rates",
    "ExpectedFile": "journal",
    "LoadOptions": "load",
    "LoadResult": "load",
    "Oddity": "plan",
    "Outcome": "journal",
    "PostingRules": "poster",
    "ProviderOptions": "provider_options",
    "RateLimits": "rates",
    "ReceivedRequest": "subscriber",
    "Report": "journal",
    "Scenario": "scenario",
    "ScenarioOptions": "options",
    "SemanticId": "plan",
    "SentCallback": "journal",
    "SimulatedClock": "clock",
    "SimulatedProvider": "provider",
    "SimulatedSubscriber": "subscriber",
    "TaskPlan": "plan",
    "Violation": "rates",
    "audio_format": "audio",
    "make_audio": "audio",
    "make_picture": "picture",
    "plan_load": "load",
    "plan_scenario": "scenario",
    "run_load": "load",
}


def __getattr__(name: str) -> object:
    """Import a public name from the module it lives in."""
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
