"""The schema in PostgreSQL: which version is there, and what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import asyncpg

from pipeline.errors import ConfigurationError, LedgerMismatch
from pipeline.ledger.migrations import migrations

if TYPE_CHECKING:
    from pipeline.ledger.postgres_connections import Connections

#: Whoever migrates holds this lock; the letters PLGR.
LOCK: Final = 0x504C4752

#: The longest for all that is missing, the wait for others who do it included.
MIGRATION_SECONDS: Final = 600.0

_CREATE_VERSION: Final = "CREATE TABLE ledger_schema (version INTEGER NOT NULL)"

# Read like any table: what to_regclass() says may be remembered from before a lock.
_HAS_VERSION: Final = (
    "SELECT COUNT(*) FROM pg_catalog.pg_tables"
    " WHERE tablename = 'ledger_schema' AND schemaname = current_schema()"
)


def scripts() -> list[str]:
    """Give the scripts as PostgreSQL is to have them.

    Texts are ordered and compared by their bytes, as SQLite does, whatever language
    the database has been made for.
    """
    return [script.replace(" TEXT", ' TEXT COLLATE "C"') for script in migrations()]


async def prepare(connections: Connections, *, must_exist: bool) -> None:
    """Bring the schema up to date; with ``must_exist`` one has to be there.

    Raises:
        ConfigurationError: there is none.
        LedgerMismatch: it is newer than this program, or another program's.
        LedgerUnavailable, LedgerError: it cannot be read or made.
    """
    wanted = scripts()
    version = await connections.call(_read_version)
    if version is None and must_exist:
        message = (
            "ledger_url: expected a ledger that exists, found a database without one;"
            " nothing has run there yet, or it is another place"
        )
        raise ConfigurationError(message)
    if version is not None and version > len(wanted):
        message = (
            f"expected schema version {len(wanted)} or older, found {version} in"
            " PostgreSQL: use the newer version of this program"
        )
        raise LedgerMismatch(message)
    if version == len(wanted):
        return

    async def migrate(connection: Any) -> None:
        await connection.execute("SET LOCAL statement_timeout = 0")
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
        done = await _read_version(connection)
        if done is None:
            await connection.execute(_CREATE_VERSION)
            await connection.execute("INSERT INTO ledger_schema VALUES (0)")
        for script in wanted[done or 0 :]:
            await _apply(connection, script)
        await connection.execute(
            "UPDATE ledger_schema SET version = $1", max(done or 0, len(wanted))
        )

    await connections.transact(migrate, seconds=MIGRATION_SECONDS)


async def _apply(connection: Any, script: str) -> None:
    try:
        await connection.execute(script)
    except asyncpg.DuplicateTableError as error:
        message = (
            f"expected a database of its own for the ledger, found another program's"
            f" table in it: {error}"
        )
        raise LedgerMismatch(message) from error


async def _read_version(connection: Any) -> int | None:
    if not await connection.fetchval(_HAS_VERSION):
        return None
    version: int | None = await connection.fetchval("SELECT version FROM ledger_schema")
    return version
