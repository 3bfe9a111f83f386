"""A private PostgreSQL for one test session, and what tests do to it.

A random port on the loopback address, an own folder, no socket file: other servers
on the machine neither notice it nor are touched.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import asyncpg

from tests.server_package import ServerMissing, install_package

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Debian's place, one folder for each version; a version that is on the path, too.
PROGRAM_FOLDERS: Final = "/usr/lib/postgresql"

#: The server refuses to run as root; Debian's package makes this user.
SERVER_USER: Final = "postgres"

START_SECONDS: Final = 90.0
STOP_SECONDS: Final = 15.0

CONFIGURATION: Final = """\
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
shared_buffers = 32MB
# Only a power cut would show the difference.
fsync = off
full_page_writes = off
"""


def find_program(name: str) -> Path:
    """Give the path of one of PostgreSQL's programs, of the newest version.

    Raises:
        ServerMissing: PostgreSQL's server is not installed.
    """
    found = sorted(
        Path(PROGRAM_FOLDERS).glob(f"*/bin/{name}"),
        key=lambda path: [int(n) for n in re.findall(r"\d+", str(path))],
    )
    if found:
        return found[-1]
    if other := shutil.which(name):
        return Path(other)
    message = (
        f"PostgreSQL's {name} was not found: install the package postgresql, or set"
        " PIPELINE_TEST_POSTGRES_URL=postgresql://user:password@host:port/database"
        " to use another one"
    )
    raise ServerMissing(message)


def install_server() -> None:
    """Install PostgreSQL from Debian's packages if it is absent and we may."""

    def is_there() -> bool:
        with suppress(ServerMissing):
            find_program("initdb")
            return True
        return False

    install_package("postgresql", is_there)


class PostgresNode:
    """A server that can be stopped, killed and started again; its data stays."""

    def __init__(self, folder: Path, configuration: str = CONFIGURATION) -> None:
        self.folder = folder
        self.port = _free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._server: subprocess.Popen[bytes] | None = None
        self._identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam(SERVER_USER)
            os.chown(folder, user.pw_uid, user.pw_gid)
            self._identity = {
                "user": user.pw_uid,
                "group": user.pw_gid,
                "extra_groups": [],
            }
        make = f"{find_program('initdb')} --auth=trust --username=postgres --no-sync"
        subprocess.run(
            [
                *make.split(),
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                str(folder / "data"),
            ],
            check=True,
            capture_output=True,
            cwd=folder,
            timeout=START_SECONDS,
            **self._identity,
        )
        with (folder / "data" / "postgresql.conf").open("a") as settings:
            settings.write(f"{configuration}port = {self.port}\n")

    def start(self) -> None:
        """Start the server and wait until it takes connections.

        Raises:
            RuntimeError: it ended, or was not ready in time.
        """
        with (self.folder / "output").open("ab") as output:
            self._server = subprocess.Popen(
                [find_program("postgres"), "-D", self.folder / "data"],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **self._identity,
            )
        _wait_until(self._is_ready, f"the server in {self.folder}")

    def stop(self) -> None:
        """Shut the server down and cut its clients off. Idempotent."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server at once; it has to recover when it is started."""
        self._end(signal.SIGQUIT)

    def restart(self) -> None:
        """Shut the server down and start it again."""
        self.stop()
        self.start()

    def _end(self, how: signal.Signals) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        server.send_signal(how)
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.send_signal(signal.SIGQUIT)
            server.wait(STOP_SECONDS)

    def _is_ready(self) -> bool:
        if self._server is not None and self._server.poll() is not None:
            output = (self.folder / "output").read_text(errors="replace")
            message = (
                f"the server in {self.folder} ended while starting: {output[-2000:]}"
            )
            raise RuntimeError(message)
        program = str(find_program("pg_isready"))
        asked = [program, "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return not subprocess.run(asked, check=False, timeout=START_SECONDS).returncode


@contextmanager
def started_server(configuration: str = CONFIGURATION) -> Iterator[PostgresNode]:
    """Start a server in a folder of its own and end it, whatever happens."""
    with ExitStack() as stack:
        # Not among pytest's folders, which nobody but their owner may enter.
        folder = Path(tempfile.mkdtemp(prefix="pipeline-postgres-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        node = PostgresNode(folder, configuration)
        stack.callback(node.stop)
        node.start()
        yield node


async def make_schema(url: str) -> str:
    """Make an empty schema in the database; give the address that leads into it."""
    name = f"test_{secrets.token_hex(8)}"
    await _run(url, f"CREATE SCHEMA {name}")
    separator = "&" if urlsplit(url).query else "?"
    return f"{url}{separator}search_path={name}"


async def drop_schema(url: str) -> None:
    """Remove what ``make_schema`` made, and all that is in it."""
    name = re.search(r"search_path=(\w+)", url)
    assert name is not None
    await _run(url, f"DROP SCHEMA {name[1]} CASCADE")


async def _run(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, timeout=START_SECONDS)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    ends_at = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > ends_at:
            message = f"{what} was not ready within {START_SECONDS:g} s"
            raise RuntimeError(message)
        time.sleep(0.05)
