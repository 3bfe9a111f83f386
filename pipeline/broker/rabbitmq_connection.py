"""One connection to RabbitMQ that comes back by itself.

aio-pika's robust connection hides what we have to know (is it there, and how long
do I wait), so this is the plain one in a loop. Everything foreign that can go
wrong is translated here.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import random
import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import aio_pika
import aiormq
from yarl import URL

from pipeline.addresses import split_hosts
from pipeline.broker.rabbitmq_stream import TappedConnection, stream_of
from pipeline.errors import BrokerUnavailable
from pipeline.logs import get_logger, report_death
from pipeline.metrics import BROKER_RECONNECTS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aio_pika.abc import AbstractConnection

    from pipeline.broker.rabbitmq_stream import FrameStream

log = get_logger("broker")

FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 10.0
CONNECT_TIMEOUT_SECONDS: Final = 10.0
CLOSE_TIMEOUT_SECONDS: Final = 2.0

_NAME_UNKNOWN: Final = (socket.EAI_NONAME, socket.EAI_AGAIN, socket.EAI_NODATA)

#: All that aio-pika and aiormq raise for a broker that is not there or not well, or
#: that sends what they cannot read.
FOREIGN_ERRORS: Final = (
    aiormq.exceptions.AMQPError,
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    struct.error,
)


def reason_of(error: BaseException | None) -> str:
    """Say in words what the library or the broker said, and what to do about it."""
    if error is None:
        return "no reason was given"
    number, text = _number_and_text(error)
    if isinstance(error, aiormq.exceptions.ProbableAuthenticationError):
        return f"expected to be let in, was refused ({text}): correct broker_url"
    if number == errno.ECONNREFUSED:
        return "nothing listens there: start the broker, or correct broker_url"
    if number in _NAME_UNKNOWN:
        return f"the host's name was not found ({text}): correct broker_url"
    if "SSL" in text:
        return (
            f"TLS failed ({text}): expected a port that speaks TLS and a certificate"
            " that this machine trusts; amqp:// is without TLS"
        )
    return text


def _number_and_text(error: BaseException) -> tuple[object, str]:
    """Take apart what aiormq makes of an ``OSError`` or of a reply of the broker."""
    match error.args:
        case (int() as number, str() as text):
            return number, text
        case (str() as text,) if text:
            return None, text
        case _:
            return None, repr(error)


@asynccontextmanager
async def bounded(seconds: float, what: str) -> AsyncIterator[None]:
    """Give a block a deadline, and our errors instead of foreign ones.

    Raises:
        BrokerUnavailable: time ran out or the connection broke. Also where aiormq
            throws ``CancelledError`` into a task that nobody has cancelled, as it
            does when it finds its connection stuck.
    """
    task = asyncio.current_task()
    cancellations = task.cancelling() if task else 0
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        message = f"{what}: expected an answer within {seconds:g} s, got none"
        raise BrokerUnavailable(message) from error
    except FOREIGN_ERRORS as error:
        raise BrokerUnavailable(f"{what}: {reason_of(error)}") from error
    except Exception as error:
        # What aiormq raises where a connection ends without a reason, and where it
        # ends before the broker has said a word.
        if type(error) is Exception or isinstance(error, StopAsyncIteration):
            message = f"{what}: the connection was closed"
            raise BrokerUnavailable(message) from error
        raise
    except asyncio.CancelledError as error:
        raise BrokerUnavailable(f"{what}: the connection broke") from error
    finally:
        # aiormq swallows a cancellation that comes while it closes a channel, or
        # raises an error of its own instead: whoever cancelled us would wait for ever.
        if task is not None and task.cancelling() > cancellations:
            raise asyncio.CancelledError


async def _nothing_to_do(*_: AbstractConnection) -> None:
    """Leave it to whoever uses the connection, and notices that it was lost."""


class Link:
    """Keeps one connection open until it is closed.

    With several hosts, any of which will do, it begins at one by chance, so that
    many processes spread, and turns to the next whenever one is lost or not there.

    Args:
        url: ``amqp://`` or ``amqps://``, with one host or several separated by
            commas; a heartbeat in its query wins.
        name: shown in the management console of the broker.
        fast: put a ``FrameStream`` under the connection.
        on_up: awaited with each fresh connection before anybody gets it. If it
            raises, the connection is given up and tried again.
        on_down: called when the connection is lost or given up.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        heartbeat_seconds: int = 15,
        fast: bool = True,
        on_up: Callable[[AbstractConnection], Awaitable[None]] = _nothing_to_do,
        on_down: Callable[[], Awaitable[None]] = _nothing_to_do,
    ) -> None:
        nodes = [
            _with_options(node, name, heartbeat_seconds) for node in split_hosts(url)
        ]
        self._nodes = random.sample(nodes, len(nodes))
        #: The one that is connected or tried now.
        self._url = self._nodes[0]
        self._make = TappedConnection if fast else aio_pika.Connection
        self._on_up = on_up
        self._on_down = on_down
        self._connection: AbstractConnection | None = None
        self._up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._problem: str | None = f"not connected to {self.address} yet"

    @property
    def address(self) -> str:
        """Host and port that are connected or tried now, without the password."""
        port = self._url.port or (5671 if self._url.scheme == "amqps" else 5672)
        return f"{self._url.host}:{port}"

    @property
    def problem(self) -> str | None:
        """Why there is no connection; ``None``: there is one."""
        stream = self._stream
        if self._problem is None and stream is not None and stream.has_ended:
            return f"connection to {self.address} lost"
        return self._problem

    @property
    def blocked(self) -> str | None:
        """Why the broker does not read from us; ``None``: it does."""
        return None if self._stream is None else self._stream.blocked

    @property
    def _stream(self) -> FrameStream | None:
        return None if self._connection is None else stream_of(self._connection)

    def open(self) -> None:
        """Start connecting. Idempotent."""
        if self._task is None:
            self._task = report_death(
                asyncio.create_task(self._run(), name=f"link {self.address}")
            )

    async def close(self) -> None:
        """Stop connecting and close what is open."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def connection(self, deadline_seconds: float) -> AbstractConnection:
        """Wait for the connection.

        Raises:
            BrokerUnavailable: there is none within ``deadline_seconds``.
        """
        self.open()
        if self._connection is None:
            try:
                async with asyncio.timeout(deadline_seconds):
                    await self._up.wait()
            except TimeoutError as error:
                raise BrokerUnavailable(self._problem or "not connected") from error
        if self._connection is None:
            raise BrokerUnavailable(self._problem or "not connected")
        return self._connection

    async def _run(self) -> None:
        count = len(self._nodes)
        pause = FIRST_PAUSE_SECONDS
        for node in itertools.cycle(self._nodes):
            self._url = node
            if await self._stay_connected():
                pause = FIRST_PAUSE_SECONDS
            log.warning("broker_connection_lost", problem=self._problem)
            # A round of several nodes takes no longer than the wait for a single one.
            # Not security: jitter keeps many workers from coming back at once.
            await asyncio.sleep(pause / count * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(pause * 2 ** (1 / count), LONGEST_PAUSE_SECONDS)

    async def _stay_connected(self) -> bool:
        """Connect and stay so; returns after a loss, and tells whether it was one.

        If not, there was no connection in the first place.
        """
        is_connected = False
        try:
            connection = await self._connect()
            is_connected = True
            try:
                reason = await self._until_closed(connection)
                self._problem = (
                    f"connection to {self.address} lost: {reason_of(reason)}"
                )
            finally:
                await self._lower(connection)
            BROKER_RECONNECTS.inc()
        except BrokerUnavailable as error:
            self._problem = str(error)
        except Exception as error:
            # Whatever the mistake is, nobody would connect again after us.
            self._problem = f"connecting to {self.address}: {type(error).__name__}"
            log.exception("background_step_failed", task=f"link {self.address}")
        return is_connected

    async def _connect(self) -> AbstractConnection:
        connection, what = self._make(self._url), f"connecting to {self.address}"
        try:
            async with bounded(CONNECT_TIMEOUT_SECONDS, what):
                # No timeout of its own: that would lose an error when we are cancelled.
                try:
                    await connection.connect()
                except aiormq.exceptions.InvalidFrameError as error:
                    raise BrokerUnavailable(self._refusal(error)) from error
            await self._on_up(connection)
        except BaseException:
            # Also if there never was one: it closes itself when it is collected, which
            # may happen in a thread that has no event loop.
            await _close_quietly(connection)
            raise
        return connection

    def _refusal(self, error: aiormq.exceptions.InvalidFrameError) -> str:
        """Say what the broker refused: aiormq keeps the step, but not the reason."""
        if "Connection.OpenOk" not in str(error):
            return f"connecting to {self.address}: {reason_of(error)}"
        host = self._url.path.removeprefix("/") or "/"
        return (
            f"connecting to {self.address}: expected to open the virtual host {host!r},"
            " was refused: correct the end of broker_url, or add that host and this"
            " user's permissions to it on the broker; its log has the reason"
        )

    async def _until_closed(
        self, connection: AbstractConnection
    ) -> BaseException | None:
        """Offer the connection until it closes; return why it did."""
        closed: asyncio.Future[BaseException | None] = (
            asyncio.get_running_loop().create_future()
        )

        def note(_: object, reason: BaseException | None) -> None:
            if not closed.done():
                closed.set_result(reason)

        connection.close_callbacks.add(note)
        if connection.is_closed:
            return None
        self._connection = connection
        self._problem = None
        self._up.set()
        log.info("broker_connected", address=self.address)
        return await closed

    async def _lower(self, connection: AbstractConnection) -> None:
        self._up.clear()
        self._connection = None
        try:
            await self._on_down()
        finally:
            await _close_quietly(connection)


def left_until(due_at: float) -> float:
    """Give the seconds that are left; none if it is past."""
    return max(0.0, due_at - asyncio.get_running_loop().time())


def _with_options(url: str, name: str, heartbeat_seconds: int) -> URL:
    parsed = URL(url)
    if "heartbeat" not in parsed.query:
        parsed = parsed.update_query(heartbeat=heartbeat_seconds)
    return parsed.update_query(name=name)


async def _close_quietly(connection: AbstractConnection) -> None:
    """Close in bounded time; a connection that cannot be closed is dropped.

    aiormq cannot be cancelled while it waits for its last bytes to be sent, which
    a broker that has stopped reading never lets happen.
    """
    closing = asyncio.ensure_future(connection.close())
    try:
        await asyncio.wait((closing,), timeout=CLOSE_TIMEOUT_SECONDS)
    finally:
        if not closing.done() and (stream := stream_of(connection)) is not None:
            stream.abort()
    await asyncio.wait((closing,), timeout=CLOSE_TIMEOUT_SECONDS)
    if not closing.done():
        closing.cancel()
    elif not closing.cancelled() and (error := closing.exception()) is not None:
        log.debug("broker_close_failed", error=repr(error))
