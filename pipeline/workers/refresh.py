"""Ask the provider for another link to a file whose link is dead.

Its details first, where links are signed anew; then the door's call that makes links;
then recovery, which has the provider bring back what it has lost. Recovery takes its
time and may cost something, so a task is recovered once, whoever wants a file of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from pipeline.errors import (
    FetchFailed,
    OutcomeUnknown,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
    SubmissionRefused,
    TaskNotFound,
    Unreadable,
)
from pipeline.logs import get_logger
from pipeline.provider.callback import normalise
from pipeline.task import Stage
from pipeline.values import value
from pipeline.workers.shared_details import SharedDetails

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable
    from datetime import datetime

    from pipeline.ledger.port import Ledger
    from pipeline.provider.client import ProviderClient
    from pipeline.task import Asset, TaskId, TaskUpdate

log = get_logger("refresh")

#: The names of the sources of links.
DETAILS: Final = "details"
MINTED: Final = "minted"
RECOVERY: Final = "recovery"
#: The longest for one question, its turn included.
WITHIN: Final = timedelta(seconds=60)
#: How long a recovery is waited for before it is asked for again.
PAUSE: Final = timedelta(seconds=30)
#: A task whose recovery has not helped may be recovered once more after this.
AGAIN_AFTER: Final = timedelta(days=1)
#: Operations whose tracks can be recovered, and what of a track can be.
RECOVERABLE: Final = frozenset(
    {
        "upload-extend",
        "generate",
        "extend",
        "upload-cover",
        "add-instrumental",
        "add-vocals",
        "mashup",
        "sounds",
        "replace-section",
        RECOVERY,
    }
)
_AUDIO: Final = "audio"
#: Of a task that is still being made.
_UNFINISHED: Final = (Stage.TEXT, Stage.FIRST)


@value
class FreshLink:
    """Another link to a file; it may turn out dead as well."""

    url: str
    #: ``details``, ``minted`` or ``recovery``.
    source: str
    #: Until when it works, if that is not as long as others do.
    until: datetime | None = None


@value
class _Said:
    """What a source has said of a file's link."""

    #: Nothing or empty: it has none.
    url: str | None
    #: Whether it was asked by somebody else, a little earlier.
    is_kept: bool = False


class FreshLinks(Protocol):
    """Gives further links to a file, such as ``Refresh.links``."""

    def __call__(
        self, asset: Asset, /, *, is_gone: bool
    ) -> AsyncGenerator[FreshLink, None]:
        """Give one after the other, until there is none any more."""


