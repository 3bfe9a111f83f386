"""A short run of ``make fuzz``; the long one is made by hand."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from pipeline.provider.signature import Refusal
from tests.fuzz.accounts import Accounts
from tests.fuzz.attacks import Attack, Attacks, key_of
from tests.fuzz.callers import Callers
from tests.fuzz.forgeries import Forgeries
from tests.fuzz.guards import GUARDS, Guard
from tests.fuzz.memory import Memory
from tests.fuzz.play import parts

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
#: Some seconds on a machine with nothing else to do.
REQUESTS = 3000
#: Whatever can be wrong with a proof.
CAUSES = {cause.value for cause in Refusal}
PROXIES = GUARDS[0]


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *arguments],
        capture_output=True,
        check=False,
        cwd=ROOT,
        text=True,
        timeout=230,
    )


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_hostile_requests_break_no_promise() -> None:
    """Every accepted one is in the queue, no other is, and dedupe takes them all."""
    done = fuzz("--requests", str(REQUESTS), "--seed", "20261125", "--json")

    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    verdict = json.loads(done.stdout)
    assert verdict["ok"]
    assert REQUESTS == verdict["sent"]
    assert verdict["accepted"] > REQUESTS / 3
    assert (0, 0) == (verdict["missing"], verdict["surplus"])
    assert verdict["done"] + verdict["dead_letters"] == verdict["queued"]
    # It says what became of each callback, as it does outside of tests.
    assert verdict["worker_log_lines"] > verdict["queued"]
    assert {"200", "400", "401", "403"} == set(verdict["as_expected"])
    ingresses = verdict["ingresses"]
    assert ["open", *(guard.name for guard in GUARDS)] == list(ingresses)
    assert {"network", *CAUSES} == set(ingresses["proxies"]["refusals"])
    # So few that a seldom cause may be missing.
    assert {"token", "signature_wrong"} <= set(ingresses["body"]["refusals"])
    assert {} == ingresses["open"]["refusals"]


@pytest.mark.parametrize(
    "argument", ["--requests=0", "--requests=9000000", "--connections=0", "--seed=x"]
)
def test_run_without_bounds_is_refused(argument: str) -> None:
    done = fuzz(argument)

    assert done.returncode == 2
    assert "usage" in done.stderr


def test_one_seed_gives_the_same_requests() -> None:
    one, same, other = Attacks(3), Attacks(3), Attacks(4)

    batches = [one.batch() for _ in range(50)]

    assert batches == [same.batch() for _ in range(50)]
    assert batches != [other.batch() for _ in range(50)]


def test_one_seed_gives_the_same_forgeries() -> None:
    """But for the time, which is given here."""
    one, same, other = (Forgeries(seed, PROXIES, lambda: 1.8e9) for seed in (3, 3, 4))

    batches = [one.batch() for _ in range(50)]

    assert batches == [same.batch() for _ in range(50)]
    assert batches != [other.batch() for _ in range(50)]


def test_all_requests_are_divided_among_the_ingresses() -> None:
    whole, few = parts(200_000), parts(3)

    assert [120_000, 50_000, 10_000, 10_000, 10_000] == [count for _, count in whole]
    assert [(None, 3)] == few


# -- what it is there to find -------------------------------------------------------


def answer_of(status: bytes, body: bytes = b"", headers: bytes = b"") -> bytes:
    """Write an answer."""
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    return b"HTTP/1.1 %b\r\n%b%b%b" % (status, headers, length, body)


class Liar:
    """Answers every request with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    async def __call__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve one connection."""
        with suppress(EOFError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.rpartition(b"Content-Length: ")[2].split()[0])
                await reader.readexactly(length)
                writer.write(self._answer)
        writer.close()


@pytest.fixture
def attack() -> Callable[..., Any]:
    """Attacks something that answers as it is told; gives the accounts."""

    class Plain(Attacks):
        """Only requests with a length, one at a time."""

        def batch(self) -> list[Attack]:
            while True:
                made = self.make()
                if made.name == "plain" and not made.ends:
                    return [made]

    class PlainForgeries(Forgeries):
        """The same, with proof, right or forged."""

        def make(self) -> Attack:
            while True:
                made = super().make()
                if b"\r\nContent-Length: " in made.request and not made.ends:
                    return made

        def batch(self) -> list[Attack]:
            return [self.make()]

    async def run(answer: bytes, guard: Guard | None = None) -> Accounts:
        accounts = Accounts()
        attacks = PlainForgeries(1, guard) if guard else Plain(1)
        server = await asyncio.start_server(Liar(answer), "127.0.0.1", 0)
        async with server:
            address = server.sockets[0].getsockname()
            callers = Callers(address, attacks, accounts, total=20, seed=1)
            await callers.run(2, lambda _: None)
        return accounts

    return run


PROBLEM = b"Content-Type: application/problem+json\r\n"
TEAPOT = orjson.dumps(
    {
        "type": "about:blank",
        "title": "I'm a teapot",
        "status": 418,
        "detail": "expected coffee",
        "code": "unreadable",
    }
)
UNAUTHORISED = orjson.dumps(
    {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "expected proof",
        "code": "unauthorised",
    }
)


@pytest.mark.parametrize(
    "answer",
    [
        answer_of(b"200 OK", b"ok"),
        answer_of(b"204 No Content"),
        answer_of(b"500 Internal Server Error"),
        answer_of(b"400 Bad Request", b"bad", b"Content-Type: text/plain\r\n"),
        answer_of(b"418 I'm a teapot", TEAPOT, PROBLEM),
        answer_of(b"200 OK", b"", b"Content-Length: 0\r\n"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"hello\r\n\r\n",
    ],
)
async def test_answer_that_the_contract_does_not_know_is_found(
    attack: Callable[[bytes], Any], answer: bytes
) -> None:
    accounts = await attack(answer)

    assert accounts.violations


async def test_answer_that_the_contract_knows_is_none(
    attack: Callable[[bytes], Any],
) -> None:
    accounts = await attack(answer_of(b"200 OK"))

    assert [] == accounts.violations
    assert 20 == accounts.accepted.total() + accounts.unanswered.total()


async def test_forged_proof_that_is_accepted_is_found(
    attack: Callable[..., Any],
) -> None:
    accounts = await attack(answer_of(b"200 OK"), PROXIES)

    text = "\n".join(accounts.violations)
    assert "expected 401, got 200 accepted" in text
    assert "expected 403, got 200 accepted" in text
    assert accounts.as_expected[200]


async def test_right_proof_that_is_refused_is_found(attack: Callable[..., Any]) -> None:
    accounts = await attack(
        answer_of(b"401 Unauthorized", UNAUTHORISED, PROBLEM), PROXIES
    )

    assert any(
        "proxies: right: expected 200, got 401" in text for text in accounts.violations
    )
    assert accounts.as_expected[401]


def test_callback_that_is_lost_made_up_or_changed_is_found() -> None:
    """By operation and body; what nobody was told of may be there or not."""
    one, two, left = (key_of("wav", body) for body in (b"1", b"2", b"3"))
    accounts = Accounts(accepted=Counter([one, one, two]), unanswered=Counter([left]))

    for found, is_right in (
        ([one, one, two], True),
        ([one, one, two, left], True),
        ([one, two], False),
        ([one, one, two, two], False),
        ([one, one, two, left, left], False),
        ([one, one, key_of("wav", b"2 ")], False),
        ([one, one, key_of("midi", b"2")], False),
    ):
        accounts.violations.clear()
        accounts.compare(Counter(found))
        assert is_right is not bool(accounts.violations)


def test_memory_is_compared_after_warming_up_and_at_the_end() -> None:
    """What it takes to get going does not count; a single peak does not either."""
    flat, leaking = Memory(0), Memory(0)
    for sent in range(100):
        warm = 50 if sent < 20 else 100
        flat.samples.append((sent, (warm + 500 * (sent == 95)) * 2**20))
        leaking.samples.append((sent, (warm + sent) * 2**20))

    assert (100, 100, 0) == flat.growth()
    assert leaking.growth()[2] > 40
