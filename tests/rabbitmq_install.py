"""Where RabbitMQ is on this machine, and how its programs are run.

Usually in Debian's package. ``PIPELINE_TEST_RABBITMQ_ROOT`` names a folder with
another Debian in it instead, made by ``mmdebstrap`` for example: its RabbitMQ may be
of another version. Its programs are run with chroot, which takes root.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.server_package import ServerMissing, install_package

#: Debian's scripts for everybody; those in ``/usr/sbin`` change the user first.
SCRIPT_FOLDERS: Final = ("/usr/lib/rabbitmq/bin", "/usr/local/sbin", "/usr/local/bin")

#: Names a folder with another Debian in it.
OTHER_ROOT: Final = "PIPELINE_TEST_RABBITMQ_ROOT"

#: What it takes to run a program there with the node's folder at the same place. It
#: is done in a mount namespace of the program's own, so nothing stays mounted.
_ENTER: Final = """\
root=$1 folder=$2; shift 2
mkdir -p "$root$folder" &&
mount -t proc proc "$root/proc" &&
mount --rbind /dev "$root/dev" &&
mount --bind "$folder" "$root$folder" &&
exec chroot "$root" "$@"
"""


def find_server(script: str) -> Path:
    """Give the path of one of RabbitMQ's scripts.

    Raises:
        ServerMissing: RabbitMQ is not installed.
    """
    root = os.environ.get(OTHER_ROOT, "")
    for folder in SCRIPT_FOLDERS:
        path = Path(folder, script)
        if Path(f"{root}{path}").exists():
            return path
    if not root and (found := shutil.which(script)):
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

    if not os.environ.get(OTHER_ROOT):
        install_package("rabbitmq-server", is_there)


def command(program: str | Path, folder: Path, *arguments: str) -> list[str]:
    """Make the command line of a program that works in the folder of a node."""
    direct = [str(program), *arguments]
    root = os.environ.get(OTHER_ROOT)
    if not root:
        return direct
    # `unshare` and `chroot` become what they run, so its process id is ours.
    return ["unshare", "--mount", "sh", "-c", _ENTER, "-", root, str(folder), *direct]
