"""Every setting, its unit, its default and its limits.

What a value means stands here and nowhere else; how values are found in files and
variables is in ``load.py``. Durations are written ``500ms``, ``8s``, ``2m``, ``6h``
or as a number of seconds, sizes as ``1MiB`` or a number of bytes. Relative paths
start at the working directory.
"""

from __future__ import annotations

# pydantic reads these annotations when the classes are made
from datetime import timedelta
from pathlib import Path  # noqa: TC003
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    ByteSize,
    Field,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline.logs import LogFormat  # noqa: TC001
from pipeline.retry import DEFAULT_WAITS, RetryPolicy
from pipeline.settings.door import DoorSettings  # noqa: TC001
from pipeline.settings.doors import built_in_doors
from pipeline.settings.ingress import (
    IngressSettings,
    SpoolSettings,
)
from pipeline.settings.poller import PollerSettings
from pipeline.settings.provider import ProviderSettings
from pipeline.settings.section import Section
from pipeline.settings.submit import AdminSettings, SubmitSettings
from pipeline.settings.values import (
    AssetsUrl,
    BrokerUrl,
    Count,
    Delays,
    Duration,
    HostPattern,
    LedgerUrl,
    Port,
    Size,
    Timeout,
    Waits,
    between,
    parse_list,
    parse_table,
    refuse_unless_below,
)
from pipeline.topology import DEFAULT_DELAYS

if TYPE_CHECKING:
    from pydantic_settings import PydanticBaseSettingsSource

_KIB = 1024
_MIB = 1024 * _KIB

#: Consumers that hold a delivery for 30 minutes are cut off by RabbitMQ.
_LONGEST_DEADLINE = timedelta(minutes=25)
#: Where callbacks come in batches, one may be held for four deadlines: two while it
#: waits behind a batch that hangs and is then handled one by one, two in another.
_LONGEST_BATCH_DEADLINE = timedelta(minutes=6)

Deadline = Annotated[Duration, between(timedelta(milliseconds=1), _LONGEST_DEADLINE)]
BatchDeadline = Annotated[
    Duration, between(timedelta(milliseconds=1), _LONGEST_BATCH_DEADLINE)
]
DoorName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]


