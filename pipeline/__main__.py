"""``python -m pipeline`` is the same as the command ``pipeline``."""

from __future__ import annotations

from pipeline.cli import main

main()
