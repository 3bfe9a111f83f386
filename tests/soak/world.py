"""Everything that a soak runs: servers, links that break, and the pipeline."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from pipeline.bootstrap import ledger_of, open_parts
from pipeline.settings import load_settings
from tests.postgres_node import started_server
from tests.rabbitmq_node import started_node
from tests.soak.fleet import Fleet, Member
from tests.soak.history import READY, STORED, Hearing
from tests.soak.servers import Surroundings
from tests.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from pipeline.bootstrap import Parts
    from pipeline.ledger.port import Ledger
    from pipeline.settings import Settings
    from tests.postgres_node import PostgresNode
    from tests.rabbitmq_node import RabbitNode
    from tests.soak.options import SoakOptions

#: How many processes of each kind.
PROCESSES: Final = {"ingress": 2, "dedupe": 2, "download": 2, "notify": 2}
#: Whom to tell of what; nothing said: of everything.
SUBSCRIBERS: Final = {
    "archive": (),
    "studio": ("task.complete", "task.failed"),
    "shop": (STORED, READY),
}
#: Not among those that the system gives to outgoing connections: a process that is
#: started again must find its port free.
PORTS: Final = (21_000, 32_000)

# Waits of seconds instead of hours: a soak wants to see dead letters.
_CONFIG: Final = """\
broker_url = "{broker_url}"
ledger_url = "{ledger_url}"
assets_url = "{folder}/assets"
subscriptions_file = "{folder}/subscriptions.toml"

[broker]
prefix = "soak"
delays = ["1s", "5s", "15s"]

[dedupe]
waits = ["1s", "5s", "15s", "15s", "15s"]

[download]
waits = ["1s", "5s", "15s", "15s", "15s", "15s", "15s", "15s"]
allow_private_addresses = true
read_timeout = "10s"

[notify]
waits = ["1s", "5s", "5s"]
timeout = "5s"

[log]
level = "WARNING"
format = "json"
"""


class World:
    """The servers and the processes of one soak, as an async context manager.

    Links go through proxies; whoever looks on, as the soak itself, goes past them.
    """

    def __init__(self, options: SoakOptions, progress: Callable[[], float]) -> None:
        self._options = options
        self.progress = progress
        #: Set when nobody is going to look into it.
        self.remove_folder = False
        self._stack = AsyncExitStack()
        self._ports = _free_ports()
        self.folder = Path()
        self.node: RabbitNode | None = None
        self.postgres: PostgresNode | None = None
        #: By what is behind them, such as ``ledger`` or ``subscriber shop``.
        self.links: dict[str, TcpProxy] = {}
        self.hearings = {
            name: Hearing(types=frozenset(types)) for name, types in SUBSCRIBERS.items()
        }

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._open(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    @property
    def doors(self) -> list[str]:
        """The callback address of each ingress."""
        return [
            f"http://127.0.0.1:{member.port}/callbacks/upload-extend"
            for member in self.fleet.of("ingress")
        ]

    @property
    def files_url(self) -> str:
        """Base address of the provider's files."""
        return self.links["files"].url_for(self.surroundings.url).rstrip("/")

    async def _open(self, stack: AsyncExitStack) -> None:
        made = tempfile.mkdtemp(prefix="pipeline-soak-")
        self.folder = Path(made)
        stack.callback(self._remove_folder)
        broker_url, ledger_url = await self._open_servers(stack)
        self.surroundings = await stack.enter_async_context(Surroundings(self.hearings))
        await self._link(stack, "files", self.surroundings.url)
        for name in SUBSCRIBERS:
            await self._link(stack, f"subscriber {name}", self.surroundings.url)
        self._write_subscriptions()
        config = self.folder / "pipeline.toml"
        config.write_text(
            _CONFIG.format(
                broker_url=broker_url, ledger_url=ledger_url, folder=self.folder
            ),
            encoding="utf-8",
        )
        #: With the addresses of the servers themselves.
        self.settings: Settings = load_settings(
            file=config, environ={}, flags={}
        ).settings
        #: For those who look on.
        self.parts: Parts = await stack.enter_async_context(open_parts(self.settings))
        self.ledger: Ledger = await stack.enter_async_context(ledger_of(self.settings))
        self.fleet = await stack.enter_async_context(
            Fleet(list(self._members()), self.folder, self.progress)
        )

    def _remove_folder(self) -> None:
        if self.remove_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    async def _open_servers(self, stack: AsyncExitStack) -> tuple[str, str]:
        servers = stack.enter_context(ExitStack())
        broker_url = f"sqlite:///{self.folder}/broker.db"
        ledger_url = f"sqlite:///{self.folder}/ledger.db"
        if self._options.broker == "rabbitmq":
            place = self.folder / "rabbitmq"
            place.mkdir()
            node = started_node(place)
            self.node = await asyncio.to_thread(servers.enter_context, node)
            broker_url = self.node.url
            await self._link(stack, "broker of the ingress", broker_url)
            await self._link(stack, "broker of the workers", broker_url)
        if self._options.ledger == "postgres":
            server = started_server()
            self.postgres = await asyncio.to_thread(servers.enter_context, server)
            ledger_url = self.postgres.url
            await self._link(stack, "ledger", ledger_url)
        return broker_url, ledger_url

    async def _link(self, stack: AsyncExitStack, name: str, url: str) -> None:
        self.links[name] = await stack.enter_async_context(TcpProxy.to(url))

    def _write_subscriptions(self) -> None:
        entries = []
        for name, types in SUBSCRIBERS.items():
            link = self.links[f"subscriber {name}"]
            url = link.url_for(f"{self.surroundings.url}/hooks/{name}")
            events = ", ".join(f'"{one}"' for one in types or ("#",))
            entries.append(
                f'[[subscriptions]]\nname = "{name}"\nurl = "{url}"\n'
                f"events = [{events}]\n"
            )
        (self.folder / "subscriptions.toml").write_text(
            "\n".join(entries), encoding="utf-8"
        )

    def _members(self) -> Iterator[Member]:
        for kind, count in PROCESSES.items():
            for number in range(1, count + 1):
                name, port = f"{kind}-{number}", next(self._ports)
                yield Member(
                    name=name,
                    kind=kind,
                    port=port,
                    arguments=self._arguments(kind, name, port),
                )

    def _arguments(self, kind: str, name: str, port: int) -> list[str]:
        config = ["--config", str(self.folder / "pipeline.toml")]
        if kind == "ingress":
            spool = f"spool.path={self.folder}/spool-{name}.db"
            own = ["ingress", *config, "--port", str(port), "--set", spool]
        else:
            own = ["worker", kind, *config, "--set", f"metrics.port={port}"]
            own += self._through("--ledger-url", "ledger")
        behind = "ingress" if kind == "ingress" else "workers"
        return own + self._through("--broker-url", f"broker of the {behind}")

    def _through(self, option: str, link: str) -> list[str]:
        if link not in self.links:
            return []
        server = self.postgres if link == "ledger" else self.node
        assert server is not None
        return [option, self.links[link].url_for(server.url)]


def _free_ports() -> Iterator[int]:
    for port in range(*PORTS):
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port
