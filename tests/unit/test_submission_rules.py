"""What is wrong with a request: everything at once, before it costs anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pipeline.provider.door import door_of
from pipeline.provider.requests import REQUESTS
from pipeline.provider.rules import length_mistakes, read_request
from pipeline.settings import load_settings

if TYPE_CHECKING:
    from pipeline.provider.door import Door
    from pipeline.provider.requests import Request

LINK = "https://files.example.com/song.mp3"
#: The least that each operation can be submitted with.
LEAST: dict[str, dict[str, Any]] = {
    "upload-extend": {"uploadUrl": LINK, "model": "V5", "continueAt": 10},
    "generate": {"model": "V5", "prompt": "a calm song"},
    "extend": {"model": "V5", "audioId": "a-1"},
    "upload-cover": {"uploadUrl": LINK, "model": "V5", "prompt": "as a waltz"},
    "add-instrumental": {
        "uploadUrl": LINK,
        "model": "V5",
        "title": "Lanterns",
        "tags": "waltz",
        "negativeTags": "metal",
    },
    "add-vocals": {
        "uploadUrl": LINK,
        "model": "V5",
        "title": "Lanterns",
        "style": "waltz",
        "prompt": "la la",
        "negativeTags": "metal",
    },
    "mashup": {"uploadUrlList": [LINK, LINK], "model": "V5", "prompt": "both"},
    "sounds": {"model": "V5", "prompt": "rain"},
    "replace-section": {
        "taskId": "t-1",
        "audioId": "a-1",
        "prompt": "la la",
        "tags": "waltz",
        "title": "Lanterns",
        "infillStartS": 10,
        "infillEndS": 20.5,
    },
    "lyrics": {"prompt": "a calm song"},
    "wav": {"taskId": "t-1", "audioId": "a-1"},
    "vocal-removal": {"taskId": "t-1", "audioId": "a-1"},
    "midi": {"taskId": "t-1"},
    "music-video": {"taskId": "t-1", "audioId": "a-1"},
    "cover-image": {"parentTaskId": "t-1"},
    "voice-validate": {"voiceUrl": LINK, "vocalStartS": 0, "vocalEndS": 10},
    "voice": {"taskId": "t-1", "verifyUrl": LINK},
    "recovery": {"taskId": "t-1"},
}
CUSTOM = {"style": "waltz", "title": "Lanterns", "prompt": "la la"}


def door(**limits: Any) -> Door:
    flags = {"doors": {"mine": {"limits": limits}}, "provider.door": "mine"}
    return door_of(load_settings(environ={}, flags=flags).settings)


def good(operation: str, **fields: Any) -> Request:
    request, mistakes = read_request(operation, LEAST[operation] | fields, door())
    assert [] == [str(mistake) for mistake in mistakes]
    assert request is not None
    return request


def wrong(operation: str, **fields: Any) -> dict[str, str]:
    given = {k: v for k, v in (LEAST[operation] | fields).items() if v is not ...}
    request, mistakes = read_request(operation, given, door())
    assert request is None
    found = {mistake.field: mistake.text for mistake in mistakes}
    assert len(found) == len(mistakes)
    return found


def test_every_operation_has_an_example_here() -> None:
    assert REQUESTS.keys() == LEAST.keys()


@pytest.mark.parametrize("operation", sorted(REQUESTS))
def test_the_least_is_good_and_sent_as_it_was_given(operation: str) -> None:
    sent = good(operation).fields()

    for name, what in LEAST[operation].items():
        given = list(sent[name]) if isinstance(what, list) else sent[name]
        assert what == given


@pytest.mark.parametrize("operation", sorted(REQUESTS))
def test_without_any_field_every_needed_one_is_named(operation: str) -> None:
    request, mistakes = read_request(operation, {}, door())

    assert request is None
    named = {mistake.field for mistake in mistakes}
    # Where nothing is said, custom mode has no needs of its own.
    assert named == LEAST[operation].keys()


def test_all_mistakes_are_named_at_once() -> None:
    found = wrong(
        "upload-extend",
        model="V4",
        continueAt=-1,
        style="x" * 201,
        title="x" * 81,
        prompt="x" * 3001,
        vocalGender="x",
        styleWeight="1.5",
        instrumental="perhaps",
        promt="la la",
    )

    assert {
        "continueAt": "expected a number above 0, got -1",
        "style": "expected at most 200 characters with V4, got 201",
        "title": "expected at most 80 characters with V4, got 81",
        "prompt": "expected at most 3000 characters with V4, got 3001",
        "vocalGender": "expected 'm' or 'f', got 'x'",
        "styleWeight": "expected a number of 1 or less, got '1.5'",
        "instrumental": "expected true or false, got 'perhaps'",
        "promt": (
            "upload-extend has no such field that is known here; did you mean prompt?"
            " (a newer one goes into extra)"
        ),
    } == found


@pytest.mark.parametrize(
    ("model", "prompt", "style", "title"),
    [
        ("V4", 3000, 200, 80),
        ("V4_5", 5000, 1000, 100),
        ("V4_5PLUS", 5000, 1000, 100),
        ("V4_5ALL", 5000, 1000, 80),
        ("V5", 5000, 1000, 100),
        ("V5_5", 5000, 1000, 100),
        # Nobody has heard of it yet: it gets the largest.
        ("V9_WILD", 5000, 1000, 100),
    ],
)
def test_texts_may_be_as_long_as_the_model_takes(
    model: str, prompt: int, style: int, title: int
) -> None:
    most = {"prompt": "p" * prompt, "style": "s" * style, "title": "t" * title}
    good("upload-extend", model=model, **most)

    longer = {name: text + "x" for name, text in most.items()}
    assert most.keys() == wrong("upload-extend", model=model, **longer).keys()


@pytest.mark.parametrize(
    ("operation", "flag"),
    [
        ("upload-extend", "defaultParamFlag"),
        ("extend", "defaultParamFlag"),
        ("generate", "customMode"),
        ("upload-cover", "customMode"),
        ("mashup", "customMode"),
    ],
)
def test_custom_mode_has_its_needs(operation: str, flag: str) -> None:
    bare = {"prompt": ..., "style": ..., "title": ...}

    assert {"style", "title", "prompt"} == wrong(
        operation, **bare | {flag: True}
    ).keys()
    found = wrong(operation, **bare | {flag: "true", "instrumental": "true"})
    assert {"style", "title"} == found.keys()
    assert {"title", "prompt"} == wrong(operation, **bare | {"style": "waltz"}).keys()
    assert good(operation, **CUSTOM | {flag: True}).fields()[flag] is True


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, False), (CUSTOM, True), (CUSTOM | {"defaultParamFlag": False}, False)],
)
def test_custom_mode_is_on_where_there_is_style_or_title(
    fields: dict[str, Any], *, expected: bool
) -> None:
    """Whether it is, is always said."""
    sent = good("upload-extend", **fields).fields()

    assert (expected, False) == (sent["defaultParamFlag"], sent["instrumental"])


def test_text_from_a_table_is_read_as_what_it_means() -> None:
    sent = good(
        "upload-extend", continueAt="10.5", instrumental="true", title="", style=None
    ).fields()

    assert 10.5 == sent["continueAt"]
    assert sent["instrumental"] is True
    assert sent.keys().isdisjoint({"title", "style", "negativeTags"})


def test_our_spelling_is_as_good_as_the_providers() -> None:
    request, mistakes = read_request(
        "wav", {"task_id": "t-1", "audio_id": "a-1"}, door()
    )

    assert [] == mistakes
    assert request is not None
    assert LEAST["wav"] == request.fields()


def test_field_that_is_newer_than_we_are_goes_through() -> None:
    sent = good("generate", extra={"loudness": 3}).fields()

    assert 3 == sent["loudness"]
    assert "extra" not in sent


@pytest.mark.parametrize(
    "name",
    ["uploadUrl", "upload_url", "UPLOADURL", "model", "callBackUrl", "call_back_url"],
)
def test_what_is_checked_cannot_be_replaced_by_what_is_not(name: str) -> None:
    found = wrong("upload-extend", extra={name: "http://169.254.169.254/"})

    assert {"extra"} == found.keys()
    assert "names that are no fields" in found["extra"]


@pytest.mark.parametrize(
    "fields", [{"audioId": "\udcff"}, {"extra": {"loudness": "\udcff"}}]
)
def test_text_that_is_not_utf_8_is_a_mistake(fields: dict[str, Any]) -> None:
    (text,) = wrong("wav", **fields).values()

    assert text == r"expected text in UTF-8, got '\udcff'"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nan", [1], {}])
def test_place_that_is_no_number_is_a_mistake(value: Any) -> None:
    assert {"continueAt"} == wrong("upload-extend", continueAt=value).keys()


@pytest.mark.parametrize(
    ("operation", "first", "last"),
    [
        ("replace-section", "infillStartS", "infillEndS"),
        ("voice-validate", "vocalStartS", "vocalEndS"),
    ],
)
def test_section_ends_behind_its_beginning(
    operation: str, first: str, last: str
) -> None:
    assert {last} == wrong(operation, **{first: 30, last: 30}).keys()


def test_operation_that_there_is_not() -> None:
    request, (mistake,) = read_request("tango", {}, door())

    assert request is None
    assert "operation" == mistake.field
    assert "expected one of add-instrumental, " in mistake.text
    assert "got 'tango'" in mistake.text


@pytest.mark.parametrize("given", [None, 3, "x", ["x"], {"a": 1}, "x" * 9000])
def test_whatever_is_given_is_a_mistake_and_no_error(given: Any) -> None:
    fields = dict.fromkeys(("model", "style", "title", "continueAt", "extra"), given)

    request, mistakes = read_request("upload-extend", fields, door())

    assert request is None
    assert all(len(str(mistake)) < 400 for mistake in mistakes)


def lengths(seconds: float, **fields: Any) -> list[str]:
    given = LEAST["upload-extend"] | fields
    found = length_mistakes(
        "upload-extend", given, field="uploadUrl", seconds=seconds, door=door()
    )
    return [str(mistake) for mistake in found]


def test_source_may_be_as_long_as_the_door_takes() -> None:
    assert [] == lengths(120)
    assert [
        "uploadUrl: expected audio of at most 120 s at the door mine, got 120.1 s"
    ] == lengths(120.1)
    assert [] == lengths(60, model="V4_5ALL")
    assert 1 == len(lengths(60.1, model="V4_5ALL"))


def test_longest_source_is_a_setting() -> None:
    eight = door(upload={"default": "8m"})

    found = length_mistakes(
        "upload-extend", LEAST["upload-extend"], field="f", seconds=470, door=eight
    )

    assert [] == [*found]


@pytest.mark.parametrize("place", [10, "10", 11])
def test_place_to_go_on_at_is_inside_the_source(place: Any) -> None:
    assert [
        f"continueAt: expected a place in the source of 10.0 s, got {place} s"
    ] == lengths(10, continueAt=place)
    assert [] == lengths(11.5, continueAt=place)
