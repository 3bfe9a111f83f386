"""Which secrets of the callback address open which operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.provider.callback import OPERATIONS

if TYPE_CHECKING:
    from pipeline.settings import IngressSettings


def tokens_by_operation(settings: IngressSettings) -> dict[str, tuple[bytes, ...]]:
    """Give the tokens that open each operation; empty: nothing asks for one.

    As soon as there is any token, an operation without one is closed.
    """
    if not settings.tokens and not settings.operation_tokens:
        return {}
    chosen = {
        operation: settings.operation_tokens.get(operation, settings.tokens)
        for operation in OPERATIONS
    }
    return {
        operation: tuple(token.get_secret_value().encode() for token in tokens)
        for operation, tokens in chosen.items()
    }
