"""Requests around hostile bodies, each with what may be published because of it."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from random import Random
from typing import Final

from pipeline.provider.callback import OPERATIONS
from tests.corpus.bodies import BODY_LIMIT
from tests.corpus.requests import BODY, EITHER, REFUSED, TAKEN
from tests.fuzz.mutation import Bodies
from tests.http_wire import make_request

#: The operation that the requests of the corpus are for.
CORPUS_OPERATION: Final = "upload-extend"
_METHODS: Final = ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")
_TYPES: Final = (
    *("application/json", "application/json; charset=utf-8", "Application/JSON;x=y"),
    *("application/vnd.api+json", "application/cloudevents+json"),
)
_WRONG_TYPES: Final = ("text/plain", "application/xml", "json", "*/*", "\xff", "")
_CODINGS: Final = ("gzip", "deflate", "br", "zstd", "compress", "gzip, gzip")
_PATHS: Final = (
    "/callbacks/{}/token",
    "/callbacks/{}?a=b&token=%FF%00",
    "/callbacks/{}/%2F..%2F",
    "http://other.example/callbacks/{}",
    "/callbacks/{}//",
)
_NOWHERE: Final = (
    *("/callbacks/none", "/callbacks/%00", "/callbacks/", "/callbacks", "/"),
    *("/callbacks/../callbacks/wav", "/%63allbacks%FF", "/callbacks/wav%20", "//"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One request."""

    #: What kind it is, for reports.
    name: str
    #: All of it, as it is sent.
    request: bytes
    #: What an accepted one puts into the queue; ``None``: it must not be accepted.
    key: bytes | None = None
    #: The only status that is right; ``None``: any that the contract knows.
    expected: int | None = None
    method: str = "POST"
    #: Whether the connection may be of no more use afterwards.
    ends: bool = False


def key_of(operation: str, body: bytes) -> bytes:
    """Name a callback in the queue by its operation and its body, byte for byte."""
    return hashlib.sha256(operation.encode() + b"\0" + body).digest()[:16]


class Attacks:
    """Makes attacks; the same seed gives the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._bodies = Bodies(self._random)
        self._operations = sorted(OPERATIONS)
        corpus = {name: (data, True) for name, data in (TAKEN | EITHER).items()}
        corpus |= {name: (data, False) for name, data in REFUSED.items()}
        self._corpus = list(corpus.items())

    def batch(self) -> list[Attack]:
        """Give requests for one write; only the last may end the connection."""
        made: list[Attack] = []
        for _ in range(self._random.choice((1, 1, 2, 4, 8, 16, 24))):
            made.append(self.make())
            if made[-1].ends:
                break
        return made

    def heavy(self) -> list[Attack]:
        """Give what takes the most memory at a time, each for a write of its own.

        Large bodies, and small ones that are large when they are unpacked.
        """
        operation = self._operations[0]
        path = f"/callbacks/{operation}"
        large = [
            self._framed(body, path, key_of(operation, body))
            for body in self._bodies.large
        ]
        bombs = [
            Attack(name=f"corpus: {name}", request=request, ends=True)
            for name, request in REFUSED.items()
            if "MiB" in name
        ]
        return (large + bombs) * 3

    def make(self) -> Attack:
        """Give the next one."""
        random = self._random
        if random.random() < 0.008:
            return self._from_corpus()
        operation = random.choice(self._operations)
        body = self._bodies.make()
        key = key_of(operation, body)
        path = f"/callbacks/{operation}"
        is_large = len(body) > BODY_LIMIT
        roll = random.random()
        if roll < 0.02:
            wrong = [f"Content-Type: {random.choice(_WRONG_TYPES)}"]
            request = make_request(body, path=path, headers=wrong)
            return Attack(name="type", request=request, ends=is_large)
        if roll < 0.04:
            request = make_request(body, path=random.choice(_NOWHERE))
            return Attack(name="nowhere", request=request, ends=is_large)
        if roll < 0.055:
            method = random.choice(_METHODS)
            request = make_request(body, path=path, method=method)
            return Attack(name="method", request=request, method=method, ends=is_large)
        if roll < 0.08:
            path = random.choice(_PATHS).format(operation)
        return self._framed(body, path, key)

    def _framed(self, body: bytes, path: str, key: bytes) -> Attack:
        random = self._random
        headers = []
        if random.random() < 0.7:
            headers.append(f"Content-Type: {random.choice(_TYPES)}")
        if random.random() < 0.03:
            headers.append("Expect: 100-continue")
        if random.random() < 0.03:
            headers += [f"X-{n}: {'y' * random.randrange(500)}" for n in range(40)]
        roll, ends, name = random.random(), len(body) > BODY_LIMIT, "plain"
        sent, chunks = body, None
        if roll < 0.08:
            name, sent = "gzip", gzip.compress(body, compresslevel=1, mtime=0)
            headers.append("Content-Encoding: gzip")
        elif roll < 0.11:
            name, sent = "deflate", zlib.compress(body, 1)
            headers.append("Content-Encoding: deflate")
        elif roll < 0.115:
            # Called compressed and is not: what it means nobody can say.
            headers.append(f"Content-Encoding: {random.choice(_CODINGS)}")
            name, ends = "lie", True
        if random.random() < 0.2:
            name += ", chunked"
            chunks = [random.choice((1, 7, 100, 4096, 70_000)) for _ in range(5)]
            if len(sent) > 5000:
                chunks = [4096, 70_000]
        if random.random() < 0.003:
            headers.append("Connection: close")
            ends = True
        request = make_request(sent, path=path, headers=headers, chunks=chunks)
        return Attack(name=name, request=request, key=key, ends=ends)

    def _from_corpus(self) -> Attack:
        name, (request, may_be_taken) = self._random.choice(self._corpus)
        key = key_of(CORPUS_OPERATION, BODY) if may_be_taken else None
        return Attack(name=f"corpus: {name}", request=request, key=key, ends=True)
