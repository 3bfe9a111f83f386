"""Tests on a machine without a server they need: nobody takes half of them for all."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
#: Runs pytest where a server is not found, and cannot be installed.
PROGRAM: Final = """
import sys
import pytest
from tests import {module}
{module}.{places} = {nowhere}
sys.exit(pytest.main(sys.argv[1:]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server, and one test that needs it."""

    package: str
    module: str
    #: The name in the module of where its programs are looked for.
    places: str
    #: An expression for places where there is nothing.
    nowhere: str
    variable: str
    test: tuple[str, str]

    def run_without(self, empty: Path, **more: str) -> tuple[int, str]:
        """Run the test with a search path that leads nowhere; give code and output."""
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PIPELINE_", "PYTEST_", "COV")) and name != "CI"
        }
        program = PROGRAM.format(
            module=self.module, places=self.places, nowhere=self.nowhere
        )
        done = subprocess.run(
            [sys.executable, "-c", program, "-p", "no:cacheprovider", *self.test],
            capture_output=True,
            check=False,
            cwd=ROOT,
            env=own | {"PATH": str(empty)} | more,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout


RABBITMQ: Final = Server(
    package="rabbitmq-server",
    module="rabbitmq_install",
    places="SCRIPT_FOLDERS",
    nowhere="()",
    variable="PIPELINE_TEST_WITHOUT_RABBITMQ",
    test=(
        "tests/contract/test_lifecycle.py",
        "-k=test_declaring_twice_is_harmless and rabbitmq",
    ),
)
POSTGRES: Final = Server(
    package="postgresql",
    module="postgres_node",
    places="PROGRAM_FOLDERS",
    nowhere="'/nowhere'",
    variable="PIPELINE_TEST_WITHOUT_POSTGRES",
    test=(
        "tests/contract/ledger/test_lifecycle.py",
        "-k=test_closing_twice_is_harmless and postgres",
    ),
)

every_server = pytest.mark.parametrize(
    "server", [RABBITMQ, POSTGRES], ids=lambda server: server.package
)


@every_server
def test_a_missing_server_fails_and_says_what_to_do(
    server: Server, tmp_path: Path
) -> None:
    code, output = server.run_without(tmp_path)

    # It is a fixture that fails.
    assert code == pytest.ExitCode.TESTS_FAILED
    assert f"install the package {server.package}" in output
    assert f"{server.variable}=1" in output


@every_server
def test_whoever_can_do_without_says_so(server: Server, tmp_path: Path) -> None:
    code, output = server.run_without(tmp_path, **{server.variable: "1"})

    assert code == pytest.ExitCode.OK
    assert "1 skipped" in output
