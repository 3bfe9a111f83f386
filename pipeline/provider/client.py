"""Ask the provider: its API as a client. One call now, the details of a task.

What comes back is distrusted like everything from outside: it has a deadline and a
size, redirects are not followed, and an answer counts only if both the HTTP status
and the ``code`` in its body say so. Errors of aiohttp stop here.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NoReturn, Self

import aiohttp
import orjson
from yarl import URL

from pipeline.errors import ProviderRefused, ProviderUnavailable, TaskNotFound
from pipeline.provider.fields import read_code, read_mapping, read_text
from pipeline.provider.stages import RUNNING, SUCCESS
from pipeline.retry import read_retry_after
from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from types import TracebackType

    from pydantic import SecretStr

    from pipeline.message import JSONValue
    from pipeline.task import TaskId

#: Larger answers are not read: MIDI has its notes in them.
ANSWER_BYTES: Final = 8 * 1024 * 1024
#: A provider that asks for more patience than this does not get it.
LONGEST_AFTER: Final = timedelta(hours=1)
USER_AGENT: Final = "callback-pipeline (details)"

_OK: Final = 200
#: HTTP status and ``code`` alike: the key is wrong, the account at its end.
_REFUSALS: Final = frozenset({401, 402, 403, 433})
#: What the doors say of a task that they do not know, as ``code`` with HTTP 200. With
#: another HTTP status it is the address that is wrong, not the task.
_NO_SUCH_TASK: Final = frozenset({400, 422})
_SHOWN_CHARACTERS: Final = 200

_TRACKS: Final = "/api/v1/generate/record-info"
#: Where the details of each operation's tasks are, from the provider's pages; some
#: name the task otherwise than the rest.
DETAILS: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                "upload-extend",
                "generate",
                "extend",
                "upload-cover",
                "add-instrumental",
                "add-vocals",
                "mashup",
                "sounds",
                "replace-section",
            ),
            _TRACKS,
        ),
        "recovery": "/api/v1/suno/recovery/record-info",
        "lyrics": "/api/v1/lyrics/record-info",
        "wav": "/api/v1/wav/record-info",
        "vocal-removal": "/api/v1/vocal-removal/record-info",
        "music-video": "/api/v1/mp4/record-info",
        "cover-image": "/api/v1/suno/cover/record-info",
        "midi": "/api/v1/midi/record-info",
        "voice": "/api/v1/voice/record-info",
    }
)
_TASK_NAMES: Final = {"recovery": "task_id"}


@value
class Details:
    """An answer of the details endpoint."""

    #: As it came; to be read like a callback.
    body: bytes
    #: The task's operation as the provider has it, in our spelling; empty: not said.
    operation: str = ""


class ProviderClient:
    """The provider's API; an async context manager, for many tasks at once.

    Args:
        base_url: where the API is, without the path of a call.
        api_key: the key of our account.
        timeout: the longest for one question, from its turn to its answer.
        concurrency: the most questions at the same time.
        rate_per_second: the most questions in a second.
    """

    def __init__(
        self,
        base_url: str,
        api_key: SecretStr,
        *,
        timeout: timedelta = timedelta(seconds=10),
        concurrency: int = 8,
        rate_per_second: float = 10,
    ) -> None:
        self._base = URL(base_url)
        self._key = api_key
        self._seconds = timeout.total_seconds()
        self._room = asyncio.Semaphore(concurrency)
        self._pause_seconds = 1 / rate_per_second
        self._queue = asyncio.Lock()
        self._next_turn = 0.0
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        """Open a session; nobody is asked yet."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "Accept": "application/json",
                # What unfolds on the way in has no size before it does.
                "Accept-Encoding": "identity",
                "Authorization": f"Bearer {self._key.get_secret_value()}",
                "User-Agent": USER_AGENT,
            },
            timeout=aiohttp.ClientTimeout(total=None),
            trust_env=False,
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection."""
        await self._session.close()

    async def details(self, task_id: TaskId, operation: str) -> Details:
        """Ask how far a task is and what it has brought.

        Waits for its turn as long as that takes: the caller has a deadline.

        Raises:
            TaskNotFound: the provider has no such task of this operation.
            ProviderRefused: the key is wrong, or the account at its end.
            ProviderUnavailable: there is no answer that can be used, this time.
        """
        path = DETAILS.get(operation)
        if path is None:
            message = f"expected an operation that can be asked for, got {operation!r}"
            raise TaskNotFound(message)
        name = _TASK_NAMES.get(operation, "taskId")
        body = await self._get(path, {name: task_id})
        content = _parsed(body)
        code = read_code(content.get("code"))
        if code not in (SUCCESS, RUNNING):
            _refuse(code, read_text(content.get("msg")))
        kind = read_text(read_mapping(content.get("data")).get("operationType"))
        return Details(body=body, operation=kind.lower().replace("_", "-"))

    async def _get(self, path: str, query: Mapping[str, str]) -> bytes:
        """Ask once, in turn, and give the body of an answer of 200."""
        url = (self._base / path.removeprefix("/")).with_query(query)
        await self._turn()
        async with (
            self._room,
            _translated(self._seconds),
            self._session.get(url, allow_redirects=False) as response,
        ):
            _check_status(response)
            return await _read(response)

    async def _turn(self) -> None:
        """Wait until the next question may be asked.

        Only who is first in the queue has a turn: one that gives up takes none away.
        """
        loop = asyncio.get_running_loop()
        async with self._queue:
            await asyncio.sleep(self._next_turn - loop.time())
            self._next_turn = loop.time() + self._pause_seconds


def _check_status(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status in _REFUSALS:
        message = f"expected our key to be taken, got {status}"
        raise ProviderRefused(message)
    if status != _OK:
        after = read_retry_after(
            response.headers.get("Retry-After"),
            now=datetime.now(UTC),
            longest=LONGEST_AFTER,
        )
        message = f"expected 200 of the provider, got {status}"
        raise ProviderUnavailable(message, after=after)
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity":
        message = f"expected a plain answer, got it encoded as {encoding[:20]}"
        raise ProviderUnavailable(message)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    while piece := await response.content.readany():
        body += piece
        if len(body) > ANSWER_BYTES:
            message = f"expected an answer of at most {ANSWER_BYTES} bytes, got more"
            raise ProviderUnavailable(message)
    return bytes(body)


def _parsed(body: bytes) -> dict[str, JSONValue]:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        message = f"expected JSON of the provider, got {len(body)} bytes of something"
        raise ProviderUnavailable(message) from error
    if type(content) is not dict:
        message = f"expected a JSON object, got a {type(content).__name__}"
        raise ProviderUnavailable(message)
    return content


def _refuse(code: int | None, text: str) -> NoReturn:
    """Say what a ``code`` other than of success means for a question."""
    got = f"code {code}" + (f" ({text[:_SHOWN_CHARACTERS]})" if text else "")
    if code in _NO_SUCH_TASK:
        message = f"expected a task that the provider knows, got {got}"
        raise TaskNotFound(message)
    if code in _REFUSALS:
        message = f"expected our key to be taken, got {got}"
        raise ProviderRefused(message)
    message = f"expected code 200 of the provider, got {got}"
    raise ProviderUnavailable(message)


@asynccontextmanager
async def _translated(seconds: float) -> AsyncIterator[None]:
    """Set the deadline, and turn errors of aiohttp into ours."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        message = f"expected an answer within {seconds:g} s, got none"
        raise ProviderUnavailable(message) from error
    except (aiohttp.ClientError, OSError) as error:
        # Not its text: it may hold the whole address.
        message = f"expected an answer, got {type(error).__name__}"
        raise ProviderUnavailable(message) from error
