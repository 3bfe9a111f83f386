"""Requests with proof of where they come from, right and forged.

Of each it is known beforehand what the answer has to be: how it is forged is chosen
here, and not found out.
"""

from __future__ import annotations

import gzip
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from pipeline.errors import Unreadable
from pipeline.provider.callback import peek
from tests.corpus.bodies import BODY_LIMIT
from tests.fuzz.attacks import Attack, Attacks, key_of
from tests.fuzz.guards import (
    KEYS,
    OWN_TOKENS,
    TOKENS,
    misspellings,
    spellings,
    tokens_of,
)
from tests.http_wire import make_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fuzz.guards import Guard

FORWARDED: Final = "X-Forwarded-For"
#: The share of requests with each flaw; a request can have several.
WRONG_NETWORK: Final = 0.15
WRONG_TOKEN: Final = 0.20
WRONG_SIGNATURE: Final = 0.30
#: Signed times lie no further from now where they are right, and no nearer where they
#: are wrong; the ingress allows 300 s.
NEAR_SECONDS: Final = 200
FAR_SECONDS: Final = 400
#: Flaws of a signature that are seen before the body is read.
AT_THE_HEAD: Final = frozenset(
    {"no signature", "no time", "time far away", "odd time", "other digits"}
)
#: More hops than anybody reads.
MANY_HOPS: Final = 40
_GOOD_CALLERS: Final = (
    *("203.0.113.7", " 203.0.113.255 ", "203.0.113.9:4711", "2001:db8:7::1"),
    *("[2001:db8:7::1]:80", "::ffff:203.0.113.7", "[::ffff:cb00:7107]"),
)
_BAD_CALLERS: Final = (
    *("198.51.100.1", "203.0.114.7", "2001:db8:8::1", "::1", "0.0.0.0", "unknown"),
    *("_hidden", "", " ", "203.0.113.7/24", "203.0.113.07", "203.0.113", "3405803783"),
    *("0xcb007107", "203.0.113.7 203.0.113.7", "203.0.113.7;203.0.113.7", "localhost"),
    *("for=203.0.113.7", '"203.0.113.7"', "203.0.113.7%eth0", "\xff"),
    *("2001:db8:7::1%" + "z" * 200, "203.0.113.7" + "0" * 2000, "\xb2\xb03.0.113.7"),
)
_ODD_TIMES: Final = (
    *("", "soon", "-5", "+{}", "{}.0", "{}e0", "0x{}", "{} {}", "{},{}", "\xb2\xb3"),
    *("9" * 13, "000{}", "9" * 4000, "{}\xa0", "1_{}", "nan", "{}Z", "2026-11-26"),
)
#: Digits, too, but not those of the provider: Arabic ones.
_OTHER_DIGITS: Final = {ord("0") + n: 0x660 + n for n in range(10)}
_JUNK: Final = "".join(map(chr, [*range(0x21, 0x7F), *range(0xA1, 0x100)]))


class Proof(NamedTuple):
    """One part of a request's proof."""

    #: What is wrong with it; empty: nothing.
    flaw: str
    headers: tuple[str, ...] = ()
    #: What follows the operation in the address.
    target: str = ""


