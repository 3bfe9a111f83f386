"""The server that the benchmark of downloads fetches from: nginx, else aiohttp."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: The longest to start and to stop.
PATIENCE_SECONDS: Final = 60.0
NGINX: Final = """
daemon off; master_process off; pid {root}/nginx.pid; error_log {root}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off; sendfile on; tcp_nopush on; default_type audio/mpeg;
  client_body_temp_path {root}/t1; proxy_temp_path {root}/t2;
  fastcgi_temp_path {root}/t3; uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;
  server {{ listen 127.0.0.1:{port} backlog=512; root {root}/files; }}
}}
"""


@contextmanager
def serving(root: Path) -> Iterator[tuple[str, int, int]]:
    """Serve ``root/files`` from a process that is ours to end."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    if nginx := shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"):
        user = f"user {_user()};" if os.geteuid() == 0 else ""
        (root / "nginx.conf").write_text(user + NGINX.format(root=root, port=port))
        name = "nginx"
        command = [nginx, "-p", str(root), "-c", str(root / "nginx.conf")]
        command += ["-e", str(root / "error.log")]
    else:
        name = "aiohttp, as there is no nginx (ratios mean little)"
        command = [sys.executable, "-m", "benchmarks.download_server"]
        command += [str(root / "files"), str(port)]
    process = subprocess.Popen(command)
    try:
        _wait_for(port, process)
        yield name, process.pid, port
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    message = f"expected a server on port {port}, got none"
    raise SystemExit(message)


def _user() -> str:
    import pwd  # noqa: PLC0415  not on Windows

    return pwd.getpwuid(os.geteuid()).pw_name


def main() -> None:
    """Serve a folder at a port: where there is no nginx."""
    app = web.Application()
    app.router.add_static("/", sys.argv[1])
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), print=None)


if __name__ == "__main__":
    main()
