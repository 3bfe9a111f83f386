"""Settings come in four layers, and every mistake is reported at once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import ConfigurationError
from pipeline.settings import (
    Settings,
    format_duration,
    leaf_keys,
    load_settings,
    mask_password,
    show_settings,
    try_settings,
    variable,
)
from pipeline.settings.values import parse_duration

if TYPE_CHECKING:
    from pipeline.settings import Loaded

TOKEN = "correct-horse-battery"


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


def load(
    file: Path | None = None,
    environ: dict[str, str] | None = None,
    flags: dict[str, object] | None = None,
) -> Loaded:
    return load_settings(file=file, environ=environ or {}, flags=flags)


def mistakes(
    file: Path | None = None,
    environ: dict[str, str] | None = None,
    flags: dict[str, object] | None = None,
) -> list[str]:
    loaded, found = try_settings(file=file, environ=environ or {}, flags=flags)
    assert loaded is None
    return [str(mistake) for mistake in found]


def shown(loaded: Loaded) -> dict[str, object]:
    return {item.key: item.value for item in show_settings(loaded)}


def test_defaults_need_no_file_and_no_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    loaded = load()

    assert loaded.file is None
    assert loaded.settings.broker_url == "sqlite:///data/broker.db"
    assert loaded.settings.ledger_url == "sqlite:///data/ledger.db"
    assert loaded.settings.assets_url == "data/assets"
    assert loaded.origin("broker_url") == "default"


def test_a_flag_beats_a_variable_beats_the_file_beats_the_default(toml: Path) -> None:
    toml.write_text(
        '[ingress]\nhost = "file"\nport = 1\nbody_timeout = 1\n', encoding="utf-8"
    )
    environ = {"PIPELINE_INGRESS__HOST": "variable", "PIPELINE_INGRESS__PORT": "2"}

    loaded = load(toml, environ, {"ingress.host": "flag", "ingress.port": None})

    ingress = loaded.settings.ingress
    assert ingress.host == "flag"
    assert ingress.port == 2
    assert ingress.body_timeout == timedelta(seconds=1)
    assert ingress.publish_timeout == timedelta(seconds=2)
    origins = {
        key: loaded.origin(f"ingress.{key}")
        for key in ("host", "port", "body_timeout", "publish_timeout")
    }
    expected = {
        "host": "flag",
        "port": "PIPELINE_INGRESS__PORT",
        "body_timeout": str(toml),
        "publish_timeout": "default",
    }
    assert expected == origins


def test_the_process_environment_is_read_when_none_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PIPELINE_BROKER_URL", "amqp://broker.example/")

    loaded = load_settings()

    assert loaded.settings.broker_url == "amqp://broker.example/"


def test_the_file_is_found_by_variable_or_by_its_usual_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    usual, named = tmp_path / "pipeline.toml", tmp_path / "other.toml"
    usual.write_text("drain = 1", encoding="utf-8")
    named.write_text("drain = 2", encoding="utf-8")

    by_name = load()
    by_variable = load(environ={"PIPELINE_CONFIG": str(named)})
    by_flag = load(usual, {"PIPELINE_CONFIG": str(named)})

    drains = [
        loaded.settings.drain.total_seconds()
        for loaded in (by_name, by_variable, by_flag)
    ]
    expected = [1, 2, 1]
    assert expected == drains
    assert by_variable.file == named


def test_every_mistake_is_reported_at_once(toml: Path) -> None:
    toml.write_text(
        """
