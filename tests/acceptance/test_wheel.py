"""The wheel, installed alone, is the whole program."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT: Final = Path(__file__).parents[2]
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    run(
        *(sys.executable, "-m", "hatchling", "build"),
        *("--target", "wheel", "--directory", str(folder)),
        folder=ROOT,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment with the wheel and what it says it needs.

    Its requirements are copied from the environment of the tests instead of being
    fetched again; pip then checks that they are all there.
    """
    home = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(home, with_pip=False)
    (site,) = home.glob("lib/python*/site-packages")
    copy_requirements(PROJECT["dependencies"], site)
    run(
        *(sys.executable, "-m", "pip", "--python", str(home / "bin" / "python")),
        *("install", "--quiet", "--no-index", "--no-compile", str(wheel)),
        folder=home,
    )
    return home / "bin"


def test_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    """Schemas are no Python, and are easily forgotten."""
    package = ROOT / "pipeline"
    expected = {
        str(path.relative_to(ROOT))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()

    packed = {name for name in names if ".dist-info/" not in name}
    assert expected == packed
    assert any(name.endswith(".sql") for name in packed)
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_installed_command_gives_its_version(commands: Path) -> None:
    """It is that of the project."""
    printed = run(str(commands / "pipeline"), "--version", folder=commands)

    assert f"pipeline {PROJECT['version']}\n" == printed


def test_demo_runs_from_the_wheel_alone(commands: Path, tmp_path: Path) -> None:
    """No extra is there: audio is WAV, and nothing of the checkout is in reach."""
    present = run(
        str(commands / "python"),
        "-c",
        "import importlib.util as u, json, pipeline;"
        "print(json.dumps([pipeline.__file__, *map(bool, map(u.find_spec,"
        " ('av', 'numpy', 'pytest', 'uvloop')))]))",
        folder=tmp_path,
    )
    where, *extras = json.loads(present)

    figures = json.loads(
        run(str(commands / "pipeline"), "demo", "--json", folder=tmp_path)
    )

    assert Path(where).is_relative_to(commands.parent)
    assert [False] * 4 == extras
    assert 0 == figures["lost"]
    assert figures["assets_stored"] > 0
    assert figures["dead_lettered"] == figures["replayed"] > 0
    assert [] == list(tmp_path.iterdir())


def run(*command: str, folder: Path) -> str:
    """Run a command that knows nothing of this environment; give what it prints."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PIPELINE_", "PYTHON", "VIRTUAL_ENV", "COV_"))
    }
    done = subprocess.run(
        command,
        capture_output=True,
        check=False,
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert 0 == done.returncode, done.stderr + done.stdout
    return done.stdout


def copy_requirements(requirements: Iterable[str], site: Path) -> None:
    """Copy what is required, and what that requires, but no extras unasked."""
    left = [Requirement(text) for text in requirements]
    seen: set[tuple[str, frozenset[str]]] = set()
    while left:
        requirement = left.pop()
        extras = frozenset(requirement.extras)
        key = (canonicalize_name(requirement.name), extras)
        if key in seen or not is_wanted(requirement, frozenset()):
            continue
        seen.add(key)
        found = find(requirement.name)
        copy_files(found, site)
        left += [
            Requirement(str(inner).partition(";")[0])
            for text in found.requires or ()
            if is_wanted(inner := Requirement(text), extras)
        ]


def is_wanted(requirement: Requirement, extras: frozenset[str]) -> bool:
    """Tell whether a requirement holds here, with these extras of its owner."""
    marker = requirement.marker
    return marker is None or any(
        marker.evaluate({"extra": extra}) for extra in extras or {""}
    )


def find(name: str) -> Distribution:
    """Find an installed package."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        pytest.fail(f"expected {name} beside the tests: run make test")


def copy_files(found: Distribution, site: Path) -> None:
    """Copy an installed package; its commands in ``bin`` are left behind."""
    for file in found.files or ():
        if ".." not in file.parts and file.suffix != ".pyc":
            target = site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(file.locate()), target)
