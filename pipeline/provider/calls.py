"""Names of calls that are more than one of many operations."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

RECOVERY: Final = "recovery"
VOICE: Final = "voice"
#: The phrase that somebody has to speak before there is a voice.
VOICE_VALIDATE: Final = "voice-validate"
#: What is answered at once, without a task and without a callback.
AT_ONCE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "persona": "/api/v1/generate/generate-persona",
        "timestamped-lyrics": "/api/v1/generate/get-timestamped-lyrics",
        "style": "/api/v1/style/generate",
    }
)
