"""How large the body of each operation may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pipeline.provider.callback import OPERATIONS

if TYPE_CHECKING:
    from pipeline.settings import IngressSettings

#: Operations whose bodies are large by nature: MIDI has its notes in them.
LARGE_BYTES: Final = {"midi": 2 * 1024 * 1024}


def body_limits(settings: IngressSettings) -> dict[str, int]:
    """Give the most bytes that a body of each operation may have.

    What is set for an operation counts, whatever is set for all. Where nothing is, a
    large operation has its own limit, unless that of all is higher.
    """
    general = int(settings.max_body_bytes)
    usual = {
        operation: max(general, LARGE_BYTES.get(operation, 0))
        for operation in OPERATIONS
    }
    own = settings.operation_max_body_bytes
    return usual | {operation: int(own[operation]) for operation in own}
