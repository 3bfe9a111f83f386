"""What went wrong at an object store, told without its words.

The texts of obstore hold whole answers: addresses with signatures, key ids, what
was signed. So they go into no message of ours, and are no ``__cause__`` either,
which logs would print: class, status and the service's own code are all that is
told.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from obstore.exceptions import BaseError

from pipeline.errors import FetchFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import timedelta

#: All that obstore raises: its own, and those of files and of values.
FOREIGN: Final = (BaseError, OSError, ValueError)

_STATUS: Final = re.compile(r"\bstatus(?: code)?: (\d{3})\b")
_CODE: Final = re.compile(r"<Code>(\w{1,60})</Code>")
_KIND: Final = re.compile(r"\bkind: (Connect|Timeout|Interrupted|Decode|Request)\b")
#: What obstore says of what is missing, and what to do.
_KNOWN: Final = {
    "Account must be specified": "no account: set AZURE_STORAGE_ACCOUNT_NAME",
    "Invalid Access Key": "an account key that is no base64",
    "service account file": "no service account file that can be read",
    "as boolean": "a variable that is neither true nor false",
    "BadScheme": "an endpoint without TLS: for a trial set AWS_ALLOW_HTTP=true",
}
#: Where a machine in a cloud asks who it is; asked when no credentials are given.
_WHO_AM_I: Final = (
    "/latest/api/token",
    "/latest/meta-data/",
    "/computeMetadata/",
    "/metadata/identity/",
    "169.254.170.2",
)
_TOO_MANY: Final = 429
_SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What can be told of an error."""

    #: For people; holds no secrets.
    text: str
    #: Whether it may be over the next time: an outage, not a mistake.
    passing: bool


def diagnose(error: Exception) -> Diagnosis:
    """Tell what an error of obstore means, from the little that is safe to tell."""
    foreign = str(error)
    if any(sign in foreign for sign in _WHO_AM_I):
        text = "no credentials were given, and this machine has none of its own"
        return Diagnosis(text=text, passing=False)
    for sign, meaning in _KNOWN.items():
        if sign in foreign:
            return Diagnosis(text=meaning, passing=False)
    kind, status, code = (
        found[1] if (found := pattern.search(foreign)) else ""
        for pattern in (_KIND, _STATUS, _CODE)
    )
    parts = [type(error).__name__, status, code, kind and f"no answer ({kind})"]
    over_soon = status and (int(status) == _TOO_MANY or int(status) >= _SERVER_ERROR)
    return Diagnosis(
        text=", ".join(part for part in parts if part),
        passing=isinstance(error, TimeoutError) or bool(over_soon or kind),
    )


@asynccontextmanager
async def translated(doing: str, deadline: timedelta) -> AsyncIterator[None]:
    """Bound calls of obstore, and turn their errors into ``FetchFailed``."""
    seconds = deadline.total_seconds()
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except FOREIGN as error:
        late = isinstance(error, TimeoutError) and limit.expired()
        why = f"no answer within {seconds:g} s" if late else diagnose(error).text
        message = f"{doing} failed: {why}"
        raise FetchFailed(message) from None
