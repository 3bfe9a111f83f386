"""What a demo is asked for, and the settings that it runs with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from pipeline.settings import Settings, load_settings

#: Hears everything and always answers 200.
ARCHIVE: Final = "archive"
#: Hears of finished tasks and fails until it is healed.
STUDIO: Final = "studio"
STUDIO_EVENT: Final = "task.complete"

# Short waits: in a demo nobody wants to wait seven hours for a dead letter.
_CONFIG: Final = """\
broker_url = "{broker_url}"
ledger_url = "sqlite:///{place}/ledger.db"
assets_url = "{place}/assets"
subscriptions_file = "{place}/subscriptions.toml"

[broker]
prefix = "{prefix}"
delays = ["200ms", "1s"]

[spool]
path = "{place}/spool.db"

[download]
waits = ["200ms", "1s"]
allow_private_addresses = true  # the simulated provider is on this machine

[notify]
waits = ["200ms", "200ms"]
concurrency = 16
"""

# The same shortness where no callback comes.
_POLLING: Final = """
[provider]
base_url = "{provider_url}"
api_key = "{api_key}"
rate_per_second = 200

[poller]
quiet = "200ms"
interval = "500ms"
give_up_after = "1m"
rate_per_second = 100
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """How large and how fast a demo is."""

    tasks: int = 6
    seed: int = 1
    #: So many callbacks without files instead, as fast as they are taken; 0: none.
    load: int = 0
    #: Whether callbacks come; without them everything is found out by asking.
    callbacks: bool = True
    #: Simulated seconds per real second.
    time_scale: float = 100.0
    #: The longest to wait for everything to settle.
    patience: timedelta = timedelta(seconds=90)
    #: The callback address of an ingress that runs elsewhere, with ``{operation}``;
    #: ``None``: the pipeline runs in this process.
    callback_url: str | None = None
    #: Where the simulated provider and subscribers listen, and under which host
    #: name others reach them.
    host: str = "127.0.0.1"
    public_host: str = "127.0.0.1"
    #: 0 takes free ones.
    provider_port: int = 0
    subscriber_port: int = 0


def polling_config(provider_url: str, api_key: str) -> str:
    """Write the settings by which the provider is asked, in a demo's hurry."""
    return _POLLING.format(provider_url=provider_url, api_key=api_key)


def write_config(
    folder: Path, subscriber_url: str, broker_url: str | None, more: str = ""
) -> Path:
    """Write the configuration of a demo, so that commands can be given it later.

    Args:
        folder: gets the configuration, the list of subscriptions and all data.
        subscriber_url: base address of the simulated subscribers.
        broker_url: another broker than a file in ``folder``.
        more: further settings.

    Returns:
        The configuration file.

    Raises:
        ConfigurationError: the address of the broker is wrong.
    """
    if broker_url is not None:
        # An error in the file would name a file that the user has never seen.
        flags = {"broker_url": broker_url}
        load_settings(file=Path(os.devnull), environ={}, flags=flags)
    subscriptions = folder / "subscriptions.toml"
    subscriptions.write_text(
        _subscription(ARCHIVE, f"{subscriber_url}/{ARCHIVE}", "#")
        + _subscription(STUDIO, f"{subscriber_url}/{STUDIO}", STUDIO_EVENT),
        encoding="utf-8",
    )
    place = folder.resolve()
    config = folder / "pipeline.toml"
    config.write_text(
        _CONFIG.format(
            broker_url=broker_url or f"sqlite:///{place / 'broker.db'}",
            place=place,
            prefix=folder.name.lower(),
        )
        + more,
        encoding="utf-8",
    )
    return config


def demo_settings(config: Path, *, port: int) -> Settings:
    """Load the settings of a demo from its file alone."""
    return load_settings(file=config, environ={}, flags={"ingress.port": port}).settings


def _subscription(name: str, url: str, pattern: str) -> str:
    return (
        f'[[subscriptions]]\nname = "{name}"\nurl = "{url}"\nevents = ["{pattern}"]\n\n'
    )
