"""The users of ``configs/rabbitmq/definitions.sh`` on a private node."""

from __future__ import annotations

import subprocess
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aio_pika
from yarl import URL

from pipeline.broker import open_broker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import aiormq

    from pipeline.broker.port import Broker
    from tests.rabbitmq_node import RabbitNode

#: More than on a machine with nothing else to do.
DEADLINE: Final = timedelta(seconds=30)
SCRIPT: Final = Path(__file__).parents[1] / "configs" / "rabbitmq" / "definitions.sh"

#: The one who may declare.
OWNER: Final = "pipeline"
#: Each with the variable that holds its password.
USERS: Final = {
    OWNER: "RABBITMQ_PASSWORD",
    "ingress": "INGRESS_PASSWORD",
    "dedupe": "DEDUPE_PASSWORD",
    "download": "DOWNLOAD_PASSWORD",
    "notify": "NOTIFY_PASSWORD",
    "poller": "POLLER_PASSWORD",
    "subscriber": "SUBSCRIBER_PASSWORD",
}


def write_definitions(environment: Mapping[str, str]) -> str:
    """Run the script.

    Raises:
        subprocess.CalledProcessError: it refuses what it was given.
    """
    done = subprocess.run(
        ["sh", SCRIPT],
        env={"PATH": "/usr/bin:/bin", **environment},
        check=True,
        capture_output=True,
        text=True,
        timeout=10,
    )
    return done.stdout


def make_users(node: RabbitNode, *, prefix: str) -> None:
    """Give the node every user, with rights to what is under ``prefix``."""
    passwords = {variable: f"of-{user}" for user, variable in USERS.items()}
    definitions = node.folder / "definitions.json"
    definitions.write_text(write_definitions({"PREFIX": prefix, **passwords}))
    node.control("import_definitions", str(definitions))


def url_of(node: RabbitNode, user: str) -> str:
    """Give the node's address for that user."""
    return str(URL(node.url).with_user(user).with_password(f"of-{user}"))


def broker_of(node: RabbitNode, user: str) -> Broker:
    """Make a handle on the node for that user."""
    return open_broker(url_of(node, user), deadline=DEADLINE)


@asynccontextmanager
async def raw_channel(
    node: RabbitNode, user: str
) -> AsyncIterator[aiormq.abc.AbstractChannel]:
    """Give a channel with confirms: what anybody with that password can do."""
    async with await aio_pika.connect(url_of(node, user)) as connection:
        channel = await connection.channel(on_return_raises=True)
        yield await channel.get_underlay_channel()
