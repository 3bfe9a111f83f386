"""A screen that lines go by on, and what happens when nobody looks at it any more."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator


class Screen:
    """Prints lines as things happen, until their reader has gone.

    They are written in the middle of requests, for which an error would be a failure
    of theirs. So a line that cannot be written raises nothing where it is written: it
    stops the work that ``stopping_with_reader`` is around.
    """

    def __init__(self) -> None:
        self._work: asyncio.Task[object] | None = None
        self._lost: BrokenPipeError | None = None

    def write(self, line: str, colour: str) -> None:
        """Print a line, whatever stands in it."""
        if self._lost is not None:
            return
        try:
            typer.secho(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", line), fg=colour)
        except BrokenPipeError as error:
            self._lost = error
            if self._work is not None:
                self._work.cancel()

    @contextmanager
    def stopping_with_reader(self) -> Iterator[None]:
        """Cancel what is done in here when a line cannot be written.

        Raises:
            BrokenPipeError: it was; the command line ends quietly with it.
        """
        import asyncio

        self._work = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            if self._lost is not None:
                raise self._lost from None
            raise
        finally:
            self._work = None
