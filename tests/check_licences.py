"""Hold the licences of what is installed to run against a list: ``make licences``.

What the locks for running name is looked up in the metadata of what is installed.
Whatever is not plainly permissive fails: GPL, AGPL, LGPL and what nobody has heard of,
unless it stands in a table here with its reason. ``docs/licences.md`` tells of both
tables. Exit code 1 if anything fails.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from packaging.markers import Marker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ROOT: Final = Path(__file__).resolve().parents[1]
LOCKS: Final = ("runtime.lock", "runtime-media.lock")

#: Licences (SPDX) that ask for no more than to be named, and MPL, which asks for the
#: source of its own files alone.
ALLOWED: Final = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC0-1.0",
        "ISC",
        "MIT",
        "MPL-2.0",
        "PSF-2.0",
        "Unlicense",
        "Zlib",
    }
)
#: How the same are written where no SPDX expression is.
SPELLINGS: Final[Mapping[str, str]] = {
    "apache 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd license": "BSD-3-Clause",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
}
#: By package: what it says of itself, and why that will do all the same.
EXCEPTIONS: Final[Mapping[str, tuple[str, str]]] = {
    "apsw": (
        "any-OSI",
        "its LICENSE is that of zlib, or any that is approved; the former is taken",
    ),
}
#: Packages that bring libraries of others, whose licences stand in no metadata.
BUNDLED: Final[Mapping[str, str]] = {
    "av": (
        "FFmpeg under LGPL-3.0 with x264 and x265 under GPL-2.0-or-later, and GMP,"
        " Nettle, GnuTLS and libunistring under LGPL: only in the extra media, which"
        " is loaded as a library of its own and is not part of the container image"
    ),
    "numpy": "OpenBLAS under BSD, libgfortran and libquadmath under GPL-3.0-or-later"
    " with the exception for GCC's runtime libraries, and LGPL: extra media only",
}

_ENTRY: Final = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(?P<version>[^\s;\\]+)"
    r"(?:\s*;\s*(?P<marker>[^\\]+?))?\s*\\?"
)
_TOKEN: Final = re.compile(r"\s*(\(|\)|[^\s()]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """What an installed package says of itself."""

    name: str
    #: An SPDX expression, or whatever stands in its place; empty: nothing.
    licence: str
    #: Whether it brings libraries of others.
    has_libraries: bool = False


def main() -> int:
    """Check everything; return the exit code."""
    names = sorted({name for lock in LOCKS for name in locked(read_lock(lock))})
    mistakes = []
    packages = []
    for name in names:
        try:
            packages.append(look_up(name))
        except metadata.PackageNotFoundError:
            mistakes.append(f"{name}: is locked and not installed")
    mistakes += check(packages)
    for mistake in mistakes:
        sys.stdout.write(f"{mistake}\n")
    sys.stdout.write(f"{len(names)} packages, {len(mistakes)} mistakes\n")
    return 1 if mistakes else 0


def read_lock(name: str) -> str:
    """Read one of our lists of hash-checked requirements."""
    return (ROOT / "requirements" / name).read_text(encoding="utf-8")


def locked(text: str) -> Iterator[str]:
    """Give the names in a lock that are meant for this machine."""
    for line in text.splitlines():
        found = _ENTRY.fullmatch(line)
        if found and (not found["marker"] or Marker(found["marker"]).evaluate()):
            yield found["name"]


def look_up(name: str) -> Package:
    """Read the metadata of an installed package.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    distribution = metadata.distribution(name)
    fields = distribution.metadata
    kinds = [
        kind.rpartition(" :: ")[2]
        for kind in fields.get_all("Classifier") or ()
        if kind.startswith("License :: ") and not kind.endswith(":: OSI Approved")
    ]
    expression = fields.get_all("License-Expression") or fields.get_all("License")
    said = expression[0] if expression else ""
    if not said or "\n" in said:
        # No name but a whole text: the classifiers have to do.
        said = " AND ".join(map(spelled, kinds)) if kinds else said.partition("\n")[0]
    files = distribution.files or ()
    return Package(
        name=name,
        licence=spelled(said),
        has_libraries=any(file.parts[0].endswith(".libs") for file in files),
    )


def spelled(licence: str) -> str:
    """Give the SPDX name of a licence that is written otherwise."""
    return SPELLINGS.get(licence.strip().lower(), licence.strip())


def check(packages: Iterable[Package]) -> Iterator[str]:
    """Say which packages may not be used as they are, and which reasons are stale."""
    for package in packages:
        name, licence = package.name, package.licence
        excepted = EXCEPTIONS.get(name)
        if is_allowed(licence):
            if excepted is not None:
                yield f"{name}: {licence} needs no exception any more"
        elif excepted is None:
            got = licence[:80] or "no licence at all"
            yield f"{name}: expected a permissive licence, got {got}"
        elif excepted[0] != licence:
            yield f"{name}: the exception is for {excepted[0]}, it now says {licence}"
        if package.has_libraries and name not in BUNDLED:
            yield f"{name}: brings libraries of others; look at their licences"


def is_allowed(expression: str) -> bool:
    """Judge an SPDX expression: all of ``AND``, one of ``OR``, no ``WITH``."""
    tokens = _TOKEN.findall(expression)
    try:
        allowed = _any(tokens)
    except IndexError:
        return False
    return allowed and not tokens


def _any(tokens: list[str]) -> bool:
    found = _all(tokens)
    while tokens and tokens[0].upper() == "OR":
        tokens.pop(0)
        found = _all(tokens) or found
    return found


def _all(tokens: list[str]) -> bool:
    found = _one(tokens)
    while tokens and tokens[0].upper() == "AND":
        tokens.pop(0)
        found = _one(tokens) and found
    return found


def _one(tokens: list[str]) -> bool:
    token = tokens.pop(0)
    if token != "(":
        return token in ALLOWED
    found = _any(tokens)
    return tokens.pop(0) == ")" and found


if __name__ == "__main__":
    sys.exit(main())
