"""The command line. ``main`` is what the command ``pipeline`` starts.

Each command is thin: read the settings, open what is needed, call, print. What a
command needs is imported inside it, so that ``--help`` and completion stay fast.
"""

from pipeline.cli.main import main

__all__ = ["main"]
