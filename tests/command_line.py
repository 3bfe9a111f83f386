"""Runs the command line as its users do: as processes, in a folder of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT: Final = Path(__file__).parents[1]
#: Far more than anything should take, also on a busy machine.
WITHIN_SECONDS: Final = 30.0
#: For an ingress: a disk that others keep busy for a while is no reason to answer 503.
PATIENT: Final = {"PIPELINE_INGRESS__PUBLISH_TIMEOUT": "30s"}


def until(condition: Callable[[], object], *, within: float = WITHIN_SECONDS) -> None:
    """Return as soon as ``condition`` is true.

    Raises:
        TimeoutError: it was not in time.
    """
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


def _is_ready(base: str) -> bool:
    try:
        with urllib.request.urlopen(f"{base}/readyz", timeout=2 * WITHIN_SECONDS):
            return True
    except urllib.error.HTTPError:
        return False


@dataclass(slots=True)
class Running:
    """A process that stays, and the log it writes."""

    process: subprocess.Popen[bytes]
    log: Path
    errors: Path

    def events(self, name: str) -> list[dict[str, Any]]:
        """Give the log lines of an event so far."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return [line for line in found if line["event"] == name]

    def address(self) -> str:
        """Wait until it listens; give the base of its addresses."""
        until(lambda: self.events("listening") or self.process.poll() is not None)
        assert self.process.poll() is None, self.errors.read_text(encoding="utf-8")
        listening = self.events("listening")[0]
        return f"http://{listening['host']}:{listening['port']}"

    def ready(self) -> str:
        """Wait until it is ready as well; give the base of its addresses."""
        base = self.address()
        until(lambda: _is_ready(base))
        return base

    def said(self, text: str) -> None:
        """Wait until a text stands on its standard error."""
        until(
            lambda: (
                text in self.errors.read_text(encoding="utf-8")
                or self.process.poll() is not None
            )
        )
        assert text in self.errors.read_text(encoding="utf-8")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, give the exit code."""
        self.process.send_signal(number)
        return self.process.wait(WITHIN_SECONDS)


@dataclass(slots=True)
class CommandLine:
    """Runs ``pipeline`` in a folder, with nothing but its own environment."""

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)

    def __call__(
        self, *arguments: str, environ: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "pipeline", *arguments],
            capture_output=True,
            check=False,
            cwd=self.folder,
            env=self._environ(environ),
            text=True,
            timeout=WITHIN_SECONDS * 2,
        )

    def json(self, *arguments: str) -> Any:
        """Run a command with ``--json`` and read what it prints."""
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @contextmanager
    def running(
        self,
        *arguments: str,
        environ: dict[str, str] | None = None,
        output: int | None = None,
        errors: int | None = None,
    ) -> Iterator[Running]:
        """Run a command that stays; it is killed in the end if it still runs.

        Its log is a file, unless ``output`` is a file descriptor to write it to; the
        same for standard error.
        """
        log = self.folder / f"{arguments[0]}.log"
        said = self.folder / f"{arguments[0]}.err"
        with log.open("wb") as logged, said.open("wb") as error:
            process = subprocess.Popen(
                [sys.executable, "-m", "pipeline", *arguments],
                cwd=self.folder,
                env=self._environ(environ),
                stderr=error if errors is None else errors,
                stdout=logged if output is None else output,
                # Shells start what is in the background deaf to Ctrl-C.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  no threads yet
            )
        try:
            yield Running(process, log, said)
        finally:
            process.kill()
            process.wait()

    def _environ(self, more: dict[str, str] | None) -> dict[str, str]:
        own = {k: v for k, v in os.environ.items() if not k.startswith("PIPELINE_")}
        return own | {"PYTHONPATH": str(ROOT)} | self.environ | (more or {})
