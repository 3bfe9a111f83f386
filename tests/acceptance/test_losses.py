"""Callbacks that never come are made up for by asking: the short form of a long run."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pytest

from tests.losses import SUBMITTED, lose

if TYPE_CHECKING:
    from pathlib import Path


#: The clock is so fast that a few writes to a busy disk take longer than asking may.
#: Far less than what is waited for a task that nobody asks for.
STALLS: Final = timedelta(seconds=15)


@pytest.mark.slow
async def test_a_third_of_all_callbacks_may_get_lost(tmp_path: Path) -> None:
    """Every task ends as the provider has it, in time, and nobody asks too often.

    Tasks of every operation, some with a dead link; two pollers share the work.
    """
    found = await lose(
        tmp_path,
        tasks=2 * len(SUBMITTED),
        loss=0.3,
        seed=1,
        scale=20,
        stalls=STALLS,
    )

    assert found.is_good, found.as_dict()
    assert found.callbacks_lost > found.callbacks_planned / 5
    assert found.recovered >= found.ends_lost > 0
    assert found.operations == len(SUBMITTED)
    assert found.renewed > 0
    assert min(found.questions_of_pollers) > 0
