"""What the ingress says of itself is true: OpenAPI, served, printed and tried out."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.command_line import PATIENT

if TYPE_CHECKING:
    from tests.command_line import CommandLine

TOKEN = "sesame-open-the-door"
KEY = "a-key-of-the-provider"
#: The tool that reads the description and tries every operation in it.
TOOL = Path(sys.executable).with_name("schemathesis")
#: Callbacks are read tolerantly: what does not fit the description may be taken too.
WITHOUT = "negative_data_rejection"

SETTINGS: dict[str, dict[str, str]] = {
    "open": {},
    "closed": {
        "PIPELINE_INGRESS__TOKENS": TOKEN,
        "PIPELINE_INGRESS__SIGNATURE__KEYS": KEY,
    },
}


def fetch(url: str) -> Any:
    """Get JSON."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


@pytest.mark.parametrize("environ", SETTINGS.values(), ids=SETTINGS)
def test_description_that_is_served_is_the_one_that_is_printed(
    cli: CommandLine, environ: dict[str, str]
) -> None:
    """By one and the same settings."""
    printed = cli("openapi", environ=environ)

    with cli.running("ingress", "--port", "0", environ=environ) as ingress:
        served = fetch(f"{ingress.address()}/openapi.json")

    assert json.loads(printed.stdout) == served
    assert TOKEN not in printed.stdout
    assert KEY not in printed.stdout


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("environ", "phases"),
    [
        pytest.param(SETTINGS["open"], "coverage,fuzzing", id="open"),
        pytest.param(SETTINGS["closed"], "fuzzing", id="closed"),
    ],
)
def test_ingress_does_what_its_description_says(
    cli: CommandLine, environ: dict[str, str], phases: str
) -> None:
    """Every status, header and body is described, and what is described is taken.

    No 5xx but the 503 of ``/readyz``. The same requests each time.
    """
    with cli.running("ingress", "--port", "0", environ=environ | PATIENT) as ingress:
        base = ingress.ready()
        done = subprocess.run(
            [
                TOOL,
                *("run", f"{base}/openapi.json"),
                *("--phases", phases),
                *("--max-examples", "25"),
                *("--checks", "all", "--exclude-checks", WITHOUT),
                "--generation-deterministic",
                *("--suppress-health-check", "all"),
                *("--request-timeout", "20", "--no-color"),
            ],
            capture_output=True,
            check=False,
            cwd=cli.folder,
            text=True,
            timeout=200,
        )

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert [] == ingress.events("request_failed")
