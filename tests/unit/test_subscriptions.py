"""The file that lists subscriptions, and everything that can be wrong in it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from pipeline.errors import ConfigurationError
from pipeline.events.catalogue import PUBLIC_TYPES
from pipeline.subscriptions import load_subscriptions, patterns
from pipeline.topology import build_topology

EXAMPLE: Final = Path(__file__).parents[2] / "configs" / "subscriptions.example.toml"
GOOD: Final = """
[[subscriptions]]
name = "shop"
url = "https://shop.example.com/hook?token=abc"
events = ["task.*", "asset.stored"]
timeout_seconds = 2.5
headers = { Authorization = "Bearer s3cret" }
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "subscriptions.toml"
    path.write_text(text)
    return path


def mistakes(folder: Path, text: str) -> list[str]:
    """Give the lines of the message after the first."""
    with pytest.raises(ConfigurationError) as caught:
        load_subscriptions(write(folder, text), event_types=PUBLIC_TYPES)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def table(
    name: str = "shop",
    url: str = "https://a.example/x",
    events: str = '["task.complete"]',
    more: str = "",
) -> str:
    return (
        f'[[subscriptions]]\nname = "{name}"\nurl = "{url}"\nevents = {events}\n'
        f"{more}\n"
    )


def test_a_subscription_is_read(tmp_path: Path) -> None:
    """Every key that there is."""
    (shop,) = load_subscriptions(write(tmp_path, GOOD))

    assert shop.name == "shop"
    assert shop.url == "https://shop.example.com/hook?token=abc"
    assert shop.events == ("task.*", "asset.stored")
    assert shop.timeout_seconds == 2.5
    assert shop.headers["Authorization"].get_secret_value() == "Bearer s3cret"


def test_most_keys_may_be_left_out(tmp_path: Path) -> None:
    """The timeout is then that of the settings."""
    (shop,) = load_subscriptions(write(tmp_path, table()))

    assert shop.timeout_seconds is None
    assert shop.headers == {}


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    """Neither headers nor addresses, which may carry tokens."""
    (shop,) = load_subscriptions(write(tmp_path, GOOD))

    assert "s3cret" not in repr(shop)
    assert "abc" not in repr(shop)


def test_an_empty_file_has_no_subscriptions(tmp_path: Path) -> None:
    """Nobody is told, which is no mistake."""
    assert load_subscriptions(write(tmp_path, "")) == ()


def test_the_example_is_right() -> None:
    """It is what the documentation points to."""
    found = load_subscriptions(EXAMPLE, event_types=PUBLIC_TYPES)

    assert [one.name for one in found] == ["shop", "archive", "alarms"]


def test_each_subscription_gets_a_queue(tmp_path: Path) -> None:
    """The patterns become bindings."""
    found = load_subscriptions(write(tmp_path, GOOD))

    topology = build_topology(subscriptions=patterns(found))

    assert "notify.shop" in topology.work_queues
    bound = {b.key for b in topology.bindings if b.queue == "notify.shop"}
    assert {"task.*", "asset.stored", "notify.shop"} == bound


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    """Each with its place, in one message."""
    text = (
        table(name="Shop!", url="ftp://x", events="[]", more="timeout_seconds = 0")
        + table(name="b", events='["task..x"]', more='colour = "red"')
        + '[[subscriptions]]\nname = "c"\n'
    )

    found = mistakes(tmp_path, text)

    assert [line.split(":")[0] for line in found] == [
        "#0.name (Shop!)",
        "#0.url (Shop!)",
        "#0.events (Shop!)",
        "#0.timeout_seconds (Shop!)",
        "#1.events.0 (b)",
        "#1.colour (b)",
        "#2.url (c)",
        "#2.events (c)",
    ]
    assert all("expected" in line for line in found)


