"""What can be submitted, one model for each operation, in the provider's words.

Names and bounds are from the provider's pages. A model of the provider's is any text,
because new ones arrive at any time; a field that is newer than this program goes into
``extra``, because a misspelt one would be paid for. The callback address is not among
the fields: whoever submits puts it there.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import (
    AliasChoices,
    AliasGenerator,
    BaseModel,
    ConfigDict,
    Field,
)
from pydantic.alias_generators import to_camel

from pipeline.provider.calls import RECOVERY, VOICE, VOICE_VALIDATE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.message import JSONValue

#: From 0 to 1; the provider takes steps of 0.01.
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
#: Seconds from the beginning.
Seconds: TypeAlias = Annotated[float, Field(ge=0)]
Text: TypeAlias = Annotated[str, Field(min_length=1)]


def _either(name: str) -> AliasChoices:
    return AliasChoices(to_camel(name), name)


class Request(BaseModel):
    """What one task is submitted with. Numbers and flags may come as text."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        alias_generator=AliasGenerator(
            validation_alias=_either, serialization_alias=to_camel
        ),
        # A model is called "model" there.
        protected_namespaces=(),
    )

    #: The operation's name.
    operation: ClassVar[str]
    #: Fields with links to source audio.
    links: ClassVar[tuple[str, ...]] = ()

    #: Fields that are not known here, passed on as they are.
    extra: dict[str, Any] = Field(default_factory=dict)

    def fields(self) -> dict[str, JSONValue]:
        """Give what is sent, in the provider's spelling."""
        known = self.model_dump(by_alias=True, exclude_none=True, exclude={"extra"})
        return known | self.extra

    @property
    def sources(self) -> tuple[str, ...]:
        """The links to source audio."""
        found: list[str] = []
        for name in self.links:
            link = getattr(self, name)
            found += [link] if isinstance(link, str) else link
        return tuple(found)


class Music(Request):
    """What all that make music have in common."""

    #: Such as ``V5``; it must fit the source where there is one.
    model: Text
    #: Lyrics in custom mode, else what they are made from.
    prompt: str | None = None
    style: str | None = None
    title: str | None = None
    #: Without lyrics.
    instrumental: bool = False
    #: Styles to avoid.
    negative_tags: str | None = None
    vocal_gender: Literal["m", "f"] | None = None
    style_weight: Share | None = None
    weirdness_constraint: Share | None = None
    audio_weight: Share | None = None
    persona_id: str | None = None
    persona_model: str | None = None
    #: These three for ``V6`` and later.
    lyrics: str | None = None
    tags: str | None = None
    variety: Annotated[float, Field(ge=0, le=4)] | None = None


class _Extension(Music):
    """Music that goes on where other music stops."""

    #: Custom mode: style, title and prompt are ours. Unless it is said, it is on
    #: where there is a style or a title.
    default_param_flag: bool | None = None

    def fields(self) -> dict[str, JSONValue]:
        """Give what is sent; whether it is custom mode is always said."""
        return super().fields() | {"defaultParamFlag": self.is_custom}

    @property
    def is_custom(self) -> bool:
        """Whether style, title and prompt are ours."""
        given = self.default_param_flag
        return bool(self.style or self.title) if given is None else given


class _Song(Music):
    """Music from words."""

    #: As ``default_param_flag`` of the others.
    custom_mode: bool | None = None

    def fields(self) -> dict[str, JSONValue]:
        """Give what is sent; whether it is custom mode is always said."""
        return super().fields() | {"customMode": self.is_custom}

    @property
    def is_custom(self) -> bool:
        """Whether style, title and prompt are ours."""
        given = self.custom_mode
        return bool(self.style or self.title) if given is None else given


class UploadExtend(_Extension):
    """Goes on where uploaded audio stops."""

    operation = "upload-extend"
    links = ("upload_url",)

    upload_url: Text
    #: Seconds into the source. The doors disagree on whether it is always needed, so
    #: it always is.
    continue_at: Annotated[float, Field(gt=0)]


class Extend(_Extension):
    """Goes on where a track of the provider's stops."""

    operation = "extend"

    audio_id: Text
    continue_at: Annotated[float, Field(gt=0)] | None = None


class Generate(_Song):
    """Makes music from words alone."""

    operation = "generate"


class UploadCover(_Song):
    """Plays uploaded audio in another style."""

    operation = "upload-cover"
    links = ("upload_url",)

    upload_url: Text


class Mashup(_Song):
    """Makes one piece of two."""

    operation = "mashup"
    links = ("upload_url_list",)

    upload_url_list: Annotated[tuple[Text, ...], Field(min_length=2, max_length=2)]


class AddInstrumental(Music):
    """Accompanies uploaded singing."""

    operation = "add-instrumental"
    links = ("upload_url",)

    upload_url: Text
    title: Text
    tags: Text
    negative_tags: Text


class AddVocals(Music):
    """Sings to uploaded music."""

    operation = "add-vocals"
    links = ("upload_url",)

    upload_url: Text
    prompt: Text
    title: Text
    style: Text
    negative_tags: Text


class Sounds(Music):
    """Makes sounds from words."""

    operation = "sounds"

    prompt: Text


class ReplaceSection(Request):
    """Makes a part of a track anew."""

    operation = "replace-section"

    task_id: Text
    audio_id: Text
    prompt: Text
    tags: Text
    title: Text
    infill_start_s: Seconds
    infill_end_s: Seconds
    negative_tags: str | None = None
    full_lyrics: str | None = None


class Lyrics(Request):
    """Writes lyrics."""

    operation = "lyrics"

    prompt: Text


class Wav(Request):
    """Gives a track as WAV."""

    operation = "wav"

    task_id: Text
    audio_id: Text


class VocalRemoval(Request):
    """Separates a track into voice and accompaniment, or into stems."""

    operation = "vocal-removal"

    task_id: Text
    audio_id: Text
    #: ``separate_vocal``, ``split_stem``, and what comes.
    type: str | None = None


class Midi(Request):
    """Writes the notes of a separated track."""

    operation = "midi"

    #: Of the separation.
    task_id: Text
    audio_id: str | None = None


class MusicVideo(Request):
    """Makes a video of a track."""

    operation = "music-video"

    task_id: Text
    audio_id: Text
    author: str | None = None
    domain_name: str | None = None


class CoverImage(Request):
    """Paints a cover for a task."""

    operation = "cover-image"

    parent_task_id: Text


class VoiceValidate(Request):
    """Makes the phrase that a person has to sing."""

    operation = VOICE_VALIDATE
    links = ("voice_url",)

    voice_url: Text
    vocal_start_s: Seconds
    vocal_end_s: Seconds
    language: str | None = None


class Voice(Request):
    """Makes a voice of a sung phrase."""

    operation = VOICE
    links = ("verify_url",)

    #: Of the phrase.
    task_id: Text
    verify_url: Text
    voice_name: str | None = None
    description: str | None = None
    style: str | None = None
    singer_skill_level: str | None = None


class Recovery(Request):
    """Makes lost files of a task anew."""

    operation = RECOVERY

    task_id: Text


#: Every kind of request, by its operation.
REQUESTS: Final[Mapping[str, type[Request]]] = MappingProxyType(
    {
        kind.operation: kind
        for kind in (
            UploadExtend,
            Generate,
            Extend,
            UploadCover,
            AddInstrumental,
            AddVocals,
            Mashup,
            Sounds,
            ReplaceSection,
            Lyrics,
            Wav,
            VocalRemoval,
            Midi,
            MusicVideo,
            CoverImage,
            VoiceValidate,
            Voice,
            Recovery,
        )
    }
)
