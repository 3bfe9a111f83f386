"""The HTTP service that the provider calls, and where it keeps what it has taken."""

from __future__ import annotations

# pydantic reads these annotations when the classes are made
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    ByteSize,
    Field,
    ValidationInfo,
    field_validator,
)

from pipeline.settings.section import Section
from pipeline.settings.values import (
    Count,
    Duration,
    Hidden,
    Key,
    Network,
    Port,
    Timeout,
    Token,
    between,
    parse_list,
    parse_table,
    refuse_alone,
)

_MIB = 1024 * 1024

#: RabbitMQ 4 takes no message of more than 16 MiB, unless told otherwise.
BodySize = Annotated[ByteSize, Field(ge=1, le=15 * _MIB)]
BodySizes = Annotated[dict[str, BodySize], BeforeValidator(parse_table)]
Tokens = Annotated[tuple[Token, ...], BeforeValidator(parse_list)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(parse_list)]


class SignatureSettings(Section):
    """The provider's signature of a callback."""

    #: What is signed and how: the task's id and the time, the time and the body, or
    #: the body alone. Not given: as the door in use says.
    scheme: Literal["task-and-time", "time-and-body", "body"] = "task-and-time"
    #: Keys of which one must fit; empty: signatures are not checked.
    keys: Annotated[tuple[Key, ...], BeforeValidator(parse_list), Hidden()] = ()
    #: How far the signed time may lie from ours.
    tolerance: Timeout = timedelta(minutes=5)


class TlsSettings(Section):
    """TLS of the ingress itself; without a certificate a proxy has to do it."""

    #: The certificate and those above it, PEM; none: no TLS.
    certificate_file: Path | None = None
    #: Its key, PEM, without a password; none: it is in the same file.
    key_file: Path | None = None
    #: How often the files are looked at for a change.
    check_interval: Annotated[Duration, between(timedelta(milliseconds=10))] = (
        timedelta(seconds=10)
    )

    @field_validator("key_file")
    @classmethod
    def _has_a_certificate(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None and info.data.get("certificate_file") is None:
            refuse_alone("certificate_file")
        return path


class IngressSettings(Section):
    """The HTTP service that the provider calls."""

    #: Address to listen on.
    host: str = Field("127.0.0.1", min_length=1)
    #: Port to listen on; 0 takes a free one.
    port: Port = 8080
    #: Larger bodies are answered 413.
    max_body_bytes: BodySize = ByteSize(_MIB)
    #: The same for single operations, by their name; ``midi`` has 2 MiB without it.
    operation_max_body_bytes: BodySizes = Field(default_factory=dict)
    #: What bodies that have to be waited for may have together; more are answered
    #: 503. At least as much as the largest one.
    max_total_body_bytes: Annotated[ByteSize, Field(ge=1)] = ByteSize(128 * _MIB)
    #: The longest that a client may take to send its body.
    body_timeout: Timeout = timedelta(seconds=8)
    #: The longest to wait for the broker's confirm; then the spool has to do.
    publish_timeout: Timeout = timedelta(seconds=2)
    #: Secrets of which one must end the address, of 16 characters or more; empty:
    #: everybody may post.
    tokens: Annotated[tuple[Token, ...], BeforeValidator(parse_list), Hidden()] = ()
    #: Secrets of single operations, by their name, instead of those above. With any
    #: in here, an operation without a secret is closed.
    operation_tokens: Annotated[
        dict[str, Tokens], BeforeValidator(parse_table), Hidden()
    ] = Field(default_factory=dict)
    #: Networks that callbacks are taken from; empty: from everywhere.
    networks: Networks = ()
    #: Networks that may see health and metrics; empty: all.
    health_networks: Networks = ()
    #: Proxies whose ``X-Forwarded-For`` is believed.
    trusted_proxies: Networks = ()
    #: Callbacks that one address may send in a second; none: any number.
    rate_per_second: Annotated[float, Field(gt=0, le=100_000)] | None = None
    #: Callbacks that one address may send at once before that counts.
    rate_burst: Count = 50
    #: Callbacks in progress at the same time; more are answered 503.
    max_requests: Count = 500
    #: Connections at the same time; more are closed.
    max_connections: Count = 1000
    #: Those of one address, unless it is a trusted proxy's; none: three quarters.
    max_connections_per_address: Count | None = None
    #: The provider's signature.
    signature: SignatureSettings = SignatureSettings()
    #: TLS without a proxy.
    tls: TlsSettings = TlsSettings()


class SpoolSettings(Section):
    """Where the ingress keeps callbacks while the broker takes none."""

    #: Whether there is one; none: with RabbitMQ there is, and with an embedded broker
    #: there is not, because that is a file on this machine as well. What the file
    #: holds is forwarded in any case.
    enabled: bool | None = None
    #: The file, on a local disk that outlives the process; of one pipeline alone.
    path: Path = Path("data/spool.db")
    #: With more than this in it nothing more is taken.
    max_bytes: Annotated[ByteSize, Field(ge=_MIB)] = ByteSize(4 * 1024 * _MIB)
    #: With less room than this on its disk nothing more is taken.
    min_free_bytes: Annotated[ByteSize, Field(ge=0)] = ByteSize(512 * _MIB)
    #: Where the oldest has waited longer than this nothing more is taken.
    max_age: Timeout = timedelta(days=7)
    #: The longest to wait until a callback is on the disk; then the answer is 503.
    timeout: Timeout = timedelta(seconds=2)