class Forgeries(Attacks):
    """Makes requests for an ingress that asks for proof.

    The same seed gives the same ones, but for the time they are signed at.

    Args:
        seed: decides everything else.
        guard: the ingress they are for.
        now: gives Unix seconds.
    """

    def __init__(
        self, seed: int, guard: Guard, now: Callable[[], float] = time.time
    ) -> None:
        super().__init__(seed)
        self._guard = guard
        self._now = now

    def heavy(self) -> list[Attack]:
        """Give what takes the most memory at a time, and is let in."""
        operation = self._operations[0]
        return [
            self._made(
                operation,
                body,
                self._caller(is_right=True),
                self._token(operation, is_right=True),
                self._signature(operation, body, is_right=True),
            )
            for body in self._bodies.large * 3
        ]

    def make(self) -> Attack:
        """Give the next one."""
        chance = self._random.random
        operation = self._random.choice(self._operations)
        body = self._bodies.make()
        return self._made(
            operation,
            body,
            self._caller(is_right=chance() >= WRONG_NETWORK),
            self._token(operation, is_right=chance() >= WRONG_TOKEN),
            self._signature(operation, body, is_right=chance() >= WRONG_SIGNATURE),
        )

    def _made(
        self, operation: str, body: bytes, caller: Proof, token: Proof, signature: Proof
    ) -> Attack:
        random = self._random
        flaws = [part.flaw for part in (caller, token, signature) if part.flaw]
        is_large = len(body) > BODY_LIMIT
        expected: int | None = 200
        if caller.flaw:
            expected = 403
        elif token.flaw:
            expected = 401
        elif is_large:
            expected = None  # too large, or not, or not stayed for
        elif signature.flaw in AT_THE_HEAD:
            expected = 401
        elif _task_of(operation, body) is None:
            expected = 400
        elif signature.flaw:
            expected = 401
        headers = [*caller.headers, *signature.headers]
        random.shuffle(headers)
        sent = body
        if random.random() < 0.08:
            sent = gzip.compress(body, compresslevel=1, mtime=0)
            headers.append("Content-Encoding: gzip")
        is_chunked = random.random() < 0.2
        return Attack(
            name=f"{self._guard.name}: {', '.join(flaws) or 'right'}",
            request=make_request(
                sent,
                path=f"/callbacks/{operation}{token.target}",
                headers=headers,
                chunks=[random.choice((100, 4096, 70_000))] if is_chunked else None,
            ),
            key=None if flaws or expected == 400 else key_of(operation, body),
            expected=expected,
            ends=is_large,
        )

    # -- the caller's address ----------------------------------------------------------

    def _caller(self, *, is_right: bool) -> Proof:
        random = self._random
        if not self._guard.believes_us:
            anything = _forwarded(random.choice((*_GOOD_CALLERS, *_BAD_CALLERS)))
            return Proof("", (anything,) if random.random() < 0.3 else ())
        good, proxy = random.choice(_GOOD_CALLERS), f"10.0.0.{random.randrange(256)}"
        claimed = random.choice((*_GOOD_CALLERS, *_BAD_CALLERS))
        if is_right:
            return Proof("", self._chain(claimed, good, proxy))
        bad = random.choice(_BAD_CALLERS)
        flaws: tuple[tuple[str, tuple[str, ...]], ...] = (
            ("no caller", ()),
            ("proxies alone", (_forwarded(f"{proxy}, 127.0.0.1"),)),
            ("caller", self._chain(claimed, bad, proxy)),
            ("caller behind a claim", (_forwarded(f"{good}, {bad}"),)),
            ("two headers", (f"{FORWARDED}: {good}\r\n{FORWARDED}: {bad}",)),
            ("many hops", (_forwarded(", ".join([good] + [proxy] * MANY_HOPS)),)),
        )
        flaw, written = random.choice(flaws)
        return Proof(flaw, written)

    def _chain(self, claimed: str, caller: str, proxy: str) -> tuple[str, ...]:
        """Write a caller, with a claim before it and proxies behind it, or without."""
        before = f"{claimed}, " if self._random.random() < 0.3 else ""
        behind = f", {proxy}" * self._random.choice((0, 0, 1, 3))
        return (_forwarded(f"{before}{caller}{behind}"),)

    # -- the token ---------------------------------------------------------------------

    def _token(self, operation: str, *, is_right: bool) -> Proof:
        random = self._random
        good = random.choice(tokens_of(operation))
        if is_right:
            escaped = "".join(f"%{ord(one):02X}" for one in good)
            places = (f"/{good}", f"/{good}", f"?token={good}", f"/{escaped}")
            return Proof("", target=random.choice((*places, f"/?a=b&token={escaped}")))
        at = random.randrange(len(good))
        other = TOKENS[0] if tokens_of(operation) is OWN_TOKENS else OWN_TOKENS[0]
        flaw, target = random.choice(
            (
                ("no token", random.choice(("", "/", "?token=", "?Token=" + good))),
                ("another's token", f"/{other}"),
                ("token in other case", f"/{good.swapcase()}"),
                ("token cut", f"/{good[:at]}"),
                ("token begun late", f"/{good[at + 1 :]}"),
                (
                    "token with more",
                    f"/{good}{random.choice(('x', '/', '%00', '%FF'))}",
                ),
                ("token changed", f"/{good[:at]}*{good[at + 1 :]}"),
                ("token long", f"/{good * random.choice((2, 100))}"),
                ("all tokens", f"/{'%2C'.join(TOKENS + OWN_TOKENS)}"),
                ("a key as token", f"/{random.choice(KEYS)}"),
                ("token escaped twice", f"/{good.replace('-', '%252D')}"),
                ("wrong one first", f"/x?token={good}"),
                ("wrong query first", f"?token=x&token={good}"),
            )
        )
        return Proof(flaw, target=target)

    # -- the signature -----------------------------------------------------------------

    def _signature(self, operation: str, body: bytes, *, is_right: bool) -> Proof:
        random = self._random
        task_id = _task_of(operation, body) or "none"
        stamp = str(int(self._now()) + random.randint(-NEAR_SECONDS, NEAR_SECONDS))
        key = random.choice(KEYS)
        good = random.choice(self._sign(key, task_id, stamp, body))
        if is_right:
            return Proof("", self._signed(stamp, good))
        flaws = [self._wrong_text, self._wrong_key_or_content]
        if self._guard.scheme != "body":
            flaws.append(self._wrong_time)
        return random.choice(flaws)(key, task_id, stamp, body)

    def _wrong_text(self, key: str, task_id: str, stamp: str, body: bytes) -> Proof:
        """Write the right signature wrongly."""
        random = self._random
        good = random.choice(self._sign(key, task_id, stamp, body))
        at = random.randrange(len(good))
        junk = "".join(random.choices(_JUNK, k=random.choice((1, 64, 3000))))
        wrong = misspellings(self._guard.scheme, key, task_id, stamp, body)
        flaw, text = random.choice(
            (
                ("no signature", None),
                ("empty signature", ""),
                ("signature cut", good[:-1][:at]),
                ("signature with more", good + random.choice(("=", "0", "," + good))),
                ("signature changed", f"{good[:at]}!{good[at + 1 :]}"),
                ("signature misspelt", random.choice(wrong)),
                ("junk for a signature", junk),
                ("the key for a signature", key),
            )
        )
        headers = self._signed(stamp, text)
        if text is not None and random.random() < 0.1:
            # The right one after it, in one string so that they keep their order.
            headers = (*headers[:-1], f"{headers[-1]}\r\n{self._header}: {good}")
        return Proof(flaw, headers)

    def _wrong_key_or_content(
        self, key: str, task_id: str, stamp: str, body: bytes
    ) -> Proof:
        """Sign something else, or with something else."""
        random = self._random
        other = random.choice((key[:-1], key + " ", key.upper(), TOKENS[0], "x"))
        if random.random() < 0.5:
            good = random.choice(self._sign(other, task_id, stamp, body))
            return Proof("another key", self._signed(stamp, good))
        changed = random.choice((body + b" ", b" " + body, body[:-1], b""))
        named = random.choice((task_id + "x", task_id[:-1], "", f"{task_id}.{stamp}"))
        good = random.choice(self._sign(key, named, stamp, changed))
        return Proof("another callback's", self._signed(stamp, good))

    def _wrong_time(self, key: str, task_id: str, stamp: str, body: bytes) -> Proof:
        """Say another time than the signed one, or sign one that is not taken."""
        random = self._random
        far = random.choice((-1, 1)) * random.randint(FAR_SECONDS, 10**6)
        odd = random.choice(_ODD_TIMES).format(stamp, stamp)
        digits = stamp.translate(_OTHER_DIGITS)
        flaw, said, signed = random.choice(
            (
                ("another time", str(int(stamp) - 1), stamp),
                ("no time", None, stamp),
                ("time far away", str(int(stamp) + far), str(int(stamp) + far)),
                ("odd time", odd, odd),
                # As the bytes of UTF-8 look like to who writes headers.
                ("other digits", digits.encode().decode("latin-1"), digits),
            )
        )
        good = random.choice(self._sign(key, task_id, signed, body))
        return Proof(flaw, self._signed(said, good))

    def _sign(self, key: str, task_id: str, stamp: str, body: bytes) -> tuple[str, ...]:
        return spellings(self._guard.scheme, key, task_id, stamp, body)

    @property
    def _header(self) -> str:
        is_body = self._guard.scheme == "body"
        return "X-Signature" if is_body else "X-Webhook-Signature"

    def _signed(self, stamp: str | None, signature: str | None) -> tuple[str, ...]:
        """Write the headers; the signature is the last one."""
        headers = []
        if self._guard.scheme != "body" and stamp is not None:
            headers.append(f"X-Webhook-Timestamp: {stamp}")
        if signature is not None:
            headers.append(f"{self._header}: {signature}")
        return tuple(headers)


def _forwarded(hops: str) -> str:
    return f"{FORWARDED}: {hops}"


def _task_of(operation: str, body: bytes) -> str | None:
    """Give the task that a callback takes effect on; ``None``: it is no callback."""
    try:
        return peek(body, operation).task_id
    except Unreadable:
        return None
