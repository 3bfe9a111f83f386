"""Three private RabbitMQ nodes that form a cluster, and the network between them.

Every node has an epmd of its own, which answers where another node listens. In it
the other two are registered by us, at the ports of proxies: whatever one node says
to another goes through one of them, so that the network between nodes can be cut or
be a black hole while clients reach every node.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tests.rabbitmq_node import RabbitNode
from tests.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from pathlib import Path

T = TypeVar("T")

NODES: Final = 3
#: Far more than any step between proxies takes.
STEP_SECONDS: Final = 10.0
#: ``ALIVE2_REQ`` of https://www.erlang.org/doc/apps/erts/erl_dist_protocol.html: a
#: normal node over TCP that speaks versions 5 and 6.
_ALIVE_REQUEST: Final = 120
_NORMAL_NODE: Final = 77
_VERSIONS: Final = (6, 5)


class RabbitCluster:
    """Nodes that hold a copy of each quorum queue.

    A node that hears of no other stops by itself until it does, as
    ``docs/operations.md`` advises (``pause_minority``).
    """

    def __init__(self, folder: Path) -> None:
        cookie = secrets.token_hex(16)
        self.nodes: list[RabbitNode] = []
        for number in range(NODES):
            (folder / f"node-{number}").mkdir()
            self.nodes.append(RabbitNode(folder / f"node-{number}", cookie=cookie))
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        #: Names all nodes.
        self.url = f"amqp://guest:guest@{hosts}/"
        self._network = _Network()
        self._registered: list[socket.socket] = []

    def start(self) -> None:
        """Start the nodes; the first alone, for the others to join it."""
        first = self.nodes[0]
        for node in self.nodes:
            node.configure(
                "cluster_partition_handling = pause_minority",
                "cluster_formation.peer_discovery_backend = classic_config",
                *(
                    f"cluster_formation.classic_config.nodes.{number} = {name}"
                    for number, name in enumerate({first.name: 0, node.name: 0}, 1)
                ),
            )
            node.start_epmd()
        for asking, other in itertools.permutations(self.nodes, 2):
            port = self._network.connect(asking.name, other.name, other.link_port)
            self._registered.append(_register(other.name, port, asking.epmd_port))
        first.start()
        self.start_nodes(self.nodes[1:])

    def start_nodes(self, nodes: Sequence[RabbitNode]) -> None:
        """Start some of the nodes at the same time."""
        _at_once(RabbitNode.start, nodes)

    def mend(self) -> None:
        """Start what is dead and let all nodes talk, as after a test that failed."""
        for node in self.nodes:
            self.heal(node)
        self.start_nodes([node for node in self.nodes if not node.is_running])

    def close(self) -> None:
        """End everything."""
        # Killed, because a node that is stopped in order waits for the others.
        _at_once(RabbitNode.kill, self.nodes)
        _at_once(RabbitNode.close, self.nodes)
        for registration in self._registered:
            registration.close()
        self._network.close()

    def leader_of(self, queue: str) -> RabbitNode:
        """Give the node that decides on a quorum queue."""
        (name,) = self._told_of(queue, "leader")
        return next(node for node in self.nodes if node.name == name)

    def online_copies(self, queue: str) -> list[str]:
        """Name the nodes whose copy of a quorum queue takes part."""
        return self._told_of(queue, "online")

    def _told_of(self, queue: str, item: str) -> list[str]:
        """Ask the first node that answers; gives the names of nodes.

        Not `list_queues`, for which the other nodes would have to find the program
        that asks.
        """
        for node in self.nodes:
            if node.takes_connections():
                told = node.control(
                    "eval",
                    f'Name = rabbit_misc:r(<<"/">>, queue, <<"{queue}">>),'
                    " {ok, Queue} = rabbit_amqqueue:lookup(Name),"
                    f" rabbit_quorum_queue:info(Queue, [{item}]).",
                )
                return re.findall("'([^']+)'", told)
        message = "expected a node that runs, found none"
        raise RuntimeError(message)

    def cut(self, node: RabbitNode) -> None:
        """Reset the connections between a node and the others, and refuse new ones."""
        self._network.each(node.name, _cut)

    def hold(self, node: RabbitNode) -> None:
        """Let nothing pass between a node and the others, and leave it at that."""
        self._network.each(node.name, _hold)

    def heal(self, node: RabbitNode) -> None:
        """Let a node and the others talk again."""
        self._network.each(node.name, _heal)


@contextmanager
def started_cluster(folder: Path) -> Iterator[RabbitCluster]:
    """Start a cluster in ``folder`` and end it afterwards, whatever happens."""
    with ExitStack() as stack:
        cluster = RabbitCluster(folder)
        stack.callback(cluster.close)
        cluster.start()
        yield cluster


class _Network:
    """The proxies between nodes, in a thread, so that no test has to run for them."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._proxies: dict[tuple[str, str], TcpProxy] = {}

    def connect(self, asking: str, other: str, port: int) -> int:
        """Make a way from one node to another; give the port where it begins."""
        proxy = TcpProxy("127.0.0.1", port)
        self._proxies[asking, other] = proxy
        self._run(proxy.accept())
        return proxy.port

    def each(
        self, name: str, change: Callable[[TcpProxy], Coroutine[Any, Any, None]]
    ) -> None:
        """Change every way that begins or ends at a node."""
        for ends, proxy in self._proxies.items():
            if name in ends:
                self._run(change(proxy))

    def close(self) -> None:
        for proxy in self._proxies.values():
            self._run(proxy.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STEP_SECONDS)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(STEP_SECONDS)


async def _cut(proxy: TcpProxy) -> None:
    await proxy.refuse()
    proxy.cut()


async def _hold(proxy: TcpProxy) -> None:
    proxy.hold()


async def _heal(proxy: TcpProxy) -> None:
    await proxy.accept()
    proxy.resume()


def _register(name: str, port: int, epmd_port: int) -> socket.socket:
    """Tell an epmd where a node listens; it believes so while the socket is open."""
    alive = name.partition("@")[0].encode()
    request = struct.pack(
        f">BHBBHHH{len(alive)}sH",
        *(_ALIVE_REQUEST, port, _NORMAL_NODE, 0),
        *_VERSIONS,
        *(len(alive), alive, 0),
    )
    connection = socket.create_connection(("127.0.0.1", epmd_port), STEP_SECONDS)
    connection.sendall(struct.pack(">H", len(request)) + request)
    answer = connection.recv(2)
    # The second byte is 0 where all is well.
    if len(answer) < len(b"##") or answer[1]:
        message = f"epmd did not take {name}: {answer!r}"
        raise RuntimeError(message)
    return connection


def _at_once(act: Callable[[RabbitNode], None], nodes: Sequence[RabbitNode]) -> None:
    """Do the same with several nodes at the same time."""
    with ThreadPoolExecutor(NODES) as threads:
        list(threads.map(act, nodes))
