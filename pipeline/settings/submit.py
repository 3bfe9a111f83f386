"""How tasks are submitted, what is looked at before, and who may ask for it."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Self

from pydantic import BeforeValidator, ByteSize, Field, model_validator

from pipeline.settings.section import Section
from pipeline.settings.values import (
    Hidden,
    Port,
    Timeout,
    Token,
    Waits,
    parse_list,
    refuse_alone,
)

_MIB = 1024 * 1024


class SubmitSettings(Section):
    """Submitting tasks to the provider."""

    #: Fetch the source audio and decode it before it is submitted.
    check_source: bool = True
    #: Larger source files are refused.
    max_source_bytes: Annotated[ByteSize, Field(ge=1)] = ByteSize(200 * _MIB)
    #: The longest for fetching one source file.
    source_timeout: Timeout = timedelta(minutes=2)
    #: Take links that lead to loopback and private addresses, and without TLS; only
    #: for a provider simulated on this machine.
    allow_private_addresses: bool = False
    #: The longest to wait for the answer to a submission.
    timeout: Timeout = timedelta(seconds=60)
    #: The waits before a submission that is refused for the moment is sent again.
    waits: Waits = tuple(timedelta(seconds=seconds) for seconds in (2, 10, 30))


class AdminSettings(Section):
    """The HTTP service that other programs submit tasks at."""

    #: Address to listen on.
    host: str = Field("127.0.0.1", min_length=1)
    #: Port to listen on; none: there is no such service.
    port: Port | None = None
    #: Secrets of which a caller must have one, of 16 characters or more.
    tokens: Annotated[tuple[Token, ...], BeforeValidator(parse_list), Hidden()] = ()
    #: Larger bodies are refused.
    max_body_bytes: Annotated[ByteSize, Field(ge=1)] = ByteSize(256 * 1024)
    #: Submissions in progress at the same time; more are refused.
    max_requests: Annotated[int, Field(ge=1, le=1000)] = 8

    @model_validator(mode="after")
    def _has_tokens(self) -> Self:
        if self.port is not None and not self.tokens:
            refuse_alone("admin.tokens")
        return self