broker_url = "ampq://user:hush@broker/"
dedupe = 5
broker_ulr = "sqlite:///x.db"
[ingress]
prot = 5
max_body_bytes = "lots"
host = ""
[broker]
delays = ["5s", "5s"]
heartbeat = 0.5
prefix = "A B"
[download]
deadline = "26m"
waits = ["30s", "5s"]
concurrency = 0
[ingres]
x.y = 1
""",
        encoding="utf-8",
    )
    environ = {"PIPELINE_INGRESS__PORT": "web", "PIPELINE_LEDGER_ULR": "x"}

    with pytest.raises(ConfigurationError) as caught:
        load(toml, environ, {"log.level": "LOUD", "zzz": "red"})

    head, *lines = str(caught.value).splitlines()
    assert head == f"{len(lines)} settings are wrong:"
    expected = [
        (
            "PIPELINE_LEDGER_ULR (environment variable): unknown variable;"
            " did you mean PIPELINE_LEDGER_URL?"
        ),
        f"broker.delays ({toml}): expected durations that differ, got ['5s', '5s']",
        f"broker.heartbeat ({toml}): expected 1s or more, got 0.5",
        (
            f"broker.prefix ({toml}): expected text of the form"
            " ^[a-z0-9][a-z0-9_.-]{0,63}$, got 'A B'"
        ),
        f"broker_ulr ({toml}): unknown key; did you mean broker_url?",
        (
            f"broker_url ({toml}): expected a URL that starts with sqlite://,"
            " amqp:// or amqps://, got 'ampq://user:***@broker/'"
        ),
        f"dedupe ({toml}): expected a table, got 5",
        f"download.concurrency ({toml}): expected greater than or equal to 1, got 0",
        f"download.deadline ({toml}): expected 25m or less, got '26m'",
        (
            f"download.waits ({toml}): expected durations that never grow shorter,"
            " got ['30s', '5s']"
        ),
        f"ingres ({toml}): unknown key; did you mean ingress?",
        f"ingress.host ({toml}): expected a length of at least 1, got ''",
        (
            f"ingress.max_body_bytes ({toml}): expected a size such as 1048576,"
            " 512KiB or 1MiB, got 'lots'"
        ),
        "ingress.port (PIPELINE_INGRESS__PORT): expected a valid integer, got 'web'",
        f"ingress.prot ({toml}): unknown key; did you mean port?",
        "log.level (flag): expected 'DEBUG', 'INFO', 'WARNING' or 'ERROR', got 'LOUD'",
        "zzz (flag): unknown key",
    ]
    assert expected == [line.strip() for line in lines]


def test_no_callback_is_held_until_rabbitmq_takes_it_back() -> None:
    """Behind a batch that hangs and in one more: two deadlines each."""
    consumer_timeout = timedelta(minutes=30)

    longest = load(flags={"dedupe.deadline": "6m"}).settings.dedupe.deadline

    assert 4 * longest < consumer_timeout
    with pytest.raises(ConfigurationError, match=r"expected 6m or less, got '7m'"):
        load(flags={"dedupe.deadline": "7m"})


def test_one_mistake_is_counted_as_one() -> None:
    with pytest.raises(ConfigurationError, match=r"^1 setting is wrong:\n  drain"):
        load(flags={"drain": "soon"})


def test_a_mistake_in_a_list_names_the_place(toml: Path) -> None:
    toml.write_text('[broker]\ndelays = ["5s", "later"]', encoding="utf-8")

    (mistake,) = mistakes(toml)

    assert mistake.startswith(f"broker.delays[1] ({toml}): expected a duration such as")


def test_a_secret_is_never_part_of_a_message(toml: Path) -> None:
    toml.write_text(
        '[ingress]\ntokens = ["hush"]\nsecret_thing = "hush"', encoding="utf-8"
    )
    environ = {
        "PIPELINE_INGRESS__SIGNATURE__KEYS": "[hush",
        "PIPELINE_BROKER_URL": "amqp://user:hush@/",
        "PIPELINE_LEDGER_URL": "postgresql://user:hush@/x",
    }

    found = mistakes(toml, environ)

    assert len(found) == 5
    assert not any("hush" in mistake for mistake in found)


def test_secrets_do_not_show_in_the_settings_either() -> None:
    loaded = load(
        environ={
            "PIPELINE_INGRESS__TOKENS": TOKEN,
            "PIPELINE_BROKER_URL": "amqp://user:hush@broker:5672/",
        }
    )

    values = shown(loaded)
    assert values["ingress.tokens"] == "set"
    assert values["ingress.signature.keys"] == "unset"
    assert values["broker_url"] == "amqp://user:***@broker:5672/"
    assert "hush" not in repr(loaded)
    assert TOKEN not in repr(loaded)


def test_the_password_of_a_cluster_does_not_show() -> None:
    url = "amqp://user:hu,sh@one:5672,two:5672/host"

    values = shown(load(environ={"PIPELINE_BROKER_URL": url}))

    assert values["broker_url"] == "amqp://user:***@one:5672,two:5672/host"


def test_what_is_shown_can_be_written_as_json() -> None:
    values = shown(load(flags={"metrics.port": 9000, "subscriptions_file": "s.toml"}))

    assert values["metrics.port"] == 9000
    assert values["subscriptions_file"] == "s.toml"
    assert values["ingress.max_body_bytes"] == 1024 * 1024
    assert values["ingress.publish_timeout"] == "2s"
    assert values["download.allow_private_addresses"] is False
    assert values["broker.delays"] == ["5s", "30s", "2m", "10m", "1h", "6h"]
    assert shown(load())["metrics.port"] is None
    assert list(values) == list(leaf_keys())


def test_a_secret_can_be_read_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "tokens"
    secret.write_text(f"{TOKEN}-1\n{TOKEN}-2\n", encoding="utf-8")

    loaded = load(environ={"PIPELINE_INGRESS__TOKENS_FILE": str(secret)})

    tokens = [token.get_secret_value() for token in loaded.settings.ingress.tokens]
    expected = [f"{TOKEN}-1", f"{TOKEN}-2"]
    assert expected == tokens
    assert loaded.origin("ingress.tokens") == "PIPELINE_INGRESS__TOKENS_FILE"


def test_an_empty_file_of_a_secret_stands_for_none(tmp_path: Path) -> None:
    """Containers are given one where there is no secret."""
    secret = tmp_path / "none"
    secret.touch()
    names = ("INGRESS__TOKENS", "PROVIDER__API_KEY", "ADMIN__TOKENS")
    loaded = load(environ={f"PIPELINE_{name}_FILE": str(secret) for name in names})
    settings = loaded.settings

    assert ((), None, ()) == (
        settings.ingress.tokens,
        settings.provider.api_key,
        settings.admin.tokens,
    )


def test_a_secret_file_that_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    environ = {
        "PIPELINE_BROKER_URL_FILE": str(tmp_path / "missing"),
        "PIPELINE_LEDGER_URL_FILE": str(binary),
    }

    found = mistakes(environ=environ)

    expected = [
        (
            "broker_url (PIPELINE_BROKER_URL_FILE): expected a file that can be read,"
            " got: No such file or directory"
        ),
        (
            "ledger_url (PIPELINE_LEDGER_URL_FILE): expected a file that can be read,"
            " got: no text in UTF-8"
        ),
    ]
    assert expected == found


def test_a_value_and_a_file_for_it_are_one_too_many(tmp_path: Path) -> None:
    environ = {
        "PIPELINE_BROKER_URL": "sqlite:///a.db",
        "PIPELINE_BROKER_URL_FILE": str(tmp_path / "url"),
    }

    (mistake,) = mistakes(environ=environ)

    assert mistake == (
        "broker_url (PIPELINE_BROKER_URL_FILE): expected one of PIPELINE_BROKER_URL"
        " and PIPELINE_BROKER_URL_FILE, got both"
    )


def test_empty_and_foreign_variables_are_left_alone() -> None:
    environ = {
        "PIPELINE_INGRESS__PORT": "",
        "PIPELINE_BROKER_URL_FILE": "",
        "PIPELINE_TEST_AMQP_URL": "amqp://x",
        "PIPELINES": "x",
        "HOME": "/",
    }

    assert load(environ=environ).settings == Settings()


def test_lists_can_be_written_as_text_or_as_json() -> None:
    as_text = load(environ={"PIPELINE_BROKER__DELAYS": "1s, 2m"})
    as_json = load(environ={"PIPELINE_BROKER__DELAYS": '["1s", 120]'})

    expected = (timedelta(seconds=1), timedelta(minutes=2))
    assert expected == as_text.settings.broker.delays
    assert expected == as_json.settings.broker.delays


def test_no_waits_mean_no_retry() -> None:
    loaded = load(flags={"notify.waits": "[]"})

    assert loaded.settings.notify.policy.max_attempts == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("drain = ", "expected a readable TOML file, got: Invalid value"),
        ("drain = 1\ndrain = 2", "expected a readable TOML file, got: Cannot"),
    ],
)
def test_a_file_that_is_no_toml_is_a_mistake(
    toml: Path, content: str, expected: str
) -> None:
    toml.write_text(content, encoding="utf-8")

    (mistake,) = mistakes(toml)

    assert mistake.startswith(f"config ({toml}): {expected}")


def test_a_missing_file_is_a_mistake(toml: Path) -> None:
    assert mistakes(toml) == [f"config ({toml}): the file does not exist"]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (mistake,) = mistakes(tmp_path)

    assert "expected a readable TOML file" in mistake


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("amqp:///vhost", "a host"),
        ("amqp://host:0/", "a host"),
        ("amqp://host:port/", "a host"),
        ("amqp://[::1", "a host"),
        ("amqp://one,/", "a host, or several"),
        ("amqp://one,two:0/", "a host, or several"),
        ("amqp://u:p@one,v:q@two/", "a host, or several"),
        ("sqlite://broker.db", "three slashes and a file"),
        ("sqlite:///", "three slashes and a file"),
        ("sqlite:///data/", "three slashes and a file"),
        ("redis://host/", "a URL that starts with"),
        ("broker.db", "a URL that starts with"),
    ],
)
def test_a_broker_url_that_cannot_work_is_refused(url: str, words: str) -> None:
    (mistake,) = mistakes(flags={"broker_url": url})

    assert f"expected {words}" in mistake


@pytest.mark.parametrize(
    "url",
    [
        "amqp://h",
        "amqps://u:p@[::1]:5671/v",
        "amqp://u:p@one:5672,two,[::1]:5673/v?heartbeat=5",
        "sqlite:///b.db",
        "sqlite:////srv/b.db",
    ],
)
def test_a_broker_url_that_can_work_is_taken(url: str) -> None:
    assert url == load(flags={"broker_url": url}).settings.broker_url


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql:///name", "a host and a database"),
        ("postgresql://host", "a host and a database"),
        ("postgresql://host:port/name", "a host and a database"),
        ("postgresql://[::1/name", "a host and a database"),
        ("postgresql://u:12/34@host/name", "a host and a database"),
        ("postgresql://host/name?password=x", "a password in front of the host"),
        ("sqlite://ledger.db", "three slashes and a file"),
        ("mysql://host/name", "a URL that starts with"),
    ],
)
def test_a_ledger_url_that_cannot_work_is_refused(url: str, words: str) -> None:
    (mistake,) = mistakes(flags={"ledger_url": url})

    assert f"expected {words}" in mistake


def test_the_password_in_a_ledger_url_is_masked() -> None:
    url = "postgresql://user:hu@sh@host:5432/name?sslmode=require"

    values = shown(load(flags={"ledger_url": url}))

    assert values["ledger_url"] == (
        "postgresql://user:***@host:5432/name?sslmode=require"
    )


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (" ", "a folder"),
        ("ftp://host", "a URL that starts with"),
        ("s3://", "a bucket"),
        ("s3://key:secret@bucket", "a bucket"),
        ("s3://bucket?secret=1", "a bucket"),
    ],
)
def test_an_assets_url_that_cannot_work_is_refused(url: str, words: str) -> None:
    (mistake,) = mistakes(flags={"assets_url": url})

    assert f"expected {words}" in mistake


@pytest.mark.parametrize(
    "url",
    [
        "data/assets",
        "/srv/assets",
        "file:///srv/assets",
        "s3://bucket",
        "gs://bucket/a/prefix",
        "az://container/prefix/",
    ],
)
def test_an_assets_url_that_can_work_is_taken(url: str) -> None:
    assert url == load(flags={"assets_url": url}).settings.assets_url


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (8, timedelta(seconds=8)),
        (0.25, timedelta(milliseconds=250)),
        ("8", timedelta(seconds=8)),
        ("500ms", timedelta(milliseconds=500)),
        (" 1.5 m ", timedelta(seconds=90)),
        ("6h", timedelta(hours=6)),
        ("2d", timedelta(days=2)),
        (timedelta(seconds=3), timedelta(seconds=3)),
    ],
)
def test_durations_are_read(value: object, expected: timedelta) -> None:
    assert expected == parse_duration(value)


@pytest.mark.parametrize(
    "value",
    ["soon", "-1s", "", "1 week", True, None, [], -1, float("nan"), float("inf"), 1e99],
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="a duration"):
        parse_duration(value)


@given(value=st.timedeltas(timedelta(0), timedelta(days=365)))
def test_a_duration_is_read_as_it_was_written(value: timedelta) -> None:
    whole = timedelta(milliseconds=value // timedelta(milliseconds=1))

    assert whole == parse_duration(format_duration(whole))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://u:p@h:1/", "amqp://u:***@h:1/"),
        ("amqp://u@h:1/", "amqp://u@h:1/"),
        ("amqp://u:p:q/r@h/", "amqp://u:***@h/"),
        ("amqp://:p@h/", "amqp://:***@h/"),
        ("amqp://u:p@q@h/", "amqp://u:***@h/"),
        ("sqlite:///a:b@c.db", "sqlite:///a:b@c.db"),
    ],
)
def test_passwords_in_addresses_are_masked(url: str, expected: str) -> None:
    assert expected == mask_password(url)


@pytest.mark.parametrize("key", [*leaf_keys()])
def test_every_setting_has_a_variable_and_can_be_set_by_it(key: str) -> None:
    loaded, found = try_settings(environ={variable(key): "]no such value["})

    names = {mistake.key.split("[", 1)[0] for mistake in found}
    assert loaded is not None or names == {key}


def test_settings_cannot_be_changed() -> None:
    settings = Settings()

    with pytest.raises(ValidationError, match="frozen"):
        settings.drain = timedelta(0)  # type: ignore[misc]


@pytest.mark.parametrize("section", ["download", "notify"])
def test_a_timeout_has_to_end_before_the_deadline(section: str) -> None:
    flags: dict[str, object] = {f"{section}.timeout": "20m"}

    (mistake,) = mistakes(flags=flags)

    assert mistake.startswith(f"{section} (flag): expected timeout below deadline")


def test_a_patient_subscriber_puts_off_the_deadline_of_its_own_worker() -> None:
    notify = Settings().notify

    assert notify.with_room_for(None).deadline == timedelta(seconds=30)
    assert notify.with_room_for(1).deadline == timedelta(seconds=30)
    assert notify.with_room_for(60).deadline == timedelta(seconds=75)


@pytest.mark.parametrize("name", ["single-machine.toml", "rabbitmq.toml"])
def test_the_shipped_configurations_are_right(name: str) -> None:
    file = Path(__file__).parents[2] / "configs" / name

    assert load(file).file == file


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("ingress.networks", "10.0.0.1/8", "a network such as 203.0.113.0/24"),
        ("ingress.trusted_proxies", "proxy.example", "a network such as"),
        ("ingress.rate_per_second", "0", "greater than 0"),
        ("ingress.signature.scheme", "none", "'task-and-time'"),
        ("ingress.operation_tokens", "wav", "a JSON object"),
        ("ingress.tls.key_file", "tls.key", "certificate_file beside it"),
        ("download.hosts", "https://files.example", "a host such as"),
        ("download.hosts", "files.*", "a host such as"),
        ("download.ports", "65536", "65535"),
    ],
)
def test_settings_that_guard_are_checked(key: str, value: str, expected: str) -> None:
    """What guards nothing must not look as if it did."""
    (mistake,) = mistakes(flags={key: value})

    assert expected in mistake


def test_tokens_of_operations_are_secrets() -> None:
    """Neither shown nor repeated in a mistake, and the name is enough to find it."""
    good = f'{{"wav": ["{TOKEN}"]}}'
    loaded = load(environ={"PIPELINE_INGRESS__OPERATION_TOKENS": good})
    (mistake,) = mistakes(
        environ={variable("ingress.operation_tokens"): '{"wav": ["short-one"]}'}
    )

    assert "set" == shown(loaded)["ingress.operation_tokens"]
    assert (
        TOKEN == loaded.settings.ingress.operation_tokens["wav"][0].get_secret_value()
    )
    assert "ingress.operation_tokens.wav" in mistake
    assert "short-one" not in mistake


def test_table_comes_from_where_its_entries_do(toml: Path) -> None:
    """The origin of a table is shown, though it is no setting by itself."""
    toml.write_text(f'[ingress.operation_tokens]\nwav = ["{TOKEN}"]\n')

    assert str(toml) == load(toml).origin("ingress.operation_tokens")
    assert "default" == load(toml).origin("ingress.tokens")
