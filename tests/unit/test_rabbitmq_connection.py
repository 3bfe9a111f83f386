"""Deadlines and foreign errors at the edge of the RabbitMQ adapter."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct

import aiormq
import pytest

from pipeline.broker.rabbitmq_connection import bounded
from pipeline.errors import BrokerUnavailable, TopologyMismatch


@pytest.mark.parametrize(
    "error",
    [
        aiormq.exceptions.AMQPConnectionError("lost"),
        aiormq.exceptions.ChannelInvalidStateError("closed"),
        aiormq.exceptions.ChannelNotFoundEntity("no such queue"),
        ConnectionResetError(104, "reset"),
        asyncio.IncompleteReadError(b"", 7),
        RuntimeError("closed"),
        # What aiormq raises for whoever waits when a connection ends without a reason.
        Exception(),
        # The same, where it ends before the broker has said a word.
        StopAsyncIteration(),
        ValueError("the server has no confirms"),
        KeyError("capabilities"),
        struct.error("no frame"),
    ],
    ids=repr,
)
async def test_foreign_errors_become_ours(error: Exception) -> None:
    """Whatever breaks, the cause is kept and what was tried is said."""
    with pytest.raises(BrokerUnavailable, match="opening") as raised:
        async with bounded(5, "opening"):
            raise error

    assert error is raised.value.__cause__


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            aiormq.exceptions.AMQPConnectionError(errno.ECONNREFUSED, "failed"),
            "nothing listens there: start the broker",
        ),
        (
            aiormq.exceptions.AMQPConnectionError(socket.EAI_NONAME, "not known"),
            "host's name was not found (not known): correct broker_url",
        ),
        (
            aiormq.exceptions.AMQPConnectionError(1, "[SSL: WRONG_VERSION_NUMBER]"),
            "expected a port that speaks TLS",
        ),
        (
            aiormq.exceptions.ProbableAuthenticationError("ACCESS_REFUSED - Login"),
            "was refused (ACCESS_REFUSED - Login): correct broker_url",
        ),
        (
            aiormq.exceptions.ChannelPreconditionFailed("PRECONDITION_FAILED - arg"),
            "PRECONDITION_FAILED - arg",
        ),
        (RuntimeError(), "RuntimeError()"),
    ],
    ids=repr,
)
async def test_what_is_wrong_is_said_in_words(error: Exception, words: str) -> None:
    """With what to do, where that can be told; a name of a class helps nobody."""
    with pytest.raises(BrokerUnavailable) as raised:
        async with bounded(5, "connecting"):
            raise error

    text = str(raised.value)
    assert words in text
    assert not text.startswith("connecting: <")


@pytest.mark.parametrize("error", [TopologyMismatch("other"), BrokerUnavailable("x")])
async def test_our_own_errors_pass(error: Exception) -> None:
    """They say already what is wrong."""
    with pytest.raises(type(error)) as raised:
        async with bounded(5, "declaring"):
            raise error

    assert error is raised.value


@pytest.mark.parametrize("error", [TypeError("bug"), AssertionError("bug")])
async def test_mistakes_in_this_program_pass(error: Exception) -> None:
    """They must not look like an outage."""
    with pytest.raises(type(error)):
        async with bounded(5, "declaring"):
            raise error


async def test_time_runs_out() -> None:
    """The message says what was expected, and within which time."""
    with pytest.raises(BrokerUnavailable, match=r"counting.*0\.01 s"):
        async with bounded(0.01, "counting"):
            await asyncio.Event().wait()


async def test_foreign_cancellation_is_an_error() -> None:
    """aiormq throws it into whoever waits for a connection that got stuck."""

    async def work() -> None:
        async with bounded(5, "publishing"):
            raise asyncio.CancelledError

    with pytest.raises(BrokerUnavailable, match="publishing"):
        await asyncio.create_task(work())


async def test_own_cancellation_stays_one() -> None:
    """Whoever cancels a task has to see that it was cancelled."""
    began = asyncio.Event()

    async def work() -> None:
        async with bounded(5, "publishing"):
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await began.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_outer_deadline_is_not_mistaken_for_the_inner_one() -> None:
    """A timeout around it ends as that timeout."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), bounded(5, "publishing"):
            await asyncio.Event().wait()


@pytest.mark.parametrize(
    "error", [None, aiormq.exceptions.ChannelClosed(), Exception()], ids=repr
)
async def test_cancellation_that_the_library_swallows_is_not_lost(
    error: Exception | None,
) -> None:
    """aiormq does, while it closes a channel: a loop around it would never end."""
    began = asyncio.Event()

    async def work() -> None:
        async with bounded(5, "counting"):
            try:
                began.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if error is not None:
                    raise error from None

    task = asyncio.create_task(work())
    await began.wait()
    task.cancel()

    await asyncio.wait((task,))
    assert task.cancelled()
