"""Connections to PostgreSQL: a few of them, each call with a deadline.

The only module that knows which of the library's errors means what.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import asyncpg

from pipeline.errors import ConfigurationError, LedgerError, LedgerUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from datetime import timedelta

T = TypeVar("T")

#: How often a transaction is begun that others got in the way of.
TRIES: Final = 3

_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"

#: How long ``close`` waits for calls and goodbyes.
CLOSE_SECONDS: Final = 5.0

#: What tells of the server, the way to it or other users of it, not of a statement.
#: Also what only somebody with rights on the server can mend: to wait for that costs
#: nothing, and messages do not become dead letters meanwhile.
_UNAVAILABLE: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,
    asyncpg.InternalClientError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedTableError,
)

#: Wrong in the address, as long as nothing has worked yet.
_MISTAKEN: Final = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)

#: Somebody else did the same at the same time: the next try sees it.
_AGAIN: Final = (
    asyncpg.UniqueViolationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
)


class Connections:
    """A pool that connects when it has to, and forgets what was cut off.

    Args:
        url: address of the database, as asyncpg and libpq have it.
        deadline: the longest for one call, waiting for a connection included.
        most: how many connections there are at most.
    """

    def __init__(self, url: str, *, deadline: timedelta, most: int) -> None:
        self._url = url
        self._seconds = deadline.total_seconds()
        self._most = most
        self._pool: Any = None

    async def open(self) -> None:
        """Connect for the first time.

        Raises:
            ConfigurationError: the server knows no such user, password or database,
                or the address cannot be understood.
            LedgerUnavailable: it cannot be reached.
        """
        try:
            pool = await asyncpg.create_pool(
                self._url,
                min_size=0,
                max_size=self._most,
                timeout=self._seconds,
                reset=_leave,
                server_settings=_session(self._seconds),
            )
            self._pool = pool
            await self.call(lambda connection: connection.fetchval("SELECT 1"))
        except LedgerUnavailable as error:
            await self.close()
            if isinstance(error.__cause__, _MISTAKEN):
                message = f"ledger_url: the server refuses it: {error.__cause__}"
                raise ConfigurationError(message) from error
            raise
        except (asyncpg.ClientConfigurationError, ValueError):
            # The error quotes the address, in which the password may stand.
            await self.close()
            message = (
                "ledger_url: expected postgresql://user:password@host:port/database"
                " with options that PostgreSQL knows"
            )
            raise ConfigurationError(message) from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Let calls end for a while, then cut every connection. Idempotent."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await pool.close()
        except (*_UNAVAILABLE, asyncpg.InterfaceError):
            pool.terminate()

    async def call(
        self, run: Callable[[Any], Awaitable[T]], *, seconds: float | None = None
    ) -> T:
        """Give ``run`` a connection; ``seconds``: another deadline than usual.

        Raises:
            LedgerUnavailable: the server was not reached or did not answer in time.
            LedgerError: it refused the statement.
        """
        pool = self._pool
        if pool is None:
            message = "the ledger is not available: it is not open"
            raise LedgerUnavailable(message)
        with _translated():
            async with asyncio.timeout(seconds or self._seconds):
                connection = await pool.acquire()
                try:
                    return await run(connection)
                except BaseException:
                    # Nobody knows what it was about: the server undoes what was not
                    # committed. To ask it for that could take for ever.
                    connection.terminate()
                    raise
                finally:
                    await pool.release(connection)

    async def transact(
        self,
        run: Callable[[Any], Awaitable[T]],
        *,
        first: str = "",
        seconds: float | None = None,
    ) -> T:
        """Call ``run`` in a transaction, anew if others got in the way.

        Each statement sees what was committed before it, so one that waited for a
        lock is followed by statements that see what its last holder has written.
        ``first`` is one without values that is sent together with the beginning,
        such as one that locks: each question to the server costs batches time.

        Raises:
            LedgerUnavailable: the outcome is unknown.
            LedgerError: a statement was refused; nothing has changed.
        """

        async def transaction(connection: Any) -> T:
            for tries_left in reversed(range(TRIES)):
                try:
                    await connection.execute(f"{_BEGIN};{first}")
                    answer = await run(connection)
                    await connection.execute("COMMIT")
                except _AGAIN:
                    if not tries_left:
                        raise
                    await connection.execute("ROLLBACK")
                else:
                    return answer
            raise AssertionError  # the last try has returned or raised

        return await self.call(transaction, seconds=seconds)


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the library's errors into the ledger's."""
    try:
        yield
    except TimeoutError as error:
        message = "the ledger is not available: no answer from PostgreSQL in time"
        raise LedgerUnavailable(message) from error
    except _UNAVAILABLE as error:
        message = f"the ledger is not available: {type(error).__name__}: {error}"
        raise LedgerUnavailable(message) from error
    except (asyncpg.ClientConfigurationError, asyncpg.UnsupportedClientFeatureError):
        raise
    except asyncpg.InterfaceError as error:
        # Its DataError is of that kind, too, and tells of a value that does not fit.
        if not isinstance(error, ValueError):
            message = f"the ledger is not available: {error}"
            raise LedgerUnavailable(message) from error
        message = f"the ledger refused a value: {error}"
        raise LedgerError(message) from error
    except asyncpg.PostgresError as error:
        message = f"the ledger refused a statement: {type(error).__name__}: {error}"
        raise LedgerError(message) from error


def _session(seconds: float) -> dict[str, str]:
    """Give the server's settings for connections whose calls take so long."""
    milliseconds = str(max(1, round(seconds * 1000)))
    return {
        "application_name": "pipeline",
        # Everything is asked for by its key. The server would scan tables that are
        # small or that it has no statistics of yet, and then keep to that plan while
        # they grow.
        "enable_seqscan": "off",
        # Nobody waits for the answer any longer than that.
        "statement_timeout": milliseconds,
        # The locks of a process that was frozen are free again, and what it goes on
        # to write when it wakes up is refused.
        "idle_in_transaction_session_timeout": milliseconds,
    }


async def _leave(_connection: Any) -> None:
    """Leave a connection as it is: we set nothing that would have to be reset."""
