"""Where each operation's results are in its bodies, as tracks with links.

One reader for a family of bodies. A reader gets parsed JSON of any shape and never
raises. Callback and details answer of one operation go through the same reader:
names in snake_case and camelCase mean the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from pipeline.provider.fields import (
    fold,
    is_failed,
    read_link,
    read_mapping,
    read_number,
    read_text,
    read_time,
    read_track_id,
)
from pipeline.provider.stages import STREAMING
from pipeline.task import Track

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipeline.message import JSONValue

Content: TypeAlias = dict[str, "JSONValue"]
#: Reads the tracks of a body; gets the body and its ``data``.
TrackReader: TypeAlias = Callable[[Content, Content], list[Track]]

AUDIO: Final = "audio"
IMAGE: Final = "image"
VIDEO: Final = "video"

#: Tracks beyond this are left out: no operation makes nearly as many.
TRACK_LIMIT: Final = 100
#: Longer texts about one track are cut.
ERROR_LIMIT: Final = 500
#: Files of one track beyond this are left out.
LINKS_LIMIT: Final = 50

_LINK_SUFFIX: Final = "_url"
_HUMP: Final = re.compile(r"(?<=[a-z0-9])([A-Z])")
#: The only track of a task. Not named by what it was made from: callbacks and details
#: answers do not both say that.
_ONLY: Final = "track-1"
_NO_SLUG: Final = re.compile(r"[^a-z0-9]+")
_KIND_LIMIT: Final = 40


def no_tracks(content: Content, data: Content) -> list[Track]:
    """Read nothing: the results of this operation are no files."""
    del content, data
    return []


def audio_tracks(content: Content, data: Content) -> list[Track]:
    """Read the tracks of the audio operations, of recovery and of the cousins."""
    return [
        _audio_track(item, position)
        if "clip_id" not in item
        else _cousin_track(item, position)
        for position, item in enumerate(_items(content, data))
        if type(item) is dict
    ]


def lyrics(content: Content, data: Content) -> list[Track]:
    """Read each text as a track without files."""
    items = _items(content, data) or _list(data, "lyricsData")
    return [
        Track(
            track_id=read_track_id(item.get("id"), position),
            title=read_text(item.get("title")),
            prompt=read_text(item.get("text")),
            error=_error(item),
        )
        for position, item in enumerate(items[:TRACK_LIMIT])
        if type(item) is dict
    ]


def wav(content: Content, data: Content) -> list[Track]:
    """Read the one file of a WAV conversion."""
    del content
    return _one_file(data, AUDIO, ("audioWavUrl", "audio_wav_url"))


def music_video(content: Content, data: Content) -> list[Track]:
    """Read the one file of a music video."""
    del content
    return _one_file(data, VIDEO, ("video_url", "videoUrl"))


def cover_images(content: Content, data: Content) -> list[Track]:
    """Read each picture as a track of its own."""
    del content
    images = _list(data, "images") or _list(
        read_mapping(data.get("response")), "images"
    )
    return [
        Track(track_id=read_track_id(None, position), links={IMAGE: link})
        for position, value in enumerate(images[:TRACK_LIMIT])
        if (link := read_link(value))
    ]


def separated_vocals(content: Content, data: Content) -> list[Track]:
    """Read the stems: one track with a file for each, or a track for each stem."""
    del content
    places = (
        data.get("vocal_removal_info"),
        data.get("vocal_separation_info"),
        data.get("response"),
    )
    info = next((place for place in places if type(place) is dict), {})
    links = dict(_stem_links(info))
    tracks = [Track(track_id=_ONLY, links=links)] if links else []
    items = _list(info, "origin_data", "originData") or _list(
        data, "origin_data", "originData"
    )
    for position, item in enumerate(items[:TRACK_LIMIT]):
        tracks.extend(_advanced_stems(read_mapping(item), position))
    return tracks


def voices(content: Content, data: Content) -> list[Track]:
    """Read the voice that was made, by its id, or what is to be said to prove one."""
    del content
    for place in (data, read_mapping(data.get("response"))):
        if voice := place.get("voiceId") or place.get("voice_id"):
            return [Track(track_id=read_track_id(voice, 0))]
        if words := read_text(place.get("validateInfo") or place.get("validate_info")):
            return [Track(track_id=_ONLY, prompt=words)]
    return []


def _items(content: Content, data: Content) -> list[JSONValue]:
    """Find the list of tracks in any of the places it is known to be."""
    items = data.get("data")
    if type(items) is not list:
        response = read_mapping(data.get("response"))
        items = next(
            (
                place
                for place in (
                    response.get("sunoData"),
                    response.get("data"),
                    data.get("sunoData"),
                    content.get("data"),
                )
                if type(place) is list
            ),
            [],
        )
    found: list[JSONValue] = items[:TRACK_LIMIT]
    return found


def _audio_track(item: Content, position: int) -> Track:
    get = item.get
    links = {}
    error = _error(item) if "status" in item else ""
    if not error and (audio := read_link(get("audio_url") or get("audioUrl"))):
        links[AUDIO] = audio
    if image := read_link(get("image_url") or get("imageUrl")):
        links[IMAGE] = image
    return Track(
        track_id=read_track_id(get("id"), position),
        title=read_text(get("title")),
        tags=read_text(get("tags")),
        prompt=read_text(get("prompt")),
        model_name=read_text(get("model_name") or get("modelName")),
        stream_url=read_link(get("stream_audio_url") or get("streamAudioUrl")),
        duration_seconds=max(0.0, read_number(get("duration")) or 0.0),
        created_at=read_time(get("createTime") or get("create_time")),
        links=links,
        error=error,
    )


def _cousin_track(item: Content, position: int) -> Track:
    """Read one song of the cousins; what is not finished has no file yet."""
    get = item.get
    error, audio = _error(item), read_link(get("audio_url"))
    is_streaming = fold(get("state")) == STREAMING
    links: dict[str, str] = (
        {AUDIO: audio} if audio and not (error or is_streaming) else {}
    )
    for kind in (IMAGE, VIDEO):
        if link := read_link(get(f"{kind}_url")):
            links[kind] = link
    return Track(
        track_id=read_track_id(get("clip_id"), position),
        title=read_text(get("title")),
        tags=read_text(get("tags")),
        prompt=read_text(get("lyrics")),
        model_name=read_text(get("mv")),
        stream_url=audio if is_streaming else "",
        duration_seconds=max(0.0, read_number(get("duration")) or 0.0),
        created_at=read_time(get("created_at")),
        links=links,
        error=error,
    )


def _error(item: Content) -> str:
    """Say why one of several results is not there; nothing if it is."""
    word = fold(item.get("status") or item.get("state"))
    if not is_failed(word):
        return ""
    texts = (item.get(n) for n in ("error_message", "errorMessage", "error"))
    return next((text for t in texts if (text := read_text(t))), word)[:ERROR_LIMIT]


def _one_file(data: Content, kind: str, names: tuple[str, ...]) -> list[Track]:
    for place in (data, read_mapping(data.get("response"))):
        for name in names:
            if link := read_link(place.get(name)):
                return [Track(track_id=_ONLY, links={kind: link})]
    return []


def _stem_links(info: Mapping[str, JSONValue]) -> Iterable[tuple[str, str]]:
    for name, value in list(info.items())[:LINKS_LIMIT]:
        snake = _HUMP.sub(r"_\1", name[: _KIND_LIMIT * 2]).lower()
        if snake.endswith(_LINK_SUFFIX) and (link := read_link(value)):
            yield _slug(snake.removesuffix(_LINK_SUFFIX)), link


def _advanced_stems(item: Content, position: int) -> Iterable[Track]:
    """Read ``{extract: {…}, remove: {…}}`` or one flat entry."""
    pair = [name for name in ("extract", "remove") if type(item.get(name)) is dict]
    for name in pair or [""]:
        stem: Content = item[name] if name else item
        if link := read_link(stem.get("audio_url") or stem.get("audioUrl")):
            made_up = f"stem-{position + 1}" + (f"-{name}" if name else "")
            yield Track(
                track_id=read_track_id(stem.get("id") or made_up, position),
                title=_stem_name(stem) or _stem_name(item),
                links={AUDIO: link},
            )


def _stem_name(stem: Content) -> str:
    name = stem.get("stem_type_group_name") or stem.get("stemTypeGroupName")
    return read_text(name)


def _slug(name: str) -> str:
    """Make a kind of file of any text; it becomes part of keys."""
    return _NO_SLUG.sub("_", name.lower()[:_KIND_LIMIT]).strip("_") or "file"


def _list(place: Content, *names: str) -> list[JSONValue]:
    for name in names:
        value = place.get(name)
        if type(value) is list:
            return value
    return []
