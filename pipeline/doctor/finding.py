"""What was found: what it is, why it matters, what to do."""

from __future__ import annotations

from enum import StrEnum

from pipeline.values import value


class Level(StrEnum):
    """How much a finding matters."""

    #: All is well.
    OK = "ok"
    #: It works, but somebody should know.
    WARNING = "warning"
    #: Something is wrong.
    PROBLEM = "problem"


@value
class Finding:
    """One thing that was looked at."""

    #: Of the pipeline, such as ``broker``.
    part: str
    level: Level
    what: str
    #: Why it matters; empty where all is well.
    why: str = ""
    #: What to do about it; empty where all is well.
    todo: str = ""


def ok(part: str, what: str) -> Finding:
    """Say that something is well."""
    return Finding(part=part, level=Level.OK, what=what)


def warning(part: str, what: str, *, why: str, todo: str) -> Finding:
    """Say that something should be known."""
    return Finding(part=part, level=Level.WARNING, what=what, why=why, todo=todo)


def problem(part: str, what: str, *, why: str, todo: str) -> Finding:
    """Say that something is wrong."""
    return Finding(part=part, level=Level.PROBLEM, what=what, why=why, todo=todo)
