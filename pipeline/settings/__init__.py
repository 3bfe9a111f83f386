"""All settings: what there is, where it is read from, how it is shown.

``load_settings`` reads defaults < door in use < TOML file < environment < flags and
reports all mistakes at once; ``Settings`` is what the rest of the package sees.
"""

from pipeline.settings.door import DoorSettings
from pipeline.settings.ingress import (
    IngressSettings,
    SignatureSettings,
    SpoolSettings,
    TlsSettings,
)
from pipeline.settings.keys import leaf_keys, variable
from pipeline.settings.layers import Mistake
from pipeline.settings.load import (
    DEFAULT,
    Loaded,
    find_value,
    load_settings,
    try_settings,
)
from pipeline.settings.model import (
    BrokerSettings,
    DedupeSettings,
    DownloadSettings,
    LogSettings,
    MetricsSettings,
    NotifySettings,
    Settings,
    WorkerSettings,
)
from pipeline.settings.poller import PollerSettings
from pipeline.settings.provider import ProviderSettings
from pipeline.settings.show import Shown, show_settings
from pipeline.settings.submit import AdminSettings, SubmitSettings
from pipeline.settings.values import format_duration, mask_password, parse_duration

__all__ = [
    "DEFAULT",
    "AdminSettings",
    "BrokerSettings",
    "DedupeSettings",
    "DoorSettings",
    "DownloadSettings",
    "IngressSettings",
    "Loaded",
    "LogSettings",
    "MetricsSettings",
    "Mistake",
    "NotifySettings",
    "PollerSettings",
    "ProviderSettings",
    "Settings",
    "Shown",
    "SignatureSettings",
    "SpoolSettings",
    "SubmitSettings",
    "TlsSettings",
    "WorkerSettings",
    "find_value",
    "format_duration",
    "leaf_keys",
    "load_settings",
    "mask_password",
    "parse_duration",
    "show_settings",
    "try_settings",
    "variable",
]
