"""When a process has a poller, and how its settings are read and shown."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pipeline.errors import ConfigurationError
from pipeline.settings import Settings, load_settings, show_settings, variable
from pipeline.settings.polling import is_polling

ADDRESS = {"provider.base_url": "https://a.example"}
KEY = {"provider.api_key": "the-key"}


def load(flags: dict[str, Any], environ: dict[str, str] | None = None) -> Settings:
    return load_settings(environ=environ or {}, flags=flags).settings


@pytest.mark.parametrize(
    ("given", "polls"),
    [
        ({}, False),
        (ADDRESS, False),
        (KEY, False),
        ({**ADDRESS, **KEY}, True),
        ({"provider.door": "kie-ai", **KEY}, True),
        ({**ADDRESS, **KEY, "poller.enabled": False}, False),
        ({"poller.enabled": True}, True),
    ],
    ids=["nothing", "address", "key", "both", "door and key", "off", "on"],
)
def test_run_has_a_poller_where_the_provider_can_be_asked(
    given: dict[str, Any], *, polls: bool
) -> None:
    """Switched on without a key it says so, and does not run without asking."""
    assert polls is is_polling(load(given))


def test_quiet_times_of_operations_are_a_table_also_in_a_variable() -> None:
    name = variable("poller.operation_quiet")
    loaded = load_settings(environ={name: '{"wav": "90s", "midi": 20}'})

    shown = {one.key: one.value for one in show_settings(loaded)}
    poller = loaded.settings.poller

    assert timedelta(seconds=90) == poller.quiet_for("wav")
    assert timedelta(minutes=3) == poller.quiet_for("generate")
    assert {"wav": "90s", "midi": "20s"} == shown["poller.operation_quiet"]


def test_no_task_is_asked_for_more_often_than_the_provider_allows() -> None:
    """It allows three questions for one task in a second."""
    with pytest.raises(ConfigurationError, match=r"poller\.interval.* 334ms or more"):
        load({"poller.interval": "300ms"})