class Refresh:
    """Gives further links to a file, one after the other.

    Args:
        client: an open client of the provider.
        ledger: an open handle; it knows which tasks are being recovered.
        clock: gives the present time, aware.
        minted_lifetime: how long links work that are made on demand.
        callback_url: where the provider tells of a recovery; ``None``: nothing is
            recovered.
        within: the longest for one question.
        pause: how long a recovery is waited for before it is asked for again.
    """

    def __init__(
        self,
        client: ProviderClient,
        ledger: Ledger,
        *,
        clock: Callable[[], datetime],
        minted_lifetime: timedelta,
        callback_url: str | None = None,
        within: timedelta = WITHIN,
        pause: timedelta = PAUSE,
    ) -> None:
        self._client = client
        self._shared = SharedDetails(client)
        self._ledger = ledger
        self._clock = clock
        self._minted_lifetime = minted_lifetime
        self._callback_url = callback_url
        self._seconds = within.total_seconds()
        self._pause = pause

    async def links(
        self, asset: Asset, *, is_gone: bool
    ) -> AsyncGenerator[FreshLink, None]:
        """Give links to a file until there is none any more.

        Each is asked for only when it is wanted. ``is_gone`` says that the server has
        no such file: only then is it worth a recovery.

        Raises:
            FetchFailed: the provider could not say whether there is another link, or
                is at work on one.
            LedgerUnavailable: as the ledger.
        """
        sources = deque([(DETAILS, self._told), (MINTED, self._minted)])
        if is_gone and self._is_recoverable(asset):
            sources.append((RECOVERY, self._recovered))
        problem: ProviderError | None = None
        while sources:
            source, ask = sources.popleft()
            try:
                said = await ask(asset)
            except TaskNotFound:
                continue
            except ProviderError as error:
                problem = problem or error
                continue
            if said.is_kept:
                # If that does not help, this file has a question of its own.
                sources.appendleft((source, ask))
            if said.url:
                until = None
                if source == MINTED:
                    until = self._clock() + self._minted_lifetime
                yield FreshLink(url=said.url, source=source, until=until)
        if problem is not None:
            message = f"no link of the file works, and a fresh one: {problem}"
            raise FetchFailed(message, after=problem.after) from problem

    def _is_recoverable(self, asset: Asset) -> bool:
        is_audio = asset.key.kind == _AUDIO and asset.operation in RECOVERABLE
        return is_audio and self._callback_url is not None

    async def _told(self, asset: Asset) -> _Said:
        return await self._details(asset, asset.key.task_id, asset.operation)

    async def _minted(self, asset: Asset) -> _Said:
        async with _within(self._seconds):
            return _Said(url=await self._client.fresh_link(asset.url))

    async def _recovered(self, asset: Asset) -> _Said:
        task_id = asset.key.task_id
        # Right away: whether it is ours to ask is one question, and mostly it is not.
        if await self._ledger.claim_recovery(task_id, again_after=AGAIN_AFTER):
            await self._start(task_id)
        known = await self._ledger.find_recovery(task_id)
        name = None if known is None else known.recovery_id
        try:
            return await self._details(asset, name or task_id, RECOVERY)
        except TaskNotFound as error:
            if name is not None:
                return _Said(url=None)
            message = "whether it is being recovered is not known yet"
            raise ProviderUnavailable(message, after=self._pause) from error

    async def _start(self, task_id: TaskId) -> None:
        """Ask for a recovery, with the right to do so.

        Raises:
            ProviderError: it was not taken, or nobody knows.
        """
        assert self._callback_url is not None  # noqa: S101  asked before
        try:
            async with _within(self._seconds, unknown=True):
                name = await self._client.recover(
                    task_id, callback_url=self._callback_url
                )
        except (SubmissionRefused, TaskNotFound) as error:
            log.warning("recovery_refused", task_id=task_id, error=str(error))
            name = task_id  # of which there will be no recovery
        except (ProviderUnavailable, ProviderRefused):
            await self._ledger.drop_recovery(task_id)
            raise
        else:
            log.info("recovery_started", task_id=task_id, recovery_id=name)
        await self._ledger.note_recovery(task_id, name)

    async def _details(self, asset: Asset, task_id: TaskId, operation: str) -> _Said:
        """Give the file's link as the details have it.

        Raises:
            ProviderUnavailable: a recovery is still at work, or there is no answer.
        """
        async with _within(self._seconds):
            told = await self._shared.details(task_id, operation, asset.key)
        update = _read(told.details.body, operation)
        if operation == RECOVERY and (update is None or not update.stage.is_final):
            message = "it is being recovered"
            raise ProviderUnavailable(message, after=self._pause)
        if update is None:
            message = "expected the details of a task, got something else"
            raise ProviderUnavailable(message)
        for track in update.tracks:
            if track.track_id == asset.key.track_id:
                url = track.links.get(asset.key.kind)
                if not url and update.stage in _UNFINISHED:
                    break
                return _Said(url=url, is_kept=told.is_kept)
        if update.stage in _UNFINISHED:
            # A callback may be ahead of them: there is no last word about the file.
            message = f"the details have got no further than {update.stage.value}"
            raise ProviderUnavailable(message)
        return _Said(url=None, is_kept=told.is_kept)


def _read(body: bytes, operation: str) -> TaskUpdate | None:
    try:
        return normalise(body, operation)
    except Unreadable:
        return None


@asynccontextmanager
async def _within(seconds: float, *, unknown: bool = False) -> AsyncIterator[None]:
    """Set a deadline; ``unknown``: something may have come of it all the same.

    Raises:
        ProviderUnavailable, OutcomeUnknown: it has passed.
    """
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        message = f"expected a turn and an answer within {seconds:g} s"
        raise (OutcomeUnknown if unknown else ProviderUnavailable)(message) from error
