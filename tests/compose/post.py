"""Post one callback to the ingress of this container until it is taken.

Runs inside the image, with the standard library alone; the task's id is the
argument.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from typing import Final

ADDRESS: Final = "http://127.0.0.1:8080/callbacks/upload-extend"
WITHIN_SECONDS: Final = 60.0
#: The provider hangs up after so long.
TIMEOUT_SECONDS: Final = 10.0


def main(task_id: str) -> str | None:
    """Post; return what is wrong, ``None`` if nothing is."""
    data = {"callbackType": "text", "task_id": task_id, "data": []}
    body = json.dumps({"code": 200, "msg": "ok", "data": data}).encode()
    request = urllib.request.Request(
        ADDRESS, body, {"Content-Type": "application/json"}
    )
    answer = "nothing"
    ends_at = time.monotonic() + WITHIN_SECONDS
    while time.monotonic() < ends_at:
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
                return None
        except urllib.error.HTTPError as error:
            answer = f"{error.code} {error.read().decode(errors='replace')}"
        except OSError as error:
            answer = str(error)
        time.sleep(0.5)
    return f"expected 200 within {WITHIN_SECONDS:g} s, got {answer}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
