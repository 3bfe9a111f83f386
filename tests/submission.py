"""What it takes to submit: a simulated provider, source audio, settings for both."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.settings import load_settings
from pipeline.simulator import ProviderOptions, SimulatedProvider
from pipeline.simulator.audio import add_tags, compose, encode, piece_seconds
from tests.file_server import FileServer, answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pipeline.settings import Settings

SEED = 3
#: How long the source plays.
SOURCE_SECONDS = piece_seconds(SEED)
TOKEN = "a-token-of-24-characters"


def source_audio() -> bytes:
    """Make audio that can be decoded."""
    return add_tags(encode(compose(SEED), "wav"), "wav", title="Source", comment="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """A provider, and a server with source audio."""

    provider: SimulatedProvider
    files: FileServer
    #: Link to the source.
    link: str
    folder: Path

    def flags(self, **changes: object) -> dict[str, object]:
        """Give settings by dotted key; of ``changes`` two underscores are the dot."""
        given = {
            "provider.door": "sunoapi-org",
            "provider.base_url": self.provider.url,
            "provider.api_key": "simulated-key",
            "provider.callback_url": "http://127.0.0.1:9",
            "submit.allow_private_addresses": True,
            "submit.waits": [],
            "download.allow_private_addresses": True,
            "ingress.tokens": [TOKEN],
            "broker_url": f"sqlite:///{self.folder}/broker.db",
            "ledger_url": f"sqlite:///{self.folder}/ledger.db",
            "assets_url": f"{self.folder}/assets",
        }
        return given | {k.replace("__", "."): v for k, v in changes.items()}

    def settings(self, **changes: object) -> Settings:
        """Make settings."""
        return load_settings(environ={}, flags=self.flags(**changes)).settings

    def fields(self, **changes: Any) -> dict[str, Any]:
        """Give the fields of a good upload-extend."""
        return {"uploadUrl": self.link, "model": "V5", "continueAt": 0.5} | changes


@asynccontextmanager
async def surroundings(folder: Path, **options: Any) -> AsyncIterator[Surroundings]:
    """Start a provider and a server with source audio."""
    chosen = ProviderOptions(**{"time_scale": 1000, **options})
    async with SimulatedProvider(chosen) as provider, FileServer() as files:
        link = files.add("/source.wav", answer(source_audio()))
        yield Surroundings(provider=provider, files=files, link=link, folder=folder)
