"""Everything that can be wrong with a submission, found before it costs anything."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from pipeline.errors import (
    AssetError,
    AssetRefused,
    ConfigurationError,
    SubmissionInvalid,
)
from pipeline.provider.rules import (
    CALLBACK_FIELD,
    Mistake,
    length_mistakes,
    link_fields,
    read_request,
    spelled,
)
from pipeline.submission.source import check_link, refuse_internal
from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from typing import TypeAlias

    from pipeline.provider.door import Door
    from pipeline.provider.requests import Request
    from pipeline.submission.source import SourceCheck

    #: Gives the callback address of an operation.
    CallbackAddress: TypeAlias = Callable[[str], str]
    #: A link, and the file that is decoded in its place.
    Source: TypeAlias = tuple[str, Path | None]

#: The longest to wait for the name service.
LOOK_UP: Final = timedelta(seconds=10)


@value
class Checked:
    """What was found out about a submission."""

    operation: str
    #: Where the provider will post to; empty: there is no such address.
    callback_url: str
    #: Everything that is wrong with it.
    mistakes: tuple[Mistake, ...]
    #: The request; ``None``: it has mistakes.
    request: Request | None
    #: Seconds that each source plays, by its link.
    lengths: Mapping[str, float]

    def good(self) -> Request:
        """Give the request.

        Raises:
            SubmissionInvalid: it has mistakes; all are named.
        """
        if self.request is None or self.mistakes:
            raise SubmissionInvalid([str(mistake) for mistake in self.mistakes])
        return self.request


class Checker:
    """Checks submissions; nothing in here speaks to the provider.

    Args:
        door: knows what it takes.
        callback_address: gives the address for an operation, or raises
            ``ConfigurationError``.
        sources: fetches and decodes the source audio; ``None``: it is not looked at.
        private: whether private addresses are taken.
        once: look at each source once, for all submissions of one batch: what is
            behind a link may be another thing later.
    """

    def __init__(
        self,
        door: Door,
        callback_address: CallbackAddress,
        *,
        sources: SourceCheck | None,
        private: bool = False,
        once: bool = False,
    ) -> None:
        self._door = door
        self._callback_address = callback_address
        self._sources = sources
        self._private = private
        self._once = once
        self._looks: dict[Source, asyncio.Lock] = {}
        self._seen: dict[Source, float | AssetError | None] = {}

    def check_fields(self, operation: str, given: Mapping[str, Any]) -> Checked:
        """Check what can be checked at once, without the network."""
        request, mistakes = read_request(operation, given, self._door)
        callback_url = ""
        try:
            callback_url = self._callback_address(operation)
            if not self._private:
                refuse_internal(callback_url)
        except (ConfigurationError, AssetRefused) as error:
            mistakes.append(Mistake(field=CALLBACK_FIELD, text=str(error)))
        return Checked(
            operation=operation,
            callback_url=callback_url,
            mistakes=tuple(mistakes),
            request=request,
            lengths={},
        )

    async def check(
        self, operation: str, given: Mapping[str, Any], source_file: Path | None = None
    ) -> Checked:
        """Check everything, the source audio included.

        Args:
            operation: its name.
            given: fields in the provider's spelling or ours.
            source_file: a file of this machine that the link leads to: it is decoded
                instead of being fetched.
        """
        found = self.check_fields(operation, given)
        mistakes, lengths = [*found.mistakes], {}
        known = {mistake.field for mistake in mistakes}
        links = [one for one in _links(operation, given) if one[0] not in known]
        async with asyncio.TaskGroup() as group:
            looks = [
                (field, link, group.create_task(self._look(link, source_file)))
                for field, link in links
            ]
        for field, link, look in looks:
            result = look.result()
            if isinstance(result, AssetError):
                mistakes.append(Mistake(field=field, text=str(result)))
            elif result is not None:
                lengths[link] = result
                mistakes += length_mistakes(
                    operation, given, field=field, seconds=result, door=self._door
                )
        return Checked(
            operation=operation,
            callback_url=found.callback_url,
            mistakes=tuple(mistakes),
            request=found.request,
            lengths=lengths,
        )

    async def _look(
        self, link: str, source_file: Path | None
    ) -> float | AssetError | None:
        """Give the length of the source, what is wrong with it, or nothing."""
        if not self._once:
            return await self._look_now(link, source_file)
        source = (link, source_file)
        async with self._looks.setdefault(source, asyncio.Lock()):
            if source not in self._seen:
                self._seen[source] = await self._look_now(link, source_file)
            return self._seen[source]

    async def _look_now(
        self, link: str, source_file: Path | None
    ) -> float | AssetError | None:
        try:
            if self._sources is not None and source_file is None:
                return await self._sources.length_of(link)
            await check_link(link, private=self._private, within=LOOK_UP)
            if self._sources is not None and source_file is not None:
                return await self._sources.length_of_file(source_file)
        except AssetError as error:
            return error
        return None


def _links(operation: str, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Give the fields and links of source audio, as far as they are any."""
    fields = spelled(given)
    for field in link_fields(operation):
        found = fields.get(field)
        for link in found if isinstance(found, list | tuple) else [found]:
            if isinstance(link, str):
                yield field, link
