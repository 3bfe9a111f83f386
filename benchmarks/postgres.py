"""A private PostgreSQL for benchmarks, and ledgers in it that are full already."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import asyncpg

from pipeline.ledger import open_ledger
from tests.postgres_node import find_program, make_schema, started_server

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Debian's, but for the memory, and for checkpoints, which would come in one round
#: and not in another. The disk is waited for as by default.
CONFIGURATION: Final = """\
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
shared_buffers = 1GB
max_wal_size = 8GB
checkpoint_timeout = 1h
"""


@contextmanager
def postgres_for_benchmarks() -> Iterator[str]:
    """Give the URL of a PostgreSQL: that of the environment, else a private one."""
    if url := os.environ.get("PIPELINE_TEST_POSTGRES_URL"):
        yield url
        return
    find_program("initdb")
    print("starting a private PostgreSQL …", file=sys.stderr)
    with started_server(CONFIGURATION) as node:
        yield node.url


#: How the rows of a ledger that is full are divided: two updates and two files for
#: each task, and bodies as long as those of callbacks with tracks.
_FILL: Final = (
    """
    INSERT INTO tasks SELECT md5('task' || n) AS key, 'upload-extend', 'complete', 200,
        '', 1700000000000 + n, 1700000000000 + n
    FROM generate_series(1, $1::bigint / 5) AS n ORDER BY key
    """,
    """
    INSERT INTO updates SELECT md5('task' || (n + 1) / 2) AS key, md5('event' || n),
        md5('owner' || n), 'complete', 'new', 'callback', 1700000000000 + n,
        '[]', convert_to(repeat(md5('body' || n), 12), 'UTF8')
    FROM generate_series(1, $1::bigint * 2 / 5) AS n ORDER BY key
    """,
    """
    INSERT INTO assets SELECT md5('task' || (n + 1) / 2) AS key, 'track-1',
        CASE n % 2 WHEN 0 THEN 'audio' ELSE 'image' END, 'upload-extend',
        'https://files.example.com/' || n, 1700000000000 + n, 'stored', 16,
        md5('owner' || n), md5('file' || n) || md5('file' || n), 4000000,
        'audio/mpeg', 'sha256/ab/' || md5('file' || n), NULL, 1700000000000 + n
    FROM generate_series(1, $1::bigint * 2 / 5) AS n ORDER BY key
    """,
)


async def make_ledger(url: str, rows: int = 0) -> str:
    """Make a ledger with so many rows in a schema of its own; give its address."""
    place = await make_schema(url)
    async with open_ledger(place):
        pass
    if rows:
        connection = await asyncpg.connect(place)
        try:
            await connection.execute(
                "SET work_mem = '1GB'; SET maintenance_work_mem = '1GB';"
                " SET synchronous_commit = off"
            )
            for statement in _FILL:
                await connection.execute(statement, rows)
            await connection.execute("VACUUM (ANALYZE)")
            await _read_indexes(connection)
        finally:
            await connection.close()
    return place


async def _read_indexes(connection: asyncpg.Connection) -> None:
    """Bring the indexes into memory, where they are after a day of callbacks."""
    try:
        await connection.execute(
            "CREATE EXTENSION IF NOT EXISTS pg_prewarm WITH SCHEMA public"
        )
    except asyncpg.PostgresError as error:
        print(f"indexes are not read ahead: {error}", file=sys.stderr)
        return
    await connection.execute(
        "SELECT public.pg_prewarm(oid) FROM pg_class WHERE relkind = 'i'"
        " AND relnamespace = current_schema()::regnamespace"
    )
