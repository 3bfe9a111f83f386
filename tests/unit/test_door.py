"""A door is configuration: what each one says, and how another one is added."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import ConfigurationError
from pipeline.failure import FailureClass
from pipeline.provider.door import door_of, generic_door
from pipeline.provider.signature import Scheme
from pipeline.settings import Settings, load_settings, show_settings, try_settings
from pipeline.settings.doors import built_in_doors

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.provider.door import Door

BASES = {
    "sunoapi-org": "https://api.sunoapi.org",
    "api-box": "https://api.api.box",
    "kie-ai": "https://api.kie.ai",
    "musicapi-ai": "https://api.musicapi.ai",
    "sunoapi-com": "https://api.sunoapi.com",
}
FAMILY = ["generic", "sunoapi-org", "api-box", "kie-ai"]


def door(name: str = "generic", **flags: object) -> Door:
    given = {key.replace("__", "."): value for key, value in flags.items()}
    loaded = load_settings(environ={}, flags={"provider.door": name, **given})
    return door_of(loaded.settings)


def mistakes(file: Path, text: str) -> list[str]:
    file.write_text(text, encoding="utf-8")
    loaded, found = try_settings(file=file, environ={})
    assert loaded is None
    return [str(mistake) for mistake in found]


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


@pytest.mark.parametrize("name", BASES)
def test_a_door_brings_its_address(name: str) -> None:
    assert BASES[name] == door(name).base_url


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("generic", Scheme.TASK_AND_TIME),
        ("kie-ai", Scheme.TASK_AND_TIME),
        ("sunoapi-org", None),
        ("api-box", None),
        ("musicapi-ai", Scheme.TIME_AND_BODY),
        ("sunoapi-com", Scheme.BODY),
    ],
)
def test_a_door_brings_its_signature(name: str, scheme: Scheme | None) -> None:
    assert scheme is door(name).scheme


def test_the_ingress_checks_the_signature_of_the_door_in_use() -> None:
    flags = {"provider.door": "musicapi-ai", "ingress.signature.keys": "k"}

    settings = load_settings(environ={}, flags=flags).settings

    assert "time-and-body" == settings.ingress.signature.scheme


def test_even_the_generic_door_can_be_told_how_callbacks_are_signed(
    toml: Path,
) -> None:
    toml.write_text('[doors.generic]\nsignature = "body"\n', encoding="utf-8")

    settings = load_settings(file=toml, environ={}).settings

    assert ("body", Scheme.BODY) == (
        settings.ingress.signature.scheme,
        door_of(settings).scheme,
    )


def test_without_a_door_nobody_is_asked() -> None:
    assert door().base_url is None
    assert load_settings(environ={}).settings.provider.base_url is None
    assert door_of(Settings()) == generic_door()


def test_settings_that_are_given_win_over_those_of_the_door(toml: Path) -> None:
    toml.write_text(
        '[provider]\ndoor = "kie-ai"\nbase_url = "https://proxy.example.com"\n'
        '[ingress.signature]\nscheme = "body"\n',
        encoding="utf-8",
    )

    loaded = load_settings(file=toml, environ={})

    used = door_of(loaded.settings)
    assert ("https://proxy.example.com", Scheme.BODY) == (used.base_url, used.scheme)
    assert str(toml) == loaded.origin("provider.base_url")


def test_what_the_door_says_is_shown_with_its_origin() -> None:
    loaded = load_settings(environ={"PIPELINE_PROVIDER__DOOR": "kie-ai"})

    shown = {item.key: item for item in show_settings(loaded)}

    address = shown["provider.base_url"]
    assert (BASES["kie-ai"], "door kie-ai") == (address.value, address.origin)
    assert sorted([*BASES, "generic"]) == shown["doors"].value


@pytest.mark.parametrize(
    ("codes", "names", "expected"),
    [
        ([408, 455, 500, 501, 531], FAMILY, FailureClass.TRANSIENT),
        ([405, 430], ["sunoapi-org", "api-box"], FailureClass.TRANSIENT),
        ([429], ["kie-ai"], FailureClass.TRANSIENT),
        ([451], FAMILY, FailureClass.SOURCE),
        ([400, 413, 422], FAMILY, FailureClass.PERMANENT),
        ([401, 402, 433, 505], FAMILY, FailureClass.OPERATOR),
        ([429], ["sunoapi-org", "api-box"], FailureClass.OPERATOR),
        ([409], FAMILY, FailureClass.EXISTS),
        ([None, 0, 200, 404, 999], FAMILY, FailureClass.UNKNOWN),
        ([429], ["generic", "musicapi-ai", "sunoapi-com"], FailureClass.UNKNOWN),
    ],
)
def test_a_code_means_what_it_means_at_its_door(
    codes: list[int | None], names: list[str], expected: FailureClass
) -> None:
    for name in names:
        used = door(name)
        assert [expected] * len(codes) == [used.failure(code) for code in codes], name


@pytest.mark.parametrize("name", FAMILY)
def test_refused_content_is_permanent_whatever_its_code(name: str) -> None:
    assert door(name).failure(500, "SENSITIVE_WORD_ERROR") is FailureClass.PERMANENT


def test_every_class_says_what_to_do() -> None:
    texts = [one.advice for one in FailureClass]

    assert len({*texts}) == len(texts)
    assert all(text.endswith(".") for text in texts)


@pytest.mark.parametrize("name", FAMILY)
def test_limits_are_those_of_the_model(name: str) -> None:
    used = door(name)

    minutes = [used.longest_upload(model) for model in ("V5", "V4_5ALL", "V9")]
    assert [timedelta(minutes=n) for n in (2, 1, 2)] == minutes
    assert [3000, 5000] == [used.text_limit("prompt", m) for m in ("V4", "V5")]
    assert [200, 1000] == [used.text_limit("style", m) for m in ("V4", "V5")]
    assert [80, 80, 100] == [
        used.text_limit("title", m) for m in ("V4", "V4_5ALL", "V4_5")
    ]
    limits = used.limits
    assert (20, 10, 3) == (
        limits.submits,
        limits.submit_window.total_seconds(),
        limits.details_per_second,
    )


def test_a_limit_that_is_not_known_is_none() -> None:
    used = door("musicapi-ai")

    assert used.longest_upload("V5") is None
    assert used.text_limit("prompt", "V5") is None


@pytest.mark.parametrize("name", ["generic", *BASES])
def test_files_live_14_days_and_minted_links_20_minutes(name: str) -> None:
    lifetimes = door(name).lifetimes

    assert (timedelta(days=14), timedelta(minutes=20)) == (
        lifetimes.files,
        lifetimes.minted_links,
    )
    assert lifetimes.upstream_links < lifetimes.files


@pytest.mark.parametrize(
    ("name", "credits_path", "task_name", "callback_name"),
    [
        ("sunoapi-org", "/api/v1/generate/credit", "sunoTaskId", "callBackUrl"),
        ("kie-ai", "/api/v1/chat/credit", "task_id", "call_back_url"),
    ],
)
def test_calls_are_spelled_as_their_door_has_them(
    name: str, credits_path: str, task_name: str, callback_name: str
) -> None:
    used = door(name)

    credit, recovery = used.find_call("credits"), used.find_call("recovery")

    assert credit is not None
    assert credits_path == credit.path
    assert recovery is not None
    assert (task_name, callback_name) == (
        recovery.spelled("task_id"),
        recovery.spelled("callback_url"),
    )


def test_fresh_links_are_made_by_one_door_only() -> None:
    offering = [name for name in BASES if door(name).find_call("fresh_link")]

    assert ["kie-ai"] == offering


@pytest.mark.parametrize("name", FAMILY)
def test_details_name_the_task_as_their_page_has_it(name: str) -> None:
    used = door(name)

    names = {}
    for operation in used.settings.details:
        call = used.find_details(operation)
        assert call is not None
        names[operation] = call.spelled("task_id")

    assert "task_id" == names.pop("recovery")
    assert {"taskId"} == {*names.values()}


def test_the_cousins_have_no_paths_of_the_family() -> None:
    for name in ("musicapi-ai", "sunoapi-com"):
        assert door(name).find_submit("upload-extend") is None
        assert door(name).find_details("upload-extend") is None


def test_another_door_of_the_family_is_a_table_and_no_code(toml: Path) -> None:
    toml.write_text(
        """
        [provider]
        door = "example"

        [doors.example]
        like = "kie-ai"
        base_url = "https://music.example.com/"
        signature = "body"
        codes = { 429 = "operator", 460 = "permanent" }
        limits.upload = { V6 = "8m" }
        lifetimes.files = "3d"
        details.generate = "/v2/tasks"

        [doors.example.calls.credits]
        path = "/v2/credits"
        """,
        encoding="utf-8",
    )

    used = door_of(load_settings(file=toml, environ={}).settings)

    assert ("example", "https://music.example.com") == (used.name, used.base_url)
    assert used.scheme is Scheme.BODY
    assert used.failure(429) is FailureClass.OPERATOR
    assert used.failure(460) is FailureClass.PERMANENT
    assert used.failure(451) is FailureClass.SOURCE
    minutes = [used.longest_upload(model) for model in ("V6", "V5")]
    assert [timedelta(minutes=8), timedelta(minutes=2)] == minutes
    assert timedelta(days=3) == used.lifetimes.files
    paths = [used.find_details(name) for name in ("generate", "extend")]
    assert ["/v2/tasks", "/api/v1/generate/record-info"] == [
        path and path.path for path in paths
    ]
    assert used.find_call("fresh_link") is not None


def test_one_fact_of_a_built_in_door_can_be_changed(toml: Path) -> None:
    toml.write_text(
        '[provider]\ndoor = "sunoapi-org"\n'
        '[doors.sunoapi-org.limits]\nupload = { default = "8m" }\n',
        encoding="utf-8",
    )

    used = door_of(load_settings(file=toml, environ={}).settings)

    minutes = [used.longest_upload(model) for model in ("V5", "V4_5ALL")]
    assert [timedelta(minutes=8), timedelta(minutes=1)] == minutes
    assert BASES["sunoapi-org"] == used.base_url


def test_doors_come_from_a_variable_as_well() -> None:
    environ = {
        "PIPELINE_DOORS": '{"kie-ai": {"codes": {"429": "operator"}}}',
        "PIPELINE_PROVIDER__DOOR": "kie-ai",
    }

    used = door_of(load_settings(environ=environ).settings)

    assert used.failure(429) is FailureClass.OPERATOR
    assert used.failure(451) is FailureClass.SOURCE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[provider]\ndoor = "x"', "provider.door"),
        ('[doors.x]\nlike = "y"', "doors.x.like"),
        ('[doors.x]\nlike = "x"', "doors.x.like"),
        ('[doors.x]\nsignatur = "body"', "did you mean signature?"),
        ('[doors.x]\nbase_url = "http://example.com"', "doors.x.base_url"),
        ("[doors.x.codes]\n429 = 'wait'", "'transient'"),
        ('[doors.x]\ndetails.generate = "details"', "doors.x.details.generate.path"),
        ('[doors.X]\nlike = "kie-ai"', "of the form"),
        ("doors = 5", "doors"),
        ("doors.x = 5", "expected a table"),
        ("doors.kie-ai = []", "expected a table"),
        ("doors.x.like = []", "doors.x.like"),
        ("provider.door = []", "provider.door"),
        (
            '[provider]\ndoor = "x"\n[doors.x]\nbase_url = "http://example.com"',
            "doors.x.base_url",
        ),
        ('[provider]\ndoor = "x"\n[doors.x]\nlike = "y"', "doors.x.like"),
        (
            '[provider]\ndoor = "api-box"\n[ingress.signature]\nkeys = ["k"]',
            "because the door api-box signs nothing",
        ),
    ],
)
def test_a_mistake_in_a_door_is_one_mistake(
    toml: Path, text: str, expected: str
) -> None:
    (mistake,) = mistakes(toml, text)

    assert expected in mistake
    assert str(toml) in mistake


def test_doors_in_a_variable_are_a_json_object() -> None:
    loaded, (mistake,) = try_settings(environ={"PIPELINE_DOORS": "{kie-ai"})

    assert loaded is None
    assert "expected a JSON object" in str(mistake)


def test_two_doors_that_are_like_each_other_are_refused(toml: Path) -> None:
    found = mistakes(toml, '[doors.x]\nlike = "y"\n[doors.y]\nlike = "x"')

    assert ["doors.x.like", "doors.y.like"] == [one.split(" ")[0] for one in found]


def test_keys_go_with_a_scheme_that_is_said_at_a_door_that_signs_nothing() -> None:
    flags = {"ingress__signature__keys": "k", "ingress__signature__scheme": "body"}

    assert door("api-box", **flags).scheme is Scheme.BODY


def test_a_door_that_settings_made_by_hand_do_not_have_is_refused() -> None:
    settings = Settings(provider={"door": "nowhere"})

    with pytest.raises(ConfigurationError, match=r"provider\.door: expected one of"):
        door_of(settings)


def test_the_built_in_doors_cannot_be_changed_by_who_got_them() -> None:
    built_in_doors().clear()

    assert "kie-ai" in built_in_doors()
