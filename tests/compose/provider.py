"""Be a provider whose callbacks all get lost, until this is stopped.

Runs inside the image, in the container `poller`: that is its name for those who fetch.
"""

from __future__ import annotations

import asyncio
from typing import Final

from pipeline.simulator import ProviderOptions, SimulatedProvider

PORT: Final = 8300
OPTIONS: Final = ProviderOptions(
    host="0.0.0.0",
    port=PORT,
    public_url=f"http://poller:{PORT}",
    time_scale=100,
)


async def main() -> None:
    """Serve."""
    async with SimulatedProvider(OPTIONS):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
