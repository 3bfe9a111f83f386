"""Files of the simulator are real: others' decoders and sniffers must agree."""

from __future__ import annotations

import io
import sys
import wave
from array import array

import av
import numpy as np
import puremagic
import pytest

from pipeline.errors import ConfigurationError
from pipeline.simulator.audio import (
    RATE_HZ,
    AudioFormat,
    audio_format,
    compose,
    make_audio,
    piece_seconds,
)
from pipeline.simulator.picture import (
    SIDE,
    PictureFormat,
    make_picture,
    picture_formats,
)


@pytest.fixture
def without_av(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this test run as if PyAV were not installed."""
    monkeypatch.setitem(sys.modules, "av", None)


@pytest.mark.parametrize("chosen", ["mp3", "wav", "m4a"])
def test_audio_decodes_to_the_piece_that_was_composed(chosen: AudioFormat) -> None:
    """Another library finds the full length, and sound in it."""
    data = make_audio(5, audio_format=chosen, title="Río", comment="track 5")

    with av.open(io.BytesIO(data), "r") as container:
        frames = list(container.decode(audio=0))
    seconds = sum(frame.samples for frame in frames) / frames[0].sample_rate
    loudest = max(float(np.abs(frame.to_ndarray()).max()) for frame in frames)
    full_scale = 1.0 if frames[0].format.name.startswith("flt") else 32768.0

    assert piece_seconds(5) == pytest.approx(seconds, abs=0.06)
    assert frames[0].sample_rate == RATE_HZ
    assert 0.2 < loudest / full_scale <= 1.0


def test_audio_fades_in_and_out() -> None:
    """A piece starts and ends in silence and is loud in between."""
    samples = compose(3).samples
    tenth = len(samples) // 10

    edge = max(map(abs, samples[: tenth // 10]))
    middle = max(map(abs, samples[4 * tenth : 6 * tenth]))

    assert samples[0] == samples[-1] == 0
    assert middle > 4 * edge


def test_tags_are_read_by_others() -> None:
    """Title and comment of an mp3 are where players look for them."""
    data = make_audio(1, audio_format="mp3", title="Étude", comment="id-1")

    with av.open(io.BytesIO(data), "r") as container:
        metadata = dict(container.metadata)

    assert metadata["title"] == "Étude"
    assert metadata["album"] == "id-1"


@pytest.mark.parametrize(
    ("chosen", "kinds"),
    [("mp3", {"audio/mpeg"}), ("wav", {"audio/wave", "audio/wav"})],
)
def test_audio_is_recognised_by_its_content(
    chosen: AudioFormat, kinds: set[str]
) -> None:
    """What it is called differs between versions of the library that looks."""
    data = make_audio(2, audio_format=chosen)

    assert puremagic.from_string(data, mime=True) in kinds


def test_an_m4a_is_recognised_as_iso_media() -> None:
    """Sniffers agree on the container; whether it is music is inside."""
    data = make_audio(2, audio_format="m4a")

    assert puremagic.from_string(data) in (".m4a", ".mp4")
    assert data[4:11] == b"ftypM4A"


@pytest.mark.parametrize("chosen", ["mp3", "wav", "m4a"])
def test_the_same_seed_gives_the_same_audio(chosen: AudioFormat) -> None:
    first = make_audio(9, audio_format=chosen, comment="a")

    assert first == make_audio(9, audio_format=chosen, comment="a")
    assert first != make_audio(9, audio_format=chosen, comment="b")
    assert first != make_audio(10, audio_format=chosen, comment="a")


@pytest.mark.usefixtures("without_av")
def test_without_av_audio_is_wav_of_the_standard_library() -> None:
    """The wheel alone, without any extra, still makes real audio."""
    assert audio_format() == "wav"

    with wave.open(io.BytesIO(make_audio(4)), "rb") as read:
        samples = array("h", read.readframes(read.getnframes()))

    assert read.getsampwidth() == 2
    assert samples == compose(4).samples


@pytest.mark.usefixtures("without_av")
def test_without_av_other_formats_say_what_to_install() -> None:
    with pytest.raises(ConfigurationError, match="install the extra 'media'"):
        make_audio(4, audio_format="mp3")
    with pytest.raises(ConfigurationError, match="install the extra 'media'"):
        make_picture(4, picture_format="jpeg")

    assert picture_formats() == ("png",)


@pytest.mark.parametrize(
    ("chosen", "kind"), [("png", "image/png"), ("jpeg", "image/jpeg")]
)
def test_pictures_decode_and_are_recognised(chosen: PictureFormat, kind: str) -> None:
    """A picture has its size and more than a handful of colours."""
    data = make_picture(6, picture_format=chosen, comment="id čas")

    with av.open(io.BytesIO(data), "r") as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")

    assert frame.shape == (SIDE, SIDE, 3)
    assert len({tuple(pixel) for row in frame[::8] for pixel in row}) > 32
    assert kind == puremagic.from_string(data, mime=True)


@pytest.mark.parametrize("chosen", ["png", "jpeg"])
def test_the_same_seed_gives_the_same_picture(chosen: PictureFormat) -> None:
    first = make_picture(1, picture_format=chosen, comment="a")

    assert first == make_picture(1, picture_format=chosen, comment="a")
    assert first != make_picture(1, picture_format=chosen, comment="b")
    assert first != make_picture(2, picture_format=chosen, comment="a")
