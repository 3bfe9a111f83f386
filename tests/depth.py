"""Counts of what waits in a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.waiting import eventually

if TYPE_CHECKING:
    from pipeline.broker.port import Broker

#: Far more than a leader takes to answer that is busy with its disk.
COUNTED_SECONDS: Final = 30.0


async def until_ready(broker: Broker, queue: str, count: int) -> None:
    """Wait until exactly ``count`` messages of a queue are ready.

    RabbitMQ says that there are none where the leader of a quorum queue does not
    answer within 250 ms, so one look proves nothing. Nor does this for a count of 0.

    Raises:
        AssertionError: so many were not counted in time; it has what was.
    """
    counted = -1

    async def are_ready() -> bool:
        nonlocal counted
        counted = (await broker.depth(queue)).ready
        return counted == count

    try:
        await eventually(are_ready, within=COUNTED_SECONDS)
    except TimeoutError:
        assert count == counted, f"ready in {queue}"
        raise
