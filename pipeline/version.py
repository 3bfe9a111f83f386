"""Which version this is, for people and for descriptions."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final

NOT_INSTALLED: Final = "(not installed)"


def installed_version() -> str:
    """Give the version of the installed package."""
    try:
        return version("callback-pipeline")
    except PackageNotFoundError:
        return NOT_INSTALLED
