"""The provider's operations that call back: where they are, and what they bring.

Each has a path to submit it, a path for the details of its tasks, and a family:
operations of one family have bodies of one shape. Paths and fields are those of the
provider's pages; only fields that every one of them asks for are required here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_TRACKS: Final = "/api/v1/generate/record-info"
#: As fields of most operations that work on an earlier track.
_OF_A_TRACK: Final = MappingProxyType({"taskId": str, "audioId": str})


class Family(Enum):
    """Operations whose bodies have one shape."""

    #: Tracks with links, told of at the stages text, first and complete.
    AUDIO = auto()
    #: Texts, no files.
    LYRICS = auto()
    #: One file in WAV.
    WAV = auto()
    #: A file for each stem.
    VOCALS = auto()
    #: Notes in the body, no files.
    MIDI = auto()
    #: One file in MP4.
    VIDEO = auto()
    #: Pictures.
    COVER = auto()
    #: An id, no files.
    VOICE = auto()
    #: A phrase to be sung, no files.
    VALIDATION = auto()
    #: Audio files that had been lost, as a list at ``data``.
    RECOVERY = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation."""

    #: As it stands in callback addresses.
    name: str
    submit_path: str
    details_path: str
    family: Family = Family.AUDIO
    #: Fields that a submission cannot do without, and their types.
    required: Mapping[str, type] = field(default_factory=dict)
    #: Whether the model has to be said.
    needs_model: bool = False
    #: Only its end is told of, no stage before it.
    is_silent_till_end: bool = True


def _audio(name: str, required: Mapping[str, type], *, needs_model: bool) -> Operation:
    suffix = "" if name == "generate" else f"/{name}"
    return Operation(
        name=name,
        submit_path=f"/api/v1/generate{suffix}",
        details_path=_TRACKS,
        required=required,
        needs_model=needs_model,
        # Its page has no other stage.
        is_silent_till_end=name == "replace-section",
    )


def _sibling(
    name: str,
    family: Family,
    path: str,
    required: Mapping[str, type] = MappingProxyType({}),
    *,
    submit: str = "generate",
) -> Operation:
    return Operation(
        name=name,
        submit_path=f"/api/v1/{path}/{submit}".rstrip("/"),
        details_path=f"/api/v1/{path}/record-info",
        family=family,
        required=required,
    )


_ALL: Final = (
    _audio(
        "upload-extend", {"uploadUrl": str, "defaultParamFlag": bool}, needs_model=True
    ),
    _audio("generate", {"customMode": bool, "instrumental": bool}, needs_model=True),
    _audio("extend", {"audioId": str, "defaultParamFlag": bool}, needs_model=True),
    _audio(
        "upload-cover",
        {"uploadUrl": str, "customMode": bool, "instrumental": bool},
        needs_model=True,
    ),
    _audio("add-instrumental", {"uploadUrl": str}, needs_model=False),
    _audio("add-vocals", {"uploadUrl": str, "prompt": str}, needs_model=False),
    _audio("mashup", {"uploadUrlList": list}, needs_model=False),
    _audio("sounds", {"prompt": str}, needs_model=False),
    _audio("replace-section", {**_OF_A_TRACK, "prompt": str}, needs_model=False),
    _sibling("lyrics", Family.LYRICS, "lyrics", {"prompt": str}, submit=""),
    _sibling("wav", Family.WAV, "wav", _OF_A_TRACK),
    _sibling("vocal-removal", Family.VOCALS, "vocal-removal", _OF_A_TRACK),
    _sibling("midi", Family.MIDI, "midi", {"taskId": str}),
    _sibling("music-video", Family.VIDEO, "mp4", _OF_A_TRACK),
    _sibling("cover-image", Family.COVER, "suno/cover"),
    _sibling("voice", Family.VOICE, "voice"),
    Operation(
        name="voice-validate",
        submit_path="/api/v1/voice/validate",
        details_path="/api/v1/voice/validate-info",
        family=Family.VALIDATION,
    ),
    _sibling("recovery", Family.RECOVERY, "suno/recovery", submit=""),
)

#: Every operation by its name.
BY_NAME: Final[Mapping[str, Operation]] = MappingProxyType(
    {operation.name: operation for operation in _ALL}
)
#: Their names.
OPERATIONS: Final = tuple(BY_NAME)


def family_of(operation: str) -> Family:
    """Give the family of an operation; one that is not known is like audio."""
    known = BY_NAME.get(operation)
    return Family.AUDIO if known is None else known.family
