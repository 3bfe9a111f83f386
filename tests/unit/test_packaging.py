"""What is shipped besides code: locks, versions, and nothing of a developer's own."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[2]
LOCKS: Final = sorted((ROOT / "requirements").glob("*.lock"))
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

#: One requirement in a lock: name, version, perhaps a marker, one hash or more.
LOCKED: Final = re.compile(
    r"[a-z0-9][a-z0-9._-]*(\[[a-z0-9,._-]+\])?==[0-9][0-9a-zA-Z.+!]*( ; [^\\]+?)?"
    r"( \\\n    --hash=sha256:[0-9a-f]{64})+\n"
)
#: Folders that only one person's machine has.
MACHINE_PATH: Final = re.compile(
    rb"(?<![\w.<>{}/-])(?:/(?:home|Users|root|work|mnt|tmp)/|[A-Z]:\\Users\\)\w"
)

#: What is read inside a container, where the folders are ours.
IN_CONTAINERS: Final = "configs/compose/"

every_lock = pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)


@every_lock
def test_lock_names_no_address(lock: Path) -> None:
    """Where packages come from is the business of who installs them."""
    assert "://" not in lock.read_text("utf-8")


@every_lock
def test_everything_in_a_lock_is_pinned_and_hashed(lock: Path) -> None:
    """So that an installation is the same everywhere, or fails."""
    text = lock.read_text("utf-8")

    rest = LOCKED.sub("", text)

    assert "" == rest
    assert "==" in text


def test_a_lock_pins_extras_where_they_are_wanted() -> None:
    """Pip takes ``name==1`` for no pin of ``name[extra]`` once there is a ``2``."""
    lock = ROOT / "requirements" / "dev.lock"
    pinned = {
        name: {*filter(None, extras.split(","))}
        for name, extras in re.findall(
            r"^([a-z0-9._-]+)(?:\[(.*?)\])?==", lock.read_text("utf-8"), re.MULTILINE
        )
    }

    wanted = [
        (name, needed)
        for name, extras in pinned.items()
        for text in requires_of(name)
        if (needed := Requirement(text)).extras
        and (
            needed.marker is None
            or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras))
        )
    ]

    assert wanted
    for name, needed in wanted:
        missing = needed.extras - pinned[canonicalize_name(needed.name)]
        assert not missing, f"{name} needs {needed}"


def test_locks_agree_on_versions() -> None:
    """What is tested is what is run, in the image too."""
    developed = pins(ROOT / "requirements" / "dev.lock")

    assert {"build", "dev", "runtime"} <= {lock.stem for lock in LOCKS}
    for lock in LOCKS:
        different = {
            name: (versions, developed[name])
            for name, versions in pins(lock).items()
            if name in developed and versions != developed[name]
        }
        assert {} == different, lock.name


def test_runtime_lock_holds_all_that_the_package_needs() -> None:
    """A dependency that was added without ``make lock`` would be missed here."""
    locked = pins(ROOT / "requirements" / "runtime.lock")

    for text in PROJECT["project"]["dependencies"]:
        requirement = Requirement(text)
        versions = locked.get(requirement.name, set())
        assert versions, f"{requirement.name} is not locked: run make lock"
        assert all(map(requirement.specifier.contains, versions)), text


def test_build_lock_holds_what_the_build_needs() -> None:
    """The image is built with the locked backend, not with what is newest."""
    locked = pins(ROOT / "requirements" / "build.lock")

    for text in PROJECT["build-system"]["requires"]:
        assert Requirement(text).name in locked


def test_changelog_starts_with_the_version_of_the_project() -> None:
    """Whoever sees the version finds out what is in it."""
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")

    versions = re.findall(r"^## \[?([0-9][^\]\s]*)", changelog, re.MULTILINE)

    assert PROJECT["project"]["version"] == versions[0]


def test_no_file_names_a_folder_of_one_machine() -> None:
    """Examples and defaults have to work elsewhere."""
    found = [
        f"{name}: {match[0].decode(errors='replace')}"
        for name in tracked_files()
        if not name.startswith(IN_CONTAINERS)
        and (match := MACHINE_PATH.search((ROOT / name).read_bytes()))
    ]

    assert [] == found


def requires_of(name: str) -> list[str]:
    """Give what a package needs; nothing, if it is for other machines only."""
    try:
        return requires(name) or []
    except PackageNotFoundError:
        return []


def pins(lock: Path) -> dict[str, set[str]]:
    """Give the versions in a lock by name; some have one for each Python."""
    found: dict[str, set[str]] = {}
    lines = lock.read_text("utf-8").splitlines()
    for line in lines:
        if "==" in line and not line.startswith(" "):
            name, _, rest = line.partition("==")
            found.setdefault(name.partition("[")[0], set()).add(rest.split()[0])
    return found


def tracked_files() -> list[str]:
    """List the repository's files; those of a copy without Git are all there are."""
    git = shutil.which("git")
    if git and (ROOT / ".git").exists():
        names = subprocess.check_output(
            [git, "-c", f"safe.directory={ROOT}", "ls-files", "-z"], cwd=ROOT, text=True
        ).split("\0")
    else:
        folders = ("pipeline", "tests", "configs", "docs", "examples")
        paths = [path for folder in folders for path in (ROOT / folder).rglob("*")]
        names = [str(path.relative_to(ROOT)) for path in paths]
    return [
        name
        for name in names
        if (ROOT / name).is_file() and "__pycache__" not in Path(name).parts
    ]