class BrokerSettings(Section):
    """The message broker, whichever the URL names."""

    #: Put before every name on the broker; one broker can hold several pipelines.
    prefix: str = Field("pipeline", pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    #: The longest that any call may take before it counts as failed.
    deadline: Timeout = timedelta(seconds=5)
    #: How often an idle connection is proved alive. RabbitMQ only.
    heartbeat: Annotated[Duration, between(timedelta(seconds=1))] = timedelta(
        seconds=15
    )
    #: The delay queues; a retry waits in the shortest that is long enough.
    delays: Delays = DEFAULT_DELAYS


class WorkerSettings(Section):
    """What all workers have in common."""

    #: How many calls of the handler run at the same time.
    concurrency: Count = 8
    #: The longest that one call may take; more counts as a failed attempt.
    deadline: Deadline = timedelta(seconds=30)
    #: The waits between attempts; one attempt more than waits, then dead-lettered.
    waits: Waits = DEFAULT_WAITS

    @property
    def policy(self) -> RetryPolicy:
        """The waits as a retry policy."""
        return RetryPolicy(waits=self.waits)


class DedupeSettings(WorkerSettings):
    """The worker that reads callbacks and drops repeats."""

    #: Batches in progress at the same time.
    concurrency: Count = 2
    #: The longest for one batch; what fails as a whole is then handled one by one.
    deadline: BatchDeadline = timedelta(seconds=30)
    #: The most callbacks in one transaction of the ledger.
    batch_size: Count = 100


class DownloadSettings(WorkerSettings):
    """The worker that fetches files."""

    #: Files fetched at the same time by one process.
    concurrency: Count = 8
    #: Requests of which the one whose link dies first is begun first; fewer where so
    #: many could not be done within 20 minutes. With 1: as they were asked for.
    window: Count = 64
    #: The longest for one file with everything around it.
    deadline: Deadline = timedelta(minutes=6)
    #: The longest for the transfer of one file.
    timeout: Timeout = timedelta(minutes=5)
    #: The longest to wait for a connection.
    connect_timeout: Timeout = timedelta(seconds=10)
    #: The longest to wait for an answer; also the span in which speed is measured.
    read_timeout: Timeout = timedelta(seconds=30)
    #: A transfer that is slower than this over one span is given up.
    min_bytes_per_second: Size = ByteSize(_KIB)
    #: Larger files are refused.
    max_bytes: Size = ByteSize(200 * _MIB)
    #: Hosts that files are fetched from: names, or ``*.`` and the end of names;
    #: empty: every public one.
    hosts: Annotated[tuple[HostPattern, ...], BeforeValidator(parse_list)] = ()
    #: Ports that files are fetched from, where private addresses are not allowed;
    #: empty: all.
    ports: Annotated[tuple[Port, ...], BeforeValidator(parse_list)] = (443,)
    #: Decode each audio file, in a process of its own, before it is told of.
    check_audio: bool = False
    #: How often links of files still to be fetched are looked at for their age.
    link_check_interval: Annotated[Duration, between(timedelta(milliseconds=10))] = (
        timedelta(minutes=1)
    )
    #: Fetch from loopback and private addresses too; only for a provider simulated
    #: on this machine.
    allow_private_addresses: bool = False

    @model_validator(mode="after")
    def _leaves_time(self) -> Self:
        refuse_unless_below(self.timeout, self.deadline)
        return self


class NotifySettings(WorkerSettings):
    """The worker that tells subscribers."""

    #: Requests at the same time to one subscriber.
    concurrency: Count = 4
    #: The longest to wait for a subscriber's answer, unless its entry says other.
    timeout: Timeout = timedelta(seconds=15)

    @model_validator(mode="after")
    def _leaves_time(self) -> Self:
        refuse_unless_below(self.timeout, self.deadline)
        return self

    def with_room_for(self, timeout_seconds: float | None) -> Self:
        """Put off the deadline for a subscriber that may take longer than others."""
        if timeout_seconds is None:
            return self
        needed = timedelta(seconds=timeout_seconds) + (self.deadline - self.timeout)
        return self.model_copy(update={"deadline": max(self.deadline, needed)})


class LogSettings(Section):
    """Logs, written to standard output."""

    #: Lines below this level are left out.
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    #: ``auto`` is text on a terminal and JSON elsewhere.
    format: LogFormat = "auto"


class MetricsSettings(Section):
    """Metrics and health of worker processes; the ingress serves its own."""

    #: Address to listen on.
    host: str = Field("127.0.0.1", min_length=1)
    #: Port of ``/metrics``, ``/healthz`` and ``/readyz``; none: not served.
    port: Port | None = None


class Settings(BaseSettings):
    """All settings. Made by ``load_settings``; tests may make one with keywords.

    Making one with keywords reads no file and no environment variable.
    """

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True
    )

    #: Where messages are kept: ``sqlite:///path`` or ``amqp(s)://user:password@host``.
    broker_url: BrokerUrl = "sqlite:///data/broker.db"
    #: Where is noted what was seen, fetched and delivered: ``sqlite:///path`` or
    #: ``postgresql://user:password@host/database``.
    ledger_url: LedgerUrl = "sqlite:///data/ledger.db"
    #: Where files are kept: a folder, or ``s3://``, ``gs://``, ``az://bucket/prefix``.
    assets_url: AssetsUrl = "data/assets"
    #: The longest for one call of an object store, with the tries that it makes.
    assets_deadline: Timeout = timedelta(seconds=20)
    #: The TOML file that lists subscriptions; none: there are no subscribers.
    subscriptions_file: Path | None = None
    #: How long work in progress may go on after a request to stop.
    drain: Annotated[Duration, between(timedelta(0), timedelta(seconds=25))] = (
        timedelta(seconds=20)
    )
    #: The doors to the provider, by name: those that come with us, and others.
    doors: Annotated[dict[DoorName, DoorSettings], BeforeValidator(parse_table)] = (
        Field(default_factory=built_in_doors)
    )

    broker: BrokerSettings = BrokerSettings()
    provider: ProviderSettings = ProviderSettings()
    poller: PollerSettings = PollerSettings()
    ingress: IngressSettings = IngressSettings()
    spool: SpoolSettings = SpoolSettings()
    dedupe: DedupeSettings = DedupeSettings()
    download: DownloadSettings = DownloadSettings()
    notify: NotifySettings = NotifySettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    submit: SubmitSettings = SubmitSettings()
    admin: AdminSettings = AdminSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take keywords only; ``load.py`` puts files and variables in their place."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)
