"""The ledgers under contract: every test runs on each, in a database of its own."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Protocol

import pytest

from pipeline.ledger import open_ledger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pipeline.ledger.port import Ledger


class OpenAgain(Protocol):
    """Opens one more handle on the ledger, as another process would."""

    async def __call__(self) -> Ledger:
        """Open a handle and close it after the test."""


@pytest.fixture
def sqlite_ledger_url(tmp_path: Path) -> str:
    """Address of a ledger in a file of its own."""
    return f"sqlite:///{tmp_path}/ledger.db"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def ledger_url(request: pytest.FixtureRequest) -> str:
    """Address of the ledger."""
    url: str = request.getfixturevalue(f"{request.param}_ledger_url")
    return url


@pytest.fixture
async def open_again(ledger_url: str) -> AsyncIterator[OpenAgain]:
    """Opens further handles on the same ledger."""
    async with AsyncExitStack() as stack:

        async def opened() -> Ledger:
            return await stack.enter_async_context(open_ledger(ledger_url))

        yield opened


@pytest.fixture
async def ledger(open_again: OpenAgain) -> Ledger:
    """An open handle."""
    return await open_again()
