"""Deadlines of a RabbitMQ handle that change while it is open.

What has to work gets one that a busy machine can keep. What is meant to run out of
time gets a short one, for nobody likes to wait for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.broker.rabbitmq import RabbitBroker
from pipeline.broker.rabbitmq_consumer import RabbitConsumer

if TYPE_CHECKING:
    from datetime import timedelta

    from pipeline.broker.port import Broker, Consumer


def set_deadline(handle: Broker | Consumer, deadline: timedelta) -> None:
    """Give all calls that begin from now on another deadline.

    Consumers have one of their own: that of their handle when they were made.
    """
    assert isinstance(handle, RabbitBroker | RabbitConsumer)
    handle._deadline_seconds = deadline.total_seconds()
    if isinstance(handle, RabbitConsumer):
        handle._goodbye_seconds = deadline.total_seconds()
