"""A private RabbitMQ for benchmarks: that of the tests, its log as large as usual."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.rabbitmq_install import find_server
from tests.rabbitmq_node import started_node

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def broker_for_benchmarks() -> Iterator[str]:
    """Give the URL of a RabbitMQ: that of the environment, else a private node."""
    if url := os.environ.get("PIPELINE_TEST_AMQP_URL"):
        yield url
        return
    find_server("rabbitmq-server")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        print("starting a private RabbitMQ …", file=sys.stderr)
        # At the rates of benchmarks the small log of tests would be written anew
        # every second, which no server of a user's does.
        with started_node(Path(folder), log_bytes=None) as node:
            yield node.url
