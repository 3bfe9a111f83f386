"""Have a task checked by the admin service of this container, and none submitted.

Runs inside the image, with the standard library alone.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

ADDRESS: Final = "http://127.0.0.1:8090/tasks?dry_run=true"
TOKENS: Final = Path("/run/secrets/admin_tokens")
TIMEOUT_SECONDS: Final = 60.0
TASK: Final = {
    "operation": "generate",
    "prompt": "a quiet song",
    "customMode": False,
    "instrumental": True,
    "model": "V5",
}


def main() -> str | None:
    """Ask with the token and without; return what is wrong, if anything is."""
    token = TOKENS.read_text(encoding="utf-8").split()[0]
    answers = [ask({"Authorization": f"Bearer {token}"}), ask({})]
    return None if answers == [200, 401] else f"expected 200 and 401, got {answers}"


def ask(headers: dict[str, str]) -> int:
    """Give the status of the answer."""
    headers = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(ADDRESS, json.dumps(TASK).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


if __name__ == "__main__":
    sys.exit(main())
