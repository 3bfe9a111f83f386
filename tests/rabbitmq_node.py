"""A private RabbitMQ node for one test session, and what tests do to it.

Own random ports on the loopback address, own epmd, own folders, own cookie: other
brokers on the machine neither notice it nor are touched.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final

import aio_pika

from tests.rabbitmq_install import command, find_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pipeline.topology import Topology

START_SECONDS: Final = 180.0
STOP_SECONDS: Final = 30.0

CONFIGURATION: Final = """\
log.console = false
log.file.level = warning
disk_free_limit.absolute = 50MB
"""
#: Of the quorum queues' log, which is written anew when it is full. The server's own
#: 512 MiB for each of a session's nodes would fill a small disk.
SMALL_LOG_BYTES: Final = 32 * 1024 * 1024


class RabbitNode:
    """A node that can be stopped, killed and started again; its data stays.

    Args:
        folder: everything it has; must exist.
        cookie: what nodes know each other by that shall form a cluster.
        log_bytes: of the quorum queues' log; ``None``: as the server has it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        cookie: str | None = None,
        log_bytes: int | None = SMALL_LOG_BYTES,
    ) -> None:
        self.folder = folder
        self.port, self.link_port, self.epmd_port, tool_port = _free_ports(4)
        #: How other nodes call it.
        self.name = f"pipeline-test-{self.port}@localhost"
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        self._server: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        for name in ("data", "log"):
            (folder / name).mkdir()
        cookie_file = folder / ".erlang.cookie"
        cookie_file.write_text(cookie or secrets.token_hex(16))
        cookie_file.chmod(0o400)
        (folder / "rabbitmq.conf").write_text(CONFIGURATION)
        if log_bytes is not None:
            self.configure(f"raft.wal_max_size_bytes = {log_bytes}")
        (folder / "enabled_plugins").write_text("[].\n")
        (folder / "advanced.config").write_text(
            # A node of which nothing is heard is given up after about this.
            "[{kernel, [{inet_dist_use_interface, {127,0,0,1}}, {net_ticktime, 10}]},"
            # What a delay queue could not hand on is tried again after this.
            " {rabbit, [{dead_letter_worker_publisher_confirm_timeout, 1000}]}].\n"
        )
        self._environment = {
            "PATH": "/usr/lib/rabbitmq/bin:/usr/sbin:/usr/bin:/sbin:/bin:"
            + os.environ.get("PATH", ""),
            "LANG": "C.UTF-8",
            "HOME": str(folder),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self.epmd_port),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.link_port),
            "RABBITMQ_CTL_DIST_PORT_MIN": str(tool_port),
            "RABBITMQ_CTL_DIST_PORT_MAX": str(tool_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            # Several nodes share few processors: none may spin while it waits.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdio none",
            # The script becomes the server then, so its process id is ours.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def configure(self, *lines: str) -> None:
        """Add lines to the configuration of the next start."""
        with (self.folder / "rabbitmq.conf").open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

    def start_epmd(self) -> None:
        """Start what tells nodes each other's ports. Idempotent."""
        if self._epmd is None:
            # Started by us and not by the node, so that we can end it by its id.
            self._epmd = self._spawn("epmd")
            _wait_until(lambda: _listens(self.epmd_port), "epmd")

    def start(self) -> None:
        """Start the node and wait until it takes connections.

        Raises:
            RuntimeError: it ended, or was not ready in time.
        """
        self.start_epmd()
        self._server = self._spawn(str(find_server("rabbitmq-server")))
        _wait_until(self._is_ready, f"the node in {self.folder}")

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return self._server is not None and self._server.poll() is None

    def takes_connections(self) -> bool:
        """Tell whether the broker answers; it listens a little before it does."""
        with suppress(OSError), _connect(self.port) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
        return False

    def stop(self) -> None:
        """Shut the node down in order. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            _end(server)

    def kill(self) -> None:
        """End the node as a power cut would."""
        if self._server is not None:
            self._server.kill()
            self._server.wait(STOP_SECONDS)
            self._server = None

    def restart(self) -> None:
        """Shut the node down and start it again."""
        self.stop()
        self.start()

    def stop_app(self) -> None:
        """Stop the broker; its process lives on, connections are refused."""
        self.control("stop_app")

    def start_app(self) -> None:
        """Start the broker again after ``stop_app``."""
        self.control("start_app")

    def raise_memory_alarm(self) -> None:
        """Let the broker find that it has too little memory: it stops reading."""
        self.control("set_vm_memory_high_watermark", "0.00000001")

    def clear_memory_alarm(self) -> None:
        """Let the broker take messages again."""
        self.control("set_vm_memory_high_watermark", "0.4")

    def raise_disk_alarm(self) -> None:
        """Let the broker find that its disk is nearly full: it stops reading."""
        self.control("set_disk_free_limit", str(10**15))

    def clear_disk_alarm(self) -> None:
        """Let the broker take messages again."""
        self.control("set_disk_free_limit", "50MB")

    def tell_queue(self, name: str, word: str) -> None:
        """``suspend`` or ``resume`` the process of a classic queue."""
        self.control(
            "eval",
            f'Name = rabbit_misc:r(<<"/">>, queue, <<"{name}">>),'
            " {ok, Queue} = rabbit_amqqueue:lookup(Name),"
            f" sys:{word}(amqqueue:get_pid(Queue)).",
        )

    def control(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` on the node and give what it prints.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        done = subprocess.run(
            command(find_server("rabbitmqctl"), self.folder, "--quiet", *arguments),
            env=self._environment,
            timeout=START_SECONDS,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout

    def close(self) -> None:
        """End the node and its epmd."""
        self.stop()
        epmd, self._epmd = self._epmd, None
        if epmd is not None:
            _end(epmd)

    def _spawn(self, program: str) -> subprocess.Popen[bytes]:
        with (self.folder / "output").open("ab") as output:
            return subprocess.Popen(
                command(program, self.folder),
                cwd=self.folder,  # where it leaves its dumps
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _is_ready(self) -> bool:
        if self._server is not None and self._server.poll() is not None:
            output = (self.folder / "output").read_text(errors="replace")
            message = (
                f"the node in {self.folder} ended while starting: {output[-2000:]}"
            )
            raise RuntimeError(message)
        return self.takes_connections()


@contextmanager
def started_node(
    folder: Path, *, log_bytes: int | None = SMALL_LOG_BYTES
) -> Iterator[RabbitNode]:
    """Start a node in ``folder`` and end it afterwards, whatever happens."""
    with ExitStack() as stack:
        node = RabbitNode(folder, log_bytes=log_bytes)
        stack.callback(node.close)
        node.start()
        yield node


async def delete_topology(url: str, topology: Topology) -> None:
    """Delete every queue and exchange of ``topology``, and what is in them."""
    async with await aio_pika.connect(url) as connection:
        channel = await (await connection.channel()).get_underlay_channel()
        for queue in topology.queues:
            # With any condition, a quorum queue would close the connection.
            await channel.queue_delete(topology.queue_name(queue.name))
        for exchange in topology.exchanges:
            await channel.exchange_delete(
                exchange=topology.exchange_name(exchange.name)
            )


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        ports = []
        for _ in range(count):
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            ports.append(int(listener.getsockname()[1]))
        return ports


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=2)
    connection.settimeout(2)
    return connection


def _listens(port: int) -> bool:
    with suppress(OSError), _connect(port):
        return True
    return False


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    ends_at = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > ends_at:
            message = f"{what} was not ready within {START_SECONDS:g} s"
            raise RuntimeError(message)
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_SECONDS)
