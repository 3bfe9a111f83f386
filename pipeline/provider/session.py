"""One question to the provider's API, and its answer, whatever that says.

What comes back is distrusted like everything from outside: it has a deadline and a
size, and redirects are not followed. What a code means is not known here. Errors of
aiohttp stop here; of each it is known whether the request had left by then.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Self

import aiohttp
import orjson
from yarl import URL

from pipeline.errors import OutcomeUnknown, ProviderUnavailable
from pipeline.provider.fields import read_code, read_text
from pipeline.retry import read_retry_after
from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from types import SimpleNamespace, TracebackType

    from pydantic import SecretStr

    from pipeline.message import JSONValue

#: Larger answers are not read: MIDI has its notes in them.
ANSWER_BYTES: Final = 8 * 1024 * 1024
#: A provider that asks for more patience than this does not get it.
LONGEST_AFTER: Final = timedelta(hours=1)
USER_AGENT: Final = "callback-pipeline (API)"

_OK: Final = 200
_SHOWN_CHARACTERS: Final = 200


@value
class Answer:
    """What was answered, as far as it can be read."""

    #: Of HTTP.
    status: int
    body: bytes
    #: The JSON object; ``None``: it is none.
    content: dict[str, JSONValue] | None
    #: ``code`` in it.
    code: int | None
    #: ``msg`` in it; free text, to be shown.
    message: str
    #: How long we shall leave the provider alone.
    after: timedelta | None

    @property
    def is_good(self) -> bool:
        """Whether HTTP has nothing to complain of; ``code`` may have."""
        return self.status == _OK

    def __str__(self) -> str:
        """Say what came, for the end of a message."""
        if self.code is None:
            what = f"HTTP status {self.status}"
            return what if self.content is not None else f"{what} without a JSON object"
        what = f"code {self.code}"
        if not self.is_good:
            what += f" with HTTP status {self.status}"
        return what + (f" ({self.message[:_SHOWN_CHARACTERS]})" if self.message else "")


@dataclass(slots=True)
class _Trace:
    """Whether a request had left when something went wrong."""

    has_left: bool = False


class ApiSession:
    """The connections to one base address; an async context manager.

    Args:
        base_url: where the API is, without the path of a call.
        api_key: the key of our account.
    """

    def __init__(self, base_url: str, api_key: SecretStr) -> None:
        self._base = URL(base_url)
        self._key = api_key
        self._session: aiohttp.ClientSession
        #: For what is asked once only: a connection that was kept alive may be
        #: closed by the other side just when the request leaves.
        self._once: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        """Open; nobody is asked yet."""
        self._session = self._open(aiohttp.TCPConnector(limit=0))
        self._once = self._open(aiohttp.TCPConnector(limit=0, force_close=True))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection."""
        await self._session.close()
        await self._once.close()

    async def get(
        self, path: str, query: Mapping[str, str], *, seconds: float
    ) -> Answer:
        """Ask, and give the answer, good or bad.

        Raises:
            ProviderUnavailable: there is none in time, or none that can be read.
        """
        url = self._url(path).with_query(query)
        trace = _Trace()
        async with (
            _translated(seconds, trace, once=False),
            self._session.get(
                url, allow_redirects=False, trace_request_ctx=trace
            ) as response,
        ):
            return await self._read(response)

    async def post(
        self,
        path: str,
        content: Mapping[str, JSONValue],
        *,
        seconds: float,
        once: bool = False,
        secret: str = "",
    ) -> Answer:
        """Post a JSON object, and give the answer, good or bad.

        Args:
            path: of the call.
            content: what is posted.
            seconds: the longest until the answer is read.
            once: whether the same must not be posted again unasked.
            secret: a part of the content that must not come back in a message.

        Raises:
            ProviderUnavailable: there is no answer that can be read; with ``once``
                nothing had been sent.
            OutcomeUnknown: with ``once``, something had.
        """
        trace = _Trace()
        session = self._once if once else self._session
        async with (
            _translated(seconds, trace, once=once),
            session.post(
                self._url(path),
                data=orjson.dumps(content),
                headers={"Content-Type": "application/json"},
                allow_redirects=False,
                trace_request_ctx=trace,
            ) as response,
        ):
            return await self._read(response, secret)

    async def _read(self, response: aiohttp.ClientResponse, secret: str = "") -> Answer:
        body = await _read_body(response)
        content = _object(body)
        message = "" if content is None else read_text(content.get("msg"))
        # What was sent may be quoted in it, and it goes into logs.
        for hidden in filter(None, (secret, self._key.get_secret_value())):
            message = message.replace(hidden, "***")
        after = read_retry_after(
            response.headers.get("Retry-After"),
            now=datetime.now(UTC),
            longest=LONGEST_AFTER,
        )
        return Answer(
            status=response.status,
            body=body,
            content=content,
            code=None if content is None else read_code(content.get("code")),
            message=message,
            after=after,
        )

    def _url(self, path: str) -> URL:
        return self._base / path.removeprefix("/")

    def _open(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        tracing = aiohttp.TraceConfig()
        tracing.on_request_headers_sent.append(_note_that_it_left)
        return aiohttp.ClientSession(
            connector=connector,
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
            trace_configs=[tracing],
        )


async def _note_that_it_left(
    _: aiohttp.ClientSession,
    context: SimpleNamespace,
    __: aiohttp.TraceRequestHeadersSentParams,
) -> None:
    context.trace_request_ctx.has_left = True


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity":
        message = f"expected a plain answer, got it encoded as {encoding[:20]!a}"
        raise ProviderUnavailable(message)
    body = bytearray()
    while piece := await response.content.readany():
        body += piece
        if len(body) > ANSWER_BYTES:
            message = f"expected an answer of at most {ANSWER_BYTES} bytes, got more"
            raise ProviderUnavailable(message)
    return bytes(body)


def _object(body: bytes) -> dict[str, JSONValue] | None:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return content if type(content) is dict else None


@asynccontextmanager
async def _translated(
    seconds: float, trace: _Trace, *, once: bool
) -> AsyncIterator[None]:
    """Set the deadline, and turn errors of aiohttp into ours."""
    message = ""
    cause: Exception
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        message, cause = f"expected an answer within {seconds:g} s, got none", error
    except (aiohttp.ClientError, OSError) as error:
        # Not its text: it may hold the whole address.
        message, cause = f"expected an answer, got {type(error).__name__}", error
    except ProviderUnavailable as error:
        message, cause = str(error), error
    if not message:
        return
    if once and trace.has_left:
        raise OutcomeUnknown(message) from cause
    raise ProviderUnavailable(message) from cause
