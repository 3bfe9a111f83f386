"""Submit a task at the admin service of this container; print the task's id.

Runs inside the image, with the standard library alone.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Final

ADDRESS: Final = "http://127.0.0.1:8090/tasks"
TOKENS: Final = Path("/run/secrets/admin_tokens")
TIMEOUT_SECONDS: Final = 60.0
TASK: Final = {
    "operation": "generate",
    "prompt": "a quiet song",
    "customMode": False,
    "instrumental": True,
    "model": "V5",
}


def main() -> str:
    """Submit, and give the id."""
    token = TOKENS.read_text(encoding="utf-8").split()[0]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(ADDRESS, json.dumps(TASK).encode(), headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        document = json.load(answer)
    return str(document["task_id"])


if __name__ == "__main__":
    sys.stdout.write(main() + "\n")
