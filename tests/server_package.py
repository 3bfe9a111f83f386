"""Installs servers that tests need, from Debian's packages."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INSTALL_SECONDS: Final = 600.0


class ServerMissing(Exception):
    """There is no such server on this machine."""


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
