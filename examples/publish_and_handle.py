"""Write a worker of your own with the library, on the embedded broker.

No server, no settings: a topology with one queue for a worker that measures finished
songs, three events published for it, and a handler that succeeds, asks for a retry
and rejects. In the end the dead letter is looked at and replayed. Run it with

    python examples/publish_and_handle.py
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from pipeline.broker import open_broker
from pipeline.dead_letters import Selection, browse, replay
from pipeline.errors import Reject, Retry
from pipeline.logs import configure_logs
from pipeline.message import Envelope, MessageId, Publication, new_message_id
from pipeline.retry import RetryPolicy
from pipeline.topology import EVENTS, build_topology, dead_letter_queue, notify_queue
from pipeline.worker import Worker, one_by_one

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.broker.port import Broker

#: Our queue: that of a subscription, which our worker serves instead of a webhook.
QUEUE = notify_queue("loudness")
WAIT = timedelta(milliseconds=100)
TOPOLOGY = build_topology(subscriptions={"loudness": ["song.finished"]}, delays=[WAIT])


class Loudness:
    """The handler: gets an envelope, returns what to publish, never sees a broker."""

    def __init__(self) -> None:
        self.is_repaired = False
        self.measured: list[str] = []

    async def handle(self, envelope: Envelope) -> Sequence[Publication]:
        """Measure one song.

        Raises:
            Retry: it may work in a moment.
            Reject: trying again would be useless.
        """
        song = orjson.loads(envelope.body)
        print(f"attempt {envelope.attempt}: {song['title']}")
        if song["title"] == "busy" and envelope.attempt == 1:
            reason = "the disk is busy"
            raise Retry(reason)
        if song["title"] == "broken" and not self.is_repaired:
            reason = "expected audio, got noise"
            raise Reject(reason)
        self.measured.append(song["title"])
        # Stored before the delivery is acknowledged. The id follows from the
        # delivery's, so that being handled twice gives one event twice, not two.
        follow_up = MessageId(f"{envelope.message_id}-measured")
        return [publication("song.measured", song, follow_up)]


def publication(key: str, song: object, message_id: MessageId) -> Publication:
    """Make a message; retries, dead letters and replays of it keep its id."""
    envelope = Envelope(body=orjson.dumps(song), routing_key=key, message_id=message_id)
    return Publication(exchange=EVENTS, envelope=envelope)


async def until(count: int, measured: Sequence[str], broker: Broker, dead: int) -> None:
    """Wait until so many songs are measured and so many lie with the dead letters."""
    async with asyncio.timeout(20):
        while True:
            depth = await broker.depth(dead_letter_queue(QUEUE))
            if len(measured) == count and depth.ready == dead:
                return
            await asyncio.sleep(0.02)


async def play(broker: Broker, loudness: Loudness) -> None:
    """Publish, wait, look at the dead letter, repair, replay."""
    songs = [{"title": title} for title in ("fine", "busy", "broken")]
    await broker.publish(
        *(publication("song.finished", song, new_message_id()) for song in songs)
    )
    await until(2, loudness.measured, broker, dead=1)
    async with aclosing(browse(broker, [QUEUE], Selection())) as letters:
        async for letter in letters:
            failure = letter.envelope.failure
            assert failure is not None  # noqa: S101  our worker always says why
            print(f"dead letter: {failure.error_type}: {failure.error_text}")
    loudness.is_repaired = True
    replayed = await replay(broker, [QUEUE], Selection(error_type="Reject"))
    print(f"replayed: {replayed.matched}")
    await until(3, loudness.measured, broker, dead=0)


async def main() -> None:
    """Run the worker beside what keeps it busy, then stop it in order."""
    configure_logs(level="ERROR")  # by default each delivery is one line
    loudness = Loudness()
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'broker.db'}"
        async with open_broker(url, deadline=timedelta(seconds=5)) as broker:
            await broker.declare(TOPOLOGY)
            worker = Worker(
                broker,
                QUEUE,
                one_by_one(loudness.handle),
                deadline=timedelta(seconds=5),
                policy=RetryPolicy(waits=(WAIT,)),
            )
            stopping = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(worker.run(stopping))
                await play(broker, loudness)
                stopping.set()
    print("measured:", ", ".join(loudness.measured))


if __name__ == "__main__":
    asyncio.run(main())
