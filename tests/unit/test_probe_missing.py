"""Who wants audio decoded without a decoder is told what to install."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.audio import probe
from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "find_spec", lambda _: None)

    with pytest.raises(ConfigurationError, match=r"install callback-pipeline\[media\]"):
        probe.require_decoder()


def test_decoder_is_there_for_the_tests() -> None:
    probe.require_decoder()


def test_child_stands_beside_its_parent() -> None:
    """It is started as a file, so it has to be in every package that is built."""
    program: Path = probe.PROGRAM

    assert program.is_file()
    assert "pipeline" not in [
        line.split()[1].partition(".")[0]
        for line in program.read_text(encoding="utf-8").splitlines()
        if line.startswith(("import ", "from "))
    ]
