"""Fetches one file in a process of its own, which tests may limit or kill.

    python fetch_process.py URL STORE [LARGEST_FILE_BYTES] [LOOP]

Prints what was stored, or the class of the error and its text, in one line.
"""

from __future__ import annotations

import asyncio
import resource
import sys

from pipeline.assets.fetch import Fetcher, FetchRules
from pipeline.assets.store import open_store
from pipeline.errors import AssetError


async def fetch(url: str, store_url: str) -> str:
    """Fetch, and say what came of it."""
    rules = FetchRules(allow_private_addresses=True)
    async with open_store(store_url) as store, Fetcher(rules) as fetcher:
        try:
            return (await fetcher.fetch(url, store)).location
        except AssetError as error:
            return f"{type(error).__name__} {error}"


def main(url: str, store_url: str, limit: str = "0", loop: str = "asyncio") -> None:
    """Fetch under a limit for the size of files, on the loop that is asked for."""
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    if int(limit):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), unlimited[1]))
    factory = None
    if loop == "uvloop":
        import uvloop  # noqa: PLC0415  an extra

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        print(runner.run(fetch(url, store_url)))  # noqa: T201  the answer
    # Whoever measures coverage writes a file at the end.
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)


if __name__ == "__main__":
    main(*sys.argv[1:])
