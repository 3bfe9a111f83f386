"""What the documents tell people to type against the simulated provider, typed.

The commands are taken from there; only their ports are others, which are free.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests import markdown
from tests.command_line import until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.command_line import CommandLine, Running

ROOT: Final = Path(__file__).resolve().parents[2]
CONFIG: Final = Path("examples/simulated-provider.toml")
HEADING: Final = "## Trying it without the provider"
#: The ports in the documents: of the provider, and of the ingress.
PORTS: Final = ("8300", "8080")


def commands() -> list[list[str]]:
    """Give the commands of the section, without the name of the program."""
    document = markdown.read(ROOT / "docs" / "operations.md")
    lines = document.text.splitlines()
    start = lines.index(HEADING) + 1
    end = next(n for n, line in enumerate(lines[start:], start) if line[:3] == "## ")
    return [
        shlex.split(line)[1:]
        for fence in document.fences
        if start < fence.line <= end and fence.language == "console"
        for line in fence.text.splitlines()
    ]


def those(name: str) -> list[list[str]]:
    return [command for command in commands() if command[0] == name]


@pytest.fixture
def ports(cli: CommandLine) -> dict[str, str]:
    """Free ports in place of those in the documents, and settings with them."""
    with ExitStack() as stack:
        found = {}
        for port in PORTS:
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            found[port] = str(listener.getsockname()[1])
    config = cli.folder / CONFIG
    config.parent.mkdir()
    config.write_text(changed((ROOT / CONFIG).read_text("utf-8"), found), "utf-8")
    return found


def changed(text: str, ports: dict[str, str]) -> str:
    return re.sub("|".join(ports), lambda found: ports[found[0]], text)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("provider", those("simulate"), ids=lambda words: words[-1])
def test_what_is_submitted_ends_with_files_on_disk(
    cli: CommandLine, ports: dict[str, str], provider: Sequence[str]
) -> None:
    """Also where callbacks are lost and links are dead."""
    (run,) = those("run")
    with ExitStack() as stack:
        for command in (provider, run):
            words = [changed(word, ports) for word in command]
            running = stack.enter_context(cli.running(*words))
            sign = "waiting for submissions" if command is provider else '"listening"'
            until_said(running, sign)
        done = [
            cli(*(changed(word, ports) for word in command))
            for command in (*those("submit"), *those("tasks"))
        ]

    assert [0] * 4 == [one.returncode for one in done], [one.stderr for one in done]
    extended, video, lyrics, listed = (one.stdout for one in done)
    assert ["audio", "audio", "image", "image"] == stored(extended, cli.folder)
    assert ["video"] == stored(video, cli.folder)
    assert [] == stored(lyrics, cli.folder)
    assert 3 == listed.count("complete")


def until_said(running: Running, sign: str) -> None:
    """Wait until a process has printed something."""
    until(
        lambda: (
            sign in running.log.read_text("utf-8") or running.process.poll() is not None
        )
    )
    assert running.process.poll() is None, running.errors.read_text("utf-8")


def stored(output: str, folder: Path) -> list[str]:
    """Give the kinds of the files that a submission names; all are on the disk."""
    found = re.findall(r"^stored  (\w+)  (.+)$", output, re.MULTILINE)
    for _, location in found:
        content = (folder / location).read_bytes()
        assert hashlib.sha256(content).hexdigest() in location
    return sorted(kind for kind, _ in found)
