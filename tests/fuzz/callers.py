"""Callers that send attacks over several connections and keep the accounts."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Final

from tests.http_wire import Caller, WireError, calling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.fuzz.accounts import Accounts
    from tests.fuzz.attacks import Attack, Attacks

#: A caller changes its connection after so many batches at most.
BATCHES_PER_CONNECTION: Final = 50
#: The longest to wait for the answer to a request that may have none.
DOUBTFUL_SECONDS: Final = 1.0
#: The longest to wait for any other answer; reaching it breaks a promise.
ANSWER_SECONDS: Final = 60.0
#: So many batches of a hundred are sent by somebody who does not stay for the answers.
LEAVING_SHARE: Final = 0.004
PIECES_SHARE: Final = 0.25


class Callers:
    """Sends attacks until ``total`` were sent.

    Args:
        address: host and port of the ingress.
        attacks: makes them.
        accounts: are kept here.
        total: how many requests.
        seed: decides how they are cut and who leaves.
        warms_up: begin with what takes the most memory, on all connections at once,
            so that what the process may ever need is seen at the beginning.
    """

    def __init__(
        self,
        address: tuple[str, int],
        attacks: Attacks,
        accounts: Accounts,
        *,
        total: int,
        seed: int,
        warms_up: bool = False,
    ) -> None:
        self._address = address
        self._attacks = attacks
        self._accounts = accounts
        self._total = total
        self._random = Random(seed)
        self._warms_up = warms_up
        self._again: deque[Attack] = deque()

    async def run(self, connections: int, report: Callable[[int], None]) -> None:
        """Send everything over so many connections; ``report`` gets the number sent."""
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(self._call(report))

    async def _call(self, report: Callable[[int], None]) -> None:
        for attack in self._attacks.heavy() if self._warms_up else ():
            async with calling(*self._address) as caller:
                await self._send_batch(caller, [attack])
            report(self._accounts.sent)
        while self._again or self._accounts.sent < self._total:
            async with calling(*self._address) as caller:
                for _ in range(BATCHES_PER_CONNECTION):
                    if self._again:
                        is_open = await self._send_again(caller)
                    elif self._accounts.sent < self._total:
                        is_open = await self._send_next(caller)
                    else:
                        break
                    report(self._accounts.sent)
                    if not is_open:
                        break

    async def _send_next(self, caller: Caller) -> bool:
        batch = self._attacks.batch()[: self._total - self._accounts.sent]
        return await self._send_batch(caller, batch)

    async def _send_batch(self, caller: Caller, batch: Sequence[Attack]) -> bool:
        """Send requests and note their answers; tell whether the connection stays."""
        self._accounts.sent += len(batch)
        if self._random.random() < LEAVING_SHARE:
            await caller.send(b"".join(attack.request for attack in batch))
            for attack in batch:
                self._accounts.left(attack)
            return False
        unanswered = await self._exchange(caller, batch)
        for attack in unanswered:
            self._accounts.left(attack)
        # What ends a connection may go without an answer; what stood before it is
        # sent again, as the provider would do.
        self._again.extend(attack for attack in unanswered if not attack.ends)
        return not unanswered and not batch[-1].ends and not caller.is_closed

    async def _send_again(self, caller: Caller) -> bool:
        """Send one alone, whose connection had ended before its answer."""
        attack = self._again.popleft()
        self._accounts.resent += 1
        if await self._exchange(caller, [attack]):
            self._accounts.left(attack)
            text = f"no answer, also alone: {attack.request[:300]!r}"
            self._accounts.violate(f"{attack.name}: {text}")
            return False
        return not caller.is_closed

    async def _exchange(
        self, caller: Caller, batch: Sequence[Attack]
    ) -> Sequence[Attack]:
        """Send a batch and read its answers; give what was not answered."""
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(self._send(caller, batch))
            unanswered = await self._read(caller, batch)
            if unanswered or batch[-1].ends:
                sending.cancel()
            # Else an answer may have come before the last of its request was sent.
        return unanswered

    async def _send(self, caller: Caller, batch: Sequence[Attack]) -> None:
        data = b"".join(attack.request for attack in batch)
        cuts = [0, len(data)]
        if self._random.random() < PIECES_SHARE:
            cuts += [self._random.randrange(len(data)) for _ in range(4)]
        cuts.sort()
        pieces = [data[a:b] for a, b in pairwise(cuts)]
        try:
            await caller.send(*pieces)
        except ConnectionError:
            # Whether there is an answer is seen by whoever reads.
            return

    async def _read(self, caller: Caller, batch: Sequence[Attack]) -> Sequence[Attack]:
        for number, attack in enumerate(batch):
            within = DOUBTFUL_SECONDS if attack.ends else ANSWER_SECONDS
            try:
                reply = await caller.reply(method=attack.method, within=within)
            except (EOFError, ConnectionError):
                return batch[number:]
            except TimeoutError:
                if not attack.ends:
                    text = f"no answer within {within:g} s: {attack.request[:300]!r}"
                    self._accounts.violate(f"{attack.name}: {text}")
                return batch[number:]
            except WireError as error:
                self._accounts.violate(f"{attack.name}: {error}")
                return batch[number:]
            self._accounts.answered(attack, reply)
            if reply.closes:
                return batch[number + 1 :]
        return ()
