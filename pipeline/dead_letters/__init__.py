"""Dead letters: look through them, replay them, discard them.

A dead-letter queue is an ordinary queue, so all of this is publish and consume
alone and works on every broker. The command line and a console call the same
functions.
"""

from pipeline.dead_letters.files import find_dead_files
from pipeline.dead_letters.giving_up import GivingUp, requested_files
from pipeline.dead_letters.letter import (
    DeadLetter,
    Selection,
    find_stage,
    find_task_id,
)
from pipeline.dead_letters.operations import (
    OnProgress,
    Progress,
    Settle,
    browse,
    discard,
    find,
    replay,
)

__all__ = [
    "DeadLetter",
    "GivingUp",
    "OnProgress",
    "Progress",
    "Selection",
    "Settle",
    "browse",
    "discard",
    "find",
    "find_dead_files",
    "find_stage",
    "find_task_id",
    "replay",
    "requested_files",
]
