"""Where settings come from: defaults, a TOML file, the environment, flags.

Every layer is read into a tree of plain values, together with where each value
came from. Nothing is judged here but what has no place in the tree: unknown
variables and files that cannot be read. Those are noted, never raised, so that all
mistakes can be reported together.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pipeline.settings.keys import PREFIX, did_you_mean, variable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

Tree: TypeAlias = dict[str, Any]

FROM_FILE: Final = "_FILE"
#: Names the configuration file.
CONFIG_VARIABLE: Final = "PIPELINE_CONFIG"
#: Variables with this prefix belong to the tests.
TEST_PREFIX: Final = "PIPELINE_TEST_"
#: Read when no other file is named and this one exists.
DEFAULT_FILE: Final = Path("pipeline.toml")
#: A secret in a file may not be longer.
_SECRET_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One thing that is wrong, in words for the person who can put it right."""

    #: The setting's dotted key, or the variable's name where there is no key.
    key: str
    #: A file, an environment variable or a flag.
    origin: str
    #: What was expected, what came.
    text: str

    def __str__(self) -> str:
        """Give it in one line."""
        where = f" ({self.origin})" if self.origin != self.key else ""
        return f"{self.key}{where}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Values of one kind of source, and the origin of each by dotted key."""

    values: Tree = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def put(self, key: str, value: object, origin: str) -> None:
        """Put a value into the tree by its dotted key."""
        *sections, last = key.split(".")
        tree = self.values
        for section in sections:
            tree = tree.setdefault(section, {})
        tree[last] = value
        self.origins[key] = origin


def read_file(path: Path) -> Layer:
    """Read a TOML file; what is wrong with it as a whole is noted."""
    layer = Layer()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        layer.mistakes.append(
            Mistake(key="config", origin=str(path), text="the file does not exist")
        )
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        text = f"expected a readable TOML file, got: {error}"
        layer.mistakes.append(Mistake(key="config", origin=str(path), text=text))
    else:
        layer.values.update(values)
        layer.origins.update(dict.fromkeys(_leaves(values), str(path)))
    return layer


def read_environment(environ: Mapping[str, str], keys: Collection[str]) -> Layer:
    """Read every ``PIPELINE_`` variable; unknown ones are noted.

    An empty variable counts as not given, because a compose file cannot leave one
    out.
    """
    layer = Layer()
    known = {variable(key): key for key in keys}
    for name in sorted(environ):
        is_ours = name.startswith(PREFIX) and not name.startswith(TEST_PREFIX)
        if not is_ours or name == CONFIG_VARIABLE or not environ[name]:
            continue
        base = name.removesuffix(FROM_FILE)
        if name in known:
            layer.put(known[name], environ[name], name)
        elif base in known:
            _read_secret(layer, known[base], name, environ)
        else:
            text = f"unknown variable{did_you_mean(name, known)}"
            layer.mistakes.append(
                Mistake(key=name, origin="environment variable", text=text)
            )
    return layer


def read_flags(flags: Mapping[str, object], keys: Collection[str]) -> Layer:
    """Take values given on the command line by dotted key; ``None``: not given."""
    layer = Layer()
    for key, value in flags.items():
        if key not in keys:
            text = f"unknown key{did_you_mean(key, keys)}"
            layer.mistakes.append(Mistake(key=key, origin="flag", text=text))
        elif value is not None:
            layer.put(key, value, "flag")
    return layer


def _read_secret(layer: Layer, key: str, name: str, environ: Mapping[str, str]) -> None:
    """Read a value from the file that a ``…_FILE`` variable names."""
    if environ.get(name.removesuffix(FROM_FILE)):
        text = f"expected one of {name.removesuffix(FROM_FILE)} and {name}, got both"
        layer.mistakes.append(Mistake(key=key, origin=name, text=text))
        return
    try:
        with Path(environ[name]).open("rb") as file:
            content = file.read(_SECRET_BYTES).decode()
    except (OSError, ValueError) as error:
        # Not what was given: somebody may have put the secret itself there.
        reason = getattr(error, "strerror", None) or "no text in UTF-8"
        text = f"expected a file that can be read, got: {reason}"
        layer.mistakes.append(Mistake(key=key, origin=name, text=text))
    else:
        layer.put(key, content.rstrip("\r\n"), name)


def _leaves(tree: Tree, above: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}"
