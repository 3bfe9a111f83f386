"""A private RabbitMQ node for one test session, and what tests do to it.

Own random ports on the loopback address, own epmd, own folders, own cookie: other
brokers on the machine neither notice it nor are touched.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aio_pika

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.topology import Topology

#: Debian's scripts for everybody; those in ``/usr/sbin`` change the user first.
SCRIPT_FOLDERS: Final = ("/usr/lib/rabbitmq/bin", "/usr/local/sbin", "/usr/local/bin")

START_SECONDS: Final = 180.0
STOP_SECONDS: Final = 30.0
INSTALL_SECONDS: Final = 600.0

CONFIGURATION: Final = """\
log.console = false
log.file.level = warning
disk_free_limit.absolute = 50MB
raft.wal_max_size_bytes = 33554432
"""


class ServerMissing(Exception):
    """There is no RabbitMQ server on this machine."""


def find_server(script: str) -> Path:
    """Give the path of one of RabbitMQ's scripts.

    Raises:
        ServerMissing: RabbitMQ is not installed.
    """
    for folder in SCRIPT_FOLDERS:
        path = Path(folder, script)
        if path.exists():
            return path
    if found := shutil.which(script):
        return Path(found)
    message = (
        f"{script} was not found: install the package rabbitmq-server, or set"
        " PIPELINE_TEST_AMQP_URL=amqp://user:password@host:port/ to use another one"
    )
    raise ServerMissing(message)


def install_server() -> None:
    """Install RabbitMQ from Debian's packages if it is absent and we may."""

    def is_there() -> bool:
        with suppress(ServerMissing):
            find_server("rabbitmq-server")
            return True
        return False

    install_package("rabbitmq-server", is_there)


def install_package(name: str, is_there: Callable[[], bool]) -> None:
    """Install one of Debian's packages if it is absent and we may.

    The service of the package is not started. Where this cannot be done nothing
    happens: the tests say then what is missing.
    """
    apt = shutil.which("apt-get")
    if is_there() or apt is None or os.geteuid() != 0:
        return
    lock = Path(tempfile.gettempdir(), "pipeline-tests-install.lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not is_there():
            with _no_service_starts():
                _install(apt, name)


def _install(apt: str, name: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["install", "-y", "-q", "--no-install-recommends", name]
    for arguments in (["update", "-q"], install):
        done = subprocess.run(
            [apt, *arguments],
            env=environment,
            timeout=INSTALL_SECONDS,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        print(f"{name} could not be installed: {done.stderr[-2000:]}")  # noqa: T201


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Keep Debian's package scripts from starting services."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


class RabbitNode:
    """A node that can be stopped, killed and started again; its data stays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self._link_port, self._epmd_port, tool_port = _free_ports(4)
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        self._server: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        for name in ("data", "log"):
            (folder / name).mkdir()
        cookie = folder / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)
        (folder / "rabbitmq.conf").write_text(CONFIGURATION)
        (folder / "enabled_plugins").write_text("[].\n")
        (folder / "advanced.config").write_text(
            "[{kernel, [{inet_dist_use_interface, {127,0,0,1}}]},"
            # What a delay queue could not hand on is tried again after this.
            " {rabbit, [{dead_letter_worker_publisher_confirm_timeout, 1000}]}].\n"
        )
        self._environment = {
            "PATH": "/usr/lib/rabbitmq/bin:/usr/sbin:/usr/bin:/sbin:/bin:"
            + os.environ.get("PATH", ""),
            "LANG": "C.UTF-8",
            "HOME": str(folder),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_NODENAME": f"pipeline-test-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._link_port),
            "RABBITMQ_CTL_DIST_PORT_MIN": str(tool_port),
            "RABBITMQ_CTL_DIST_PORT_MAX": str(tool_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            # The script becomes the server then, so its process id is ours.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def start(self) -> None:
        """Start the node and wait until it takes connections.

        Raises:
            RuntimeError: it ended, or was not ready in time.
        """
        if self._epmd is None:
            # Started by us and not by the node, so that we can end it by its id.
            self._epmd = self._spawn(shutil.which("epmd") or "epmd")
            _wait_until(lambda: _listens(self._epmd_port), "epmd")
        self._server = self._spawn(str(find_server("rabbitmq-server")))
        _wait_until(self._is_ready, f"the node in {self.folder}")

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
            [find_server("rabbitmqctl"), "--quiet", *arguments],
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
                [program],
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
        with suppress(OSError), _connect(self.port) as connection:
            # It listens a little before it answers.
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
        return False


@contextmanager
def started_node(folder: Path) -> Iterator[RabbitNode]:
    """Start a node in ``folder`` and end it afterwards, whatever happens."""
    with ExitStack() as stack:
        node = RabbitNode(folder)
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
