"""Ingresses that ask for proof: what they are set to, and how one signs for them.

Signed by hand here, not by the pipeline: a mistake there would agree with itself.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Final, Literal

#: Either opens every operation but the one that has a token of its own.
TOKENS: Final = ("fuzz-token-one-7f3a9c", "Fuzz-Token-TWO-b81e04")
OWN_OPERATION: Final = "midi"
OWN_TOKENS: Final = ("fuzz-token-own-55d0e2",)
KEYS: Final = ("fuzz-key-old-1c9e77", "fuzz-key-new-a40b6d")
#: Where callers are that are let in.
NETWORKS: Final = "203.0.113.0/24, 2001:db8:7::/48"
#: Where proxies are; and where we are, who are believed by one ingress only.
PROXIES: Final = "10.0.0.0/8"
LOOPBACK: Final = "127.0.0.0/8"
SECRETS: Final = (*TOKENS, *OWN_TOKENS, *KEYS)

SchemeName = Literal["task-and-time", "time-and-body", "body"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """One ingress that asks for proof."""

    name: str
    scheme: SchemeName
    #: Of all requests, those that are for it.
    share: float
    #: Networks that it takes callbacks from, and proxies that it believes. With any
    #: no callback takes the quick way through it.
    networks: str = ""
    proxies: str = ""

    @property
    def believes_us(self) -> bool:
        """Whether what we say of who calls counts."""
        return LOOPBACK in self.proxies

    @property
    def environ(self) -> dict[str, str]:
        """What it is set to."""
        own = {OWN_OPERATION: OWN_TOKENS}
        return {
            "PIPELINE_INGRESS__TOKENS": ",".join(TOKENS),
            "PIPELINE_INGRESS__OPERATION_TOKENS": json.dumps(own),
            "PIPELINE_INGRESS__SIGNATURE__KEYS": ",".join(KEYS),
            "PIPELINE_INGRESS__SIGNATURE__SCHEME": self.scheme,
            "PIPELINE_INGRESS__NETWORKS": self.networks,
            "PIPELINE_INGRESS__TRUSTED_PROXIES": self.proxies,
        }


#: The first one is sent so much that its memory can be judged, too.
GUARDS: Final = (
    Guard(
        name="proxies",
        scheme="task-and-time",
        share=0.25,
        networks=NETWORKS,
        proxies=f"{PROXIES}, {LOOPBACK}",
    ),
    Guard(
        name="other proxies",
        scheme="time-and-body",
        share=0.05,
        networks=LOOPBACK,
        proxies=PROXIES,
    ),
    Guard(name="time and body", scheme="time-and-body", share=0.05),
    Guard(name="body", scheme="body", share=0.05),
)


def tokens_of(operation: str) -> tuple[str, ...]:
    """Give the tokens that open an operation."""
    return OWN_TOKENS if operation == OWN_OPERATION else TOKENS


def spellings(
    scheme: SchemeName, key: str, task_id: str, time: str, body: bytes
) -> tuple[str, ...]:
    """Sign; give every way to write it that is taken."""
    stamp = time.encode()
    match scheme:
        case "task-and-time":
            digest = _digest(key, task_id.encode("utf-8", "replace") + b"." + stamp)
            return (base64.b64encode(digest).decode(),)
        case "time-and-body":
            return (f"sha256={_digest(key, stamp + b'.' + body).hex()}",)
        case "body":
            digest = _digest(key, body)
            digits = digest.hex()
            base = base64.b64encode(digest).decode()
            return (f"sha256={digits}", digits, digits.upper(), base)


def misspellings(
    scheme: SchemeName, key: str, task_id: str, time: str, body: bytes
) -> tuple[str, ...]:
    """Sign; give ways to write it that are not taken."""
    good = spellings(scheme, key, task_id, time, body)[0]
    if scheme == "task-and-time":
        digest = base64.b64decode(good)
        return (digest.hex(), f"sha256={digest.hex()}", good.rstrip("="), f"v1,{good}")
    digits = good.removeprefix("sha256=")
    base = base64.b64encode(bytes.fromhex(digits)).decode()
    common = (f"sha1={digits}", f"SHA256={digits}", base.rstrip("="), f"sha256={base}")
    return common if scheme == "body" else (*common, digits, digits.upper(), base)


def _digest(key: str, signed: bytes) -> bytes:
    return hmac.digest(key.encode(), signed, hashlib.sha256)
