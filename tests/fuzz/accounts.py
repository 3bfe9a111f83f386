"""What was answered, what lies in the queue, and whether the two agree."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from tests.fuzz.attacks import key_of
from tests.http_wire import OK, WireError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fuzz.attacks import Attack
    from tests.http_wire import Reply

#: More than these are counted, but not shown.
MOST_SHOWN: Final = 20
DEDUPE_QUEUE: Final = "pipeline.v1.dedupe"
DEAD_QUEUE: Final = "pipeline.v1.dead.dedupe"
UNROUTED_QUEUE: Final = "pipeline.v1.unrouted"
SERVER_ERROR: Final = 500


@dataclass(slots=True)
class Accounts:
    """Kept while requests are sent."""

    sent: int = 0
    #: Sent again, because the connection had ended before their answer.
    resent: int = 0
    #: What has been answered 200, by what it puts into the queue.
    accepted: Counter[bytes] = field(default_factory=Counter)
    #: What was sent and not answered: it may be in the queue, or not.
    unanswered: Counter[bytes] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    #: Answers that had to be just that, by their status.
    as_expected: Counter[int] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    more_violations: int = 0

    def violate(self, text: str) -> None:
        """Note what must not be."""
        if len(self.violations) < MOST_SHOWN:
            self.violations.append(text)
        else:
            self.more_violations += 1

    def answered(self, attack: Attack, reply: Reply) -> None:
        """Note an answer, and whether the contract knows it."""
        try:
            reply.check(method=attack.method)
        except WireError as error:
            self.violate(f"{attack.name}: {error}; {attack.request[:300]!r}")
            return
        code = reply.code or ("accepted" if reply.status == OK else "no body")
        self.answers[f"{reply.status} {code}"] += 1
        if reply.status >= SERVER_ERROR:
            self.violate(f"{attack.name}: {reply}; {attack.request[:300]!r}")
            # Whether it was stored all the same is left open.
            self.left(attack)
        if attack.expected == reply.status:
            self.as_expected[reply.status] += 1
        elif attack.expected is not None:
            text = f"expected {attack.expected}, got {reply.status} {code}"
            self.violate(f"{attack.name}: {text}; {attack.request[:600]!r}")
        if reply.status == OK:
            self.kinds[attack.name.partition(":")[0]] += 1
            if attack.key is None:
                self.violate(f"{attack.name}: accepted: {attack.request[:300]!r}")
            else:
                self.accepted[attack.key] += 1

    def left(self, attack: Attack) -> None:
        """Note that nobody waited for an answer, or none came."""
        if attack.key is not None:
            self.unanswered[attack.key] += 1

    def compare(self, found: Counter[bytes]) -> dict[str, int]:
        """Compare with the queue: what is missing, what is too much there."""
        missing = self.accepted - found
        surplus = found - self.accepted - self.unanswered
        if missing:
            self.violate(f"{missing.total()} accepted callbacks are not in the queue")
        if surplus:
            self.violate(f"{surplus.total()} callbacks in the queue were not accepted")
        return {"missing": missing.total(), "surplus": surplus.total()}


class Queues:
    """Looks into the file of an embedded broker, and changes nothing there."""

    def __init__(self, path: Path) -> None:
        self._address = f"file:{path}?mode=ro"

    def callbacks(self) -> Counter[bytes]:
        """Count the callbacks that wait for dedupe, by operation and body."""
        found: Counter[bytes] = Counter()
        for routing_key, body in self._rows("m.routing_key, m.body", DEDUPE_QUEUE):
            found[key_of(routing_key.split(".")[1], body)] += 1
        return found

    def count(self, queue: str) -> int:
        """Count the messages of a queue."""
        ((number,),) = self._rows("count(*)", queue)
        return int(number)

    def delayed(self) -> int:
        """Count the retries that wait."""
        with closing(self._open()) as connection:
            query = "SELECT count(*) FROM messages WHERE due_at IS NOT NULL"
            return int(connection.execute(query).fetchone()[0])

    def reasons(self) -> Counter[str]:
        """Count the dead letters of dedupe by their reason; an empty one is none."""
        found: Counter[str] = Counter()
        for (headers,) in self._rows("m.headers", DEAD_QUEUE):
            fields = orjson.loads(headers)
            kind, text = fields.get("error-type", ""), fields.get("error-text", "")
            found[f"{kind}: {text[:80]}" if kind and text else ""] += 1
        return found

    def _rows(self, columns: str, queue: str) -> Iterator[tuple[Any, ...]]:
        query = (
            f"SELECT {columns} FROM messages m JOIN queues q ON q.id = m.queue"
            " WHERE q.name = ?"
        )
        with closing(self._open()) as connection:
            yield from connection.execute(query, (queue,))

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._address, uri=True, timeout=30)
