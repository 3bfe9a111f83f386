"""Files whose requests are dead letters: nobody fetches them until a replay."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from pipeline.dead_letters.giving_up import requested_files
from pipeline.dead_letters.letter import Selection
from pipeline.dead_letters.operations import browse
from pipeline.topology import DOWNLOAD

if TYPE_CHECKING:
    from pipeline.broker.port import Broker
    from pipeline.task import AssetKey, TaskId


async def find_dead_files(broker: Broker, task_id: TaskId) -> frozenset[AssetKey]:
    """Give the files of a task whose downloads are dead letters.

    Raises:
        BrokerUnavailable: the broker does not answer.
    """
    found = browse(broker, [DOWNLOAD], Selection(task_id=task_id))
    async with aclosing(found) as letters:
        envelopes = [letter.envelope async for letter in letters]
    return frozenset(requested_files(DOWNLOAD, envelopes))