@pytest.mark.parametrize(
    "url",
    [
        "shop.example.com/hook",
        "https://",
        "https:///hook",
        "https://user:password@a.example/",
        "https://a.example:0/",
        "https://a.example:99999/",
        "https://[::1/",
        "https://a.example/a b",
        "file:///etc/passwd",
    ],
)
def test_addresses_that_cannot_be_called_are_refused(tmp_path: Path, url: str) -> None:
    """Before anything opens."""
    (found,) = mistakes(tmp_path, table(url=url))

    assert found.startswith("#0.url (shop): expected an address")


@pytest.mark.parametrize("name", ["", "a" * 41, "Shop", "a.b", "a b", "ä", "a\\n"])
def test_names_that_cannot_be_part_of_a_queue_are_refused(
    tmp_path: Path, name: str
) -> None:
    """1 to 40 of a-z, 0-9 and dashes."""
    found = mistakes(tmp_path, table(name=name))

    assert any(line.startswith("#0.name") for line in found)


def test_duplicate_names_are_refused(tmp_path: Path) -> None:
    """Two subscriptions would share a queue, and each get half of the events."""
    found = mistakes(tmp_path, table() + table() + table(name="other"))

    assert found == ["subscriptions: expected one named 'shop', got 2"]


@pytest.mark.parametrize("pattern", ["task.compelte", "task", "asset.requested", "a.*"])
def test_pattern_that_no_event_fits_is_refused(tmp_path: Path, pattern: str) -> None:
    """A misspelt type would be silence for ever."""
    (found,) = mistakes(tmp_path, table(events=f'["{pattern}"]'))

    assert (
        found == f"shop: expected a pattern of events that there are, got '{pattern}'"
    )


@pytest.mark.parametrize("pattern", ["#", "task.#", "*.stored", "task.complete", "*.*"])
def test_pattern_that_an_event_fits_is_taken(tmp_path: Path, pattern: str) -> None:
    """As AMQP has it: ``*`` one word, ``#`` any number."""
    path = write(tmp_path, table(events=f'["{pattern}"]'))

    assert len(load_subscriptions(path, event_types=PUBLIC_TYPES)) == 1


@pytest.mark.parametrize(
    "headers",
    [
        '{ Host = "x" }',
        '{ "Content-Type" = "text/plain" }',
        '{ "webhook-id" = "1" }',
        '{ "Webhook-Signature" = "1" }',
        '{ "a b" = "1" }',
        '{ "x:" = "1" }',
        '{ x = "a\\nb" }',
        '{ x = "ä" }',
    ],
)
def test_headers_that_are_ours_or_broken_are_refused(
    tmp_path: Path, headers: str
) -> None:
    """Nothing may replace the id, nor end the headers early."""
    (found,) = mistakes(tmp_path, table(more=f"headers = {headers}"))

    assert found.startswith("#0.headers (shop): expected")


def test_values_of_headers_are_not_in_messages(tmp_path: Path) -> None:
    """They are secrets, also where they are wrong."""
    text = table(more='headers = { x = "s3cret\\n", y = ["s3cret"] }')

    assert "s3cret" not in "".join(mistakes(tmp_path, text))


def test_wrong_shapes_are_mistakes_too(tmp_path: Path) -> None:
    """Whatever TOML can hold in the place of the list."""
    assert mistakes(tmp_path, 'subscriptions = "shop"') != []
    assert mistakes(tmp_path, "subscriptions = [1, 2]") != []
    assert mistakes(tmp_path, "[subscriptions]\nname = 1") != []
    assert mistakes(tmp_path, "other = 1") != []


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    """The message says where."""
    with pytest.raises(ConfigurationError, match=r"expected TOML.*line 1"):
        load_subscriptions(write(tmp_path, "[[subscriptions]"))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """The message says which and why."""
    with pytest.raises(ConfigurationError, match=r"none\.toml.*No such file"):
        load_subscriptions(tmp_path / "none.toml")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """TOML is UTF-8."""
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe")

    with pytest.raises(ConfigurationError, match="expected TOML"):
        load_subscriptions(path)
