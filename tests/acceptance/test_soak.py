"""The soak itself: a very short one, on no server, ends with its verdict."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.command_line import ROOT


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_short_soak_with_kills_loses_nothing() -> None:
    """What recoveries took is not asked for: other tests run at the same time."""
    found = soak("--callbacks", "400", "--minutes", "0.5", "--only", "kill", "burst")

    verdict = found["verdict"]
    assert [] == [one for one in found["failures"] if "works again after" not in one]
    assert 0 == verdict["lost_count"] == verdict["twice"] == verdict["invented"]
    assert verdict["accepted"] > 100
    assert verdict["effects"]["archive"] > verdict["distinct"] > 100
    assert verdict["files_stored"] > 10
    assert found["recoveries"]
    assert {"dedupe", "download", "ingress", "notify"} == {
        growth["kind"] for growth in found["memory"]
    }


def soak(*options: str) -> dict[str, Any]:
    """Run a soak on the embedded broker and SQLite; give its verdict."""
    arguments = ["--short", "--json", "--broker", "embedded", "--ledger", "sqlite"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", *arguments, *options],
        capture_output=True,
        check=False,
        cwd=ROOT,
        text=True,
    )
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
