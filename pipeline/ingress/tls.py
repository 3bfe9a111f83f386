"""TLS of the ingress itself, with a certificate that can be renewed while it runs.

A new certificate is loaded beside the old one and takes its place only if it is whole
and fits its key; connections that are open keep theirs.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeAlias

from pipeline.errors import ConfigurationError
from pipeline.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import timedelta
    from pathlib import Path

    from pipeline.settings import TlsSettings

log = get_logger("ingress")

#: What tells that a file is another one than before.
Stamp: TypeAlias = tuple[tuple[int, int, int], ...]


class Certificate:
    """A certificate and its key, in files that are looked at again and again.

    Args:
        certificate_file: PEM, the certificate first and then those above it.
        key_file: PEM, without a password; may be the same file.
        check_interval: how often the files are looked at.

    Raises:
        ConfigurationError: they cannot be read, or do not belong together.
    """

    def __init__(
        self, certificate_file: Path, key_file: Path, *, check_interval: timedelta
    ) -> None:
        self._files = (certificate_file, key_file)
        self._interval_seconds = check_interval.total_seconds()
        self._stamp = self._look()
        self._current = self._load()
        #: For the server: hands every new connection to the newest certificate.
        self.context = self._load()
        self.context.sni_callback = self._choose

    def reload(self) -> bool:
        """Take what is in the files now, if it is new; tell whether it was taken."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self._current = self._load()
        except ConfigurationError as error:
            log.warning("certificate_not_reloaded", error=str(error))
            return False
        log.info("certificate_reloaded", file=str(self._files[0]))
        return True

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Reload whenever the files change, while the context is open."""
        watching = asyncio.create_task(self._watch(), name="watch certificate")
        try:
            yield
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._interval_seconds)
            await asyncio.to_thread(self.reload)

    def _choose(self, connection: ssl.SSLObject, *_: object) -> None:
        # Called for every handshake, whether the client names a host or not.
        connection.context = self._current

    def _look(self) -> Stamp:
        """Note what tells of a change; links are followed, a missing file is zeros."""
        return tuple(_stamp(path) for path in self._files)

    def _load(self) -> ssl.SSLContext:
        certificate, key = self._files
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        try:
            # Without an answer to that, OpenSSL would ask for a password on the
            # terminal.
            context.load_cert_chain(certificate, key, password=lambda: "")
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            message = (
                "ingress.tls: expected a certificate and its key without a password,"
                f" got {certificate} and {key}: {reason}"
            )
            raise ConfigurationError(message) from error
        return context


def certificate_of(settings: TlsSettings) -> Certificate | None:
    """Load the certificate that the settings name; ``None``: they name none.

    Raises:
        ConfigurationError: it cannot be used.
    """
    if settings.certificate_file is None:
        return None
    return Certificate(
        settings.certificate_file,
        settings.key_file or settings.certificate_file,
        check_interval=settings.check_interval,
    )


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)
