"""Tracks with titles, lyrics and files, made up from a seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID

from pipeline.simulator.audio import AUDIO_TYPES, AudioFormat, piece_seconds
from pipeline.simulator.picture import PICTURE_TYPES, PictureFormat
from pipeline.simulator.plan import FilePlan, TrackPlan

if TYPE_CHECKING:
    from random import Random

#: Tasks of a plan were created from this moment on, whenever the plan is run: the
#: same seed shall give the same bodies.
CREATED_FROM: Final = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)

#: So many pieces of music are composed; tracks share them, with tags of their own.
PIECES: Final = 12

#: The provider's own names of the models that clients ask for.
UPSTREAM_NAMES: Final = {
    "V4": "chirp-v4",
    "V4_5": "chirp-auk",
    "V4_5PLUS": "chirp-bluejay",
    "V4_5ALL": "chirp-auk-turbo",
    "V5": "chirp-crow",
    "V5_5": "chirp-fenix",
}

_OF_WHAT: Final = ("Paper", "Harbour", "Velvet", "Copper", "Winter", "Glass", "Río")
_WHAT: Final = ("Lanterns", "Tides", "Sparrows", "Engine", "Étude", "Orchard", "Maps")
_TAGS: Final = ("lo-fi", "piano", "indie folk", "synthwave", "bossa nova", "ambient")
_LINES: Final = (
    "Slow light over the water",
    "We counted the windows again",
    "Nobody told the river to wait",
    "A train goes by and takes the rain",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Formats:
    """How the files of a run are encoded."""

    audio: AudioFormat
    picture: PictureFormat


def make_tracks(
    chance: Random, *, count: int, model: str, created_at: datetime, formats: Formats
) -> tuple[TrackPlan, ...]:
    """Make up the tracks of one task: the same song, each time played otherwise."""
    title = f"{chance.choice(_OF_WHAT)} {chance.choice(_WHAT)}"
    tags = ", ".join(chance.sample(_TAGS, 2))
    prompt = "\n".join(["[Verse]", *chance.sample(_LINES, 3)])
    tracks = []
    for _ in range(count):
        audio_id = str(UUID(int=chance.getrandbits(128), version=4))
        audio = _audio_file(chance, audio_id, title, formats.audio)
        tracks.append(
            TrackPlan(
                audio_id=audio_id,
                title=title,
                tags=tags,
                prompt=prompt,
                model_name=UPSTREAM_NAMES.get(model, "chirp-v4"),
                duration_seconds=round(piece_seconds(audio.seed), 2),
                created_at=created_at,
                audio=audio,
                image=_image_file(chance, audio_id, title, formats.picture),
                stream_path=f"/stream/{audio_id}",
            )
        )
    return tuple(tracks)


def in_format(file: FilePlan, audio_format: AudioFormat) -> FilePlan:
    """Give the same piece of music in another format."""
    stem = file.path.rpartition(".")[0]
    return replace(
        file,
        path=f"{stem}.{audio_format}",
        file_format=audio_format,
        content_type=AUDIO_TYPES[audio_format],
    )


def with_spaces(file: FilePlan) -> FilePlan:
    """Give the same file under an address that holds the title, spaces and all."""
    stem, _, suffix = file.path.rpartition(".")
    return replace(file, path=f"{stem}/{file.title}.{suffix}")


def _audio_file(
    chance: Random, audio_id: str, title: str, audio_format: AudioFormat
) -> FilePlan:
    return FilePlan(
        path=f"/files/{audio_id}.{audio_format}",
        kind="audio",
        file_format=audio_format,
        seed=chance.randrange(PIECES),
        title=title,
        comment=audio_id,
        content_type=AUDIO_TYPES[audio_format],
    )


def _image_file(
    chance: Random, audio_id: str, title: str, picture_format: PictureFormat
) -> FilePlan:
    return FilePlan(
        path=f"/files/{audio_id}.{picture_format}",
        kind="image",
        file_format=picture_format,
        seed=chance.getrandbits(32),
        title=title,
        comment=audio_id,
        content_type=PICTURE_TYPES[picture_format],
    )
