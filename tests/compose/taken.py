"""Print how many callbacks the ingress of this container has taken.

Runs inside the image, with the standard library alone.
"""

from __future__ import annotations

import sys
import urllib.request
from typing import Final

ADDRESS: Final = "http://127.0.0.1:8080/metrics"
TIMEOUT_SECONDS: Final = 5.0
COUNTER: Final = "pipeline_callbacks_total{"


def main() -> int:
    """Add up what the operations have taken."""
    with urllib.request.urlopen(ADDRESS, timeout=TIMEOUT_SECONDS) as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        round(float(line.rpartition(" ")[2]))
        for line in lines
        if line.startswith(COUNTER) and 'status="200"' in line
    )


if __name__ == "__main__":
    sys.stdout.write(f"{main()}\n")
