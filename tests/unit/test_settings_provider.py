"""What may be said of the provider: where it is asked, and what is believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.bootstrap import provider_of
from pipeline.errors import ConfigurationError
from pipeline.settings import load_settings, show_settings, try_settings

if TYPE_CHECKING:
    from pathlib import Path

BASE = "https://api.example.com"
KEY = "key-of-the-account"


def mistakes(**flags: object) -> list[str]:
    loaded, found = try_settings(
        environ={}, flags={k.replace("__", "."): v for k, v in flags.items()}
    )
    assert loaded is None
    return [str(mistake) for mistake in found]


def test_bodies_are_believed_unless_it_is_said_otherwise() -> None:
    provider = load_settings(environ={}).settings.provider

    assert ("body", None, None) == (
        provider.trust,
        provider.base_url,
        provider.api_key,
    )


def test_key_is_read_from_a_file_and_never_shown(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text(f"{KEY}\n", encoding="utf-8")
    environ = {
        "PIPELINE_PROVIDER__API_KEY_FILE": str(secret),
        "PIPELINE_PROVIDER__BASE_URL": f"{BASE}/",
        "PIPELINE_PROVIDER__TRUST": "verify",
    }

    loaded = load_settings(environ=environ)

    provider = loaded.settings.provider
    assert provider.api_key is not None
    assert (KEY, BASE) == (provider.api_key.get_secret_value(), provider.base_url)
    shown = {item.key: item.value for item in show_settings(loaded)}
    assert "set" == shown["provider.api_key"]
    assert KEY not in repr(loaded)


def test_who_wants_to_verify_needs_an_address() -> None:
    (mistake,) = mistakes(provider__trust="verify", provider__api_key=KEY)

    assert "provider.trust" in mistake
    assert "expected provider.base_url beside it" in mistake


def test_key_is_wanted_only_where_the_provider_is_asked() -> None:
    """The ingress reads the same file, and should not hold the key."""
    flags = {"provider.trust": "verify", "provider.base_url": BASE}

    settings = load_settings(environ={}, flags=flags).settings

    assert "verify" == settings.provider.trust
    with pytest.raises(ConfigurationError, match="api_key: expected a value"):
        provider_of(settings)
    with pytest.raises(ConfigurationError, match="base_url: expected a value"):
        provider_of(load_settings(environ={}, flags={"provider.api_key": KEY}).settings)


def test_wrong_address_is_one_mistake_and_not_two() -> None:
    (mistake,) = mistakes(
        provider__trust="verify", provider__api_key=KEY, provider__base_url="x"
    )

    assert mistake.startswith("provider.base_url")


@pytest.mark.parametrize(
    "url",
    [
        "api.example.com",
        "https://",
        "https://user:word@api.example.com",
        "https://api.example.com/?key=1",
        "https://api.example.com/#here",
        "https://api.example.com:0",
        "https://api.example.com:x",
        "ftp://api.example.com",
        # The key would go over the line in the clear.
        "http://api.example.com",
        "http://10.0.0.1",
    ],
)
def test_key_is_sent_over_tls_to_a_plain_address_only(url: str) -> None:
    (mistake,) = mistakes(provider__base_url=url)

    assert mistake.startswith("provider.base_url")


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "[::1]:8000", "localhost"])
def test_simulated_provider_on_this_machine_needs_no_tls(host: str) -> None:
    flags = {"provider.base_url": f"http://{host}"}

    settings = load_settings(environ={}, flags=flags).settings

    assert f"http://{host}" == settings.provider.base_url
