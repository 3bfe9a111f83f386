"""Load the settings and report every mistake at once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
)

from pipeline.errors import ConfigurationError
from pipeline.settings.door_layer import door_layer
from pipeline.settings.keys import (
    did_you_mean,
    find_field,
    find_table,
    is_marked,
    leaf_keys,
)
from pipeline.settings.layers import (
    CONFIG_VARIABLE,
    DEFAULT_FILE,
    Layer,
    Mistake,
    read_environment,
    read_file,
    read_flags,
)
from pipeline.settings.model import Settings
from pipeline.settings.values import Hidden, Masked, mask_password

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

DEFAULT: Final = "default"
#: Longer values are cut in messages.
_SHOWN_LENGTH: Final = 60
#: Our words for what pydantic says in its own.
_EXPECTED: Final = {
    "byte_size": "a size such as 1048576, 512KiB or 1MiB",
    "model_type": "a table",
    "string_pattern_mismatch": "text of the form {pattern}",
    "string_too_short": "a length of at least {min_length}",
    "too_long": "at most {max_length} items",
    "too_short": "a length of at least {min_length}",
    "tuple_type": "a list",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The settings, and where each of them came from."""

    settings: Settings
    #: By dotted key; what is not in here has its default.
    origins: Mapping[str, str]
    #: The file that was read, if one was.
    file: Path | None

    def origin(self, key: str) -> str:
        """Say where a setting came from: a file, a variable, a flag, the default.

        A table came from where the first of its entries did.
        """
        below = f"{key}."
        found = (o for k, o in self.origins.items() if k == key or k.startswith(below))
        return next(found, DEFAULT)


def load_settings(
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Loaded:
    """Load the settings: defaults < door in use < TOML file < environment < flags.

    Args:
        file: the TOML file; ``None``: what ``PIPELINE_CONFIG`` names, else
            ``pipeline.toml`` in the working directory if there is one.
        environ: the environment; ``None``: that of the process.
        flags: values by dotted key; ``None`` values count as not given.

    Raises:
        ConfigurationError: something is wrong; the message has a line for each
            mistake, with its key, its origin, what was expected and what came.
    """
    loaded, mistakes = try_settings(file=file, environ=environ, flags=flags)
    if loaded is None:
        count = (
            "1 setting is" if len(mistakes) == 1 else f"{len(mistakes)} settings are"
        )
        lines = "".join(f"\n  {mistake}" for mistake in mistakes)
        message = f"{count} wrong:{lines}"
        raise ConfigurationError(message)
    return loaded


def try_settings(
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> tuple[Loaded | None, Sequence[Mistake]]:
    """Do as ``load_settings``, but return the mistakes; never raises."""
    path, layers = _read_layers(file, environ, flags)
    mistakes = [mistake for layer in layers for mistake in layer.mistakes]
    origins = {k: v for layer in reversed(layers) for k, v in layer.origins.items()}
    try:
        settings = _validate(layers)
    except ValidationError as error:
        found = error.errors(include_url=False)
        mistakes += [_mistake(details, origins, path) for details in found]
    else:
        if not mistakes:
            return Loaded(settings=settings, origins=origins, file=path), ()
    return None, sorted(mistakes, key=lambda mistake: mistake.key)


def find_value(
    key: str,
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> object:
    """Give a setting of no table as it was given, though others may be wrong.

    ``None``: it was not given.
    """
    _, layers = _read_layers(file, environ, flags)
    return next((one.values[key] for one in layers if key in one.values), None)


def _read_layers(
    file: Path | None,
    environ: Mapping[str, str] | None,
    flags: Mapping[str, object] | None,
) -> tuple[Path | None, list[Layer]]:
    """Read every source, the first one in rank first."""
    environ = os.environ if environ is None else environ
    path = _choose_file(file, environ)
    keys = tuple(leaf_keys())
    layers = [
        read_flags(flags or {}, keys),
        read_environment(environ, keys),
        Layer() if path is None else read_file(path),
    ]
    return path, [*layers, door_layer(layers)]


def _choose_file(file: Path | None, environ: Mapping[str, str]) -> Path | None:
    if file is not None:
        return file
    if named := environ.get(CONFIG_VARIABLE):
        return Path(named)
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


def _validate(layers: Sequence[Layer]) -> Settings:
    """Merge the layers, the first one first in rank, and validate.

    Raises:
        ValidationError: something is wrong.
    """

    class Layered(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: object, **__: object
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return tuple(
                InitSettingsSource(settings_cls, layer.values) for layer in layers
            )

    return Settings(**dict(Layered()))


def _mistake(
    details: ErrorDetails, origins: Mapping[str, str], path: Path | None
) -> Mistake:
    """Put what pydantic found into our words, without secrets."""
    names = [str(part) for part in details["loc"] if isinstance(part, str)]
    key = ".".join(names)
    places = "".join(f"[{part}]" for part in details["loc"] if isinstance(part, int))
    origin = next(
        (o for k, o in origins.items() if k == key or k.startswith(f"{key}.")),
        str(path),
    )
    if details["type"] == "extra_forbidden":
        table = find_table(names[:-1])
        near = did_you_mean(names[-1], tuple(table.model_fields)) if table else ""
        return Mistake(key=key, origin=origin, text=f"unknown key{near}")
    expected = _expected(details)
    got = _shown(find_field(key), details["input"])
    return Mistake(
        key=key + places, origin=origin, text=f"expected {expected}, got {got}"
    )


def _expected(details: ErrorDetails) -> str:
    """Say what would have been right."""
    if (words := _EXPECTED.get(details["type"])) is not None:
        return words.format(**details.get("ctx", {}))
    return details["msg"].split(", unable", 1)[0].removeprefix("Input should be ")


def _shown(info: FieldInfo | None, value: object) -> str:
    """Show what came, as far as it may be seen."""
    if info is None or is_marked(info, Hidden):
        return "a value that is not shown here"
    shown = repr(value)
    if is_marked(info, Masked):
        shown = mask_password(shown)
    return shown if len(shown) <= _SHOWN_LENGTH else f"{shown[:_SHOWN_LENGTH]}…"
