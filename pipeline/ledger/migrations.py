"""The schema's numbered scripts, as they are shipped."""

from __future__ import annotations

from importlib.resources import files


def migrations() -> list[str]:
    """Give the scripts of the schema, the first one first."""
    folder = files("pipeline.ledger") / "schema"
    scripts = sorted(
        (item for item in folder.iterdir() if item.name.endswith(".sql")),
        key=lambda item: item.name,
    )
    return [script.read_text(encoding="utf-8") for script in scripts]
