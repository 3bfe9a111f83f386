"""From an address such as ``s3://bucket/prefix`` to a client of obstore."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from obstore.store import AzureStore, GCSStore, S3Store

from pipeline.assets.object_errors import FOREIGN, diagnose
from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from datetime import timedelta

    from obstore.store import ObjectStore, RetryConfig

#: No user, no password, no port, no query: credentials do not belong here.
_ADDRESS: Final = re.compile(r"(s3|gs|az)://([\w.-]+)(?:/([^?#@\s]*))?", re.ASCII)
#: Tries after the first one, inside one call: for answers 5xx and cut connections.
RETRIES: Final = 3


def connect(url: str, deadline: timedelta) -> ObjectStore:
    """Make the client for an address; everything else is in the environment.

    Nothing is sent yet. Paths given to the client are relative to the prefix.

    Raises:
        ConfigurationError: it is no such address, or a variable is wrong.
    """
    found = _ADDRESS.fullmatch(url)
    if found is None:
        message = (
            "assets_url: expected s3://bucket/prefix, gs://bucket/prefix or "
            "az://container/prefix and nothing else, got another form; "
            "credentials belong into the environment"
        )
        raise ConfigurationError(message)
    scheme, bucket, path = found.groups()
    prefix = (path or "").strip("/") or None
    retries: RetryConfig = {"max_retries": RETRIES, "retry_timeout": deadline}
    # As a key of the configuration, not among client_options: those would replace
    # what the environment says, such as AWS_ALLOW_HTTP or a proxy.
    # The types of obstore do not list these keys.
    # The whole of a large file may take longer to read back than a call may take.
    limits: Any = {"timeout": "1h", "read_timeout": f"{deadline.total_seconds():g}s"}
    try:
        match scheme:
            case "s3":
                return S3Store(
                    bucket, prefix=prefix, retry_config=retries, config=limits
                )
            case "gs":
                return GCSStore(
                    bucket, prefix=prefix, retry_config=retries, config=limits
                )
            case _:
                return AzureStore(
                    bucket, prefix=prefix, retry_config=retries, config=limits
                )
    except FOREIGN as error:
        message = (
            f"assets_url: expected an environment that {scheme}://{bucket} can be "
            f"used with, got {diagnose(error).text}"
        )
        raise ConfigurationError(message) from None
