"""Tests on a machine without RabbitMQ: nobody takes half of them for all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Runs pytest where no RabbitMQ is found, and none can be installed.
PROGRAM = """
import sys
import pytest
from tests import rabbitmq_install
rabbitmq_install.SCRIPT_FOLDERS = ()
sys.exit(pytest.main(sys.argv[1:]))
"""
NEEDS_RABBITMQ = (
    "tests/contract/test_lifecycle.py",
    "-k=test_declaring_twice_is_harmless and rabbitmq",
)


def run(empty: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a test that needs RabbitMQ, with a search path that leads nowhere."""
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PIPELINE_", "PYTEST_", "COV")) and name != "CI"
    }
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, "-p", "no:cacheprovider", *NEEDS_RABBITMQ],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env=own | {"PATH": str(empty)} | more,
        text=True,
        timeout=60,
    )


def test_a_missing_rabbitmq_fails_and_says_what_to_do(tmp_path: Path) -> None:
    done = run(tmp_path)

    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "install the package rabbitmq-server" in done.stdout
    assert "PIPELINE_TEST_WITHOUT_RABBITMQ=1" in done.stdout


def test_whoever_can_do_without_says_so(tmp_path: Path) -> None:
    done = run(tmp_path, PIPELINE_TEST_WITHOUT_RABBITMQ="1")

    assert done.returncode == pytest.ExitCode.OK
    assert "1 skipped" in done.stdout
