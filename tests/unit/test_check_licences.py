"""The check of licences fails where it has to."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.check_licences import (
    BUNDLED,
    EXCEPTIONS,
    LOCKS,
    ROOT,
    Package,
    check,
    is_allowed,
    locked,
    look_up,
    read_lock,
    spelled,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "licence",
    [
        "MIT",
        "Apache-2.0 AND MIT",
        "MPL-2.0 AND (Apache-2.0 OR MIT)",
        # One may be chosen, and one is good.
        "GPL-3.0-only OR MIT",
        "(GPL-2.0-only or MIT) and Zlib",
    ],
)
def test_permissive_licence_passes(licence: str) -> None:
    assert [] == list(check([Package(name="one", licence=licence)]))


@pytest.mark.parametrize(
    "licence",
    [
        "GPL-2.0-or-later",
        "AGPL-3.0-only",
        "LGPL-3.0-only",
        "MIT AND GPL-3.0-only",
        "MIT AND (GPL-3.0-only OR AGPL-3.0-only)",
        "GPL-3.0-only WITH GCC-exception-3.1",
        "MIT WITH something",
        "GNU General Public License v2 or later (GPLv2+)",
        "Our own licence",
        "UNKNOWN",
        "",
        "MIT AND",
        "(MIT",
        "MIT)",
        "OR",
    ],
)
def test_everything_else_fails(licence: str) -> None:
    (mistake,) = check([Package(name="one", licence=licence)])

    assert mistake.startswith("one: expected a permissive licence, got ")


def test_exception_is_for_one_licence_alone() -> None:
    name, (licence, reason) = next(iter(EXCEPTIONS.items()))

    assert reason
    assert [] == list(check([Package(name=name, licence=licence)]))
    (changed,) = check([Package(name=name, licence="GPL-3.0-only")])
    assert "the exception is for" in changed
    (stale,) = check([Package(name=name, licence="MIT")])
    assert "needs no exception any more" in stale


def test_libraries_of_others_need_a_reason() -> None:
    (mistake,) = check([Package(name="one", licence="MIT", has_libraries=True)])
    known = Package(name="av", licence="BSD-3-Clause", has_libraries=True)

    assert "one: brings libraries of others; look at their licences" == mistake
    assert [] == list(check([known]))


def make_package(folder: Path, **fields: str) -> None:
    """Install a package that is nothing but metadata."""
    info = folder / "made_up-1.0.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.4", "Name: made-up", "Version: 1.0"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ({"License_Expression": "MIT OR Apache-2.0"}, "MIT OR Apache-2.0"),
        ({"License": "MIT License"}, "MIT"),
        ({"Classifier": "License :: OSI Approved :: BSD License"}, "BSD-3-Clause"),
        (
            {
                "License": "A whole text\n  over many lines",
                "Classifier": "License :: OSI Approved :: MIT License",
            },
            "MIT",
        ),
        ({"Classifier": "License :: OSI Approved"}, ""),
        ({}, ""),
    ],
)
def test_licence_is_found_wherever_it_stands(
    fields: dict[str, str],
    licence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_package(tmp_path, **fields)
    monkeypatch.syspath_prepend(str(tmp_path))

    package = look_up("made-up")

    assert licence == package.licence
    assert is_allowed(licence) is bool(licence)


def test_bad_one_that_is_locked_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``make licences`` runs it, with a package under GPL beside the others."""
    make_package(tmp_path, License_Expression="GPL-3.0-or-later")
    lock = "made-up==1.0 \\\n    --hash=sha256:00\n"
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests import check_licences\n"
        f"check_licences.read_lock = lambda _: {lock!r}\n"
        "sys.exit(check_licences.main())\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        check=False,
        cwd=ROOT,
        text=True,
    )

    assert (1, "") == (done.returncode, done.stderr)
    assert "made-up: expected a permissive licence, got GPL-3.0-or-later" in done.stdout
    assert "1 packages, 1 mistakes" in done.stdout


def test_names_in_a_lock_are_those_for_this_machine() -> None:
    lock = (
        "one==1.0 \\\n    --hash=sha256:00\n"
        "two[extra]==2.0 ; python_full_version >= '3.0' \\\n    --hash=sha256:00\n"
        "three==3.0 ; sys_platform == 'plan9' \\\n    --hash=sha256:00\n"
    )

    assert ["one", "two"] == list(locked(lock))


def test_every_package_to_run_is_looked_at_and_passes() -> None:
    names = {name for lock in LOCKS for name in locked(read_lock(lock))}

    assert {"aiohttp", "aio-pika", "apsw", "av", "asyncpg", "obstore"} <= names
    assert [] == list(check(map(look_up, sorted(names))))


def test_reasons_are_told_in_the_document() -> None:
    text = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")

    for name in (*EXCEPTIONS, *BUNDLED):
        assert f"`{name}`" in text
    assert "MIT" == spelled(" mit license ")
