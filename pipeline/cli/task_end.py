"""How following a task ends: whether its files came, and what to do if not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pipeline.cli import render
from pipeline.cli.task_timeline import GIVEN_UP

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta

    from pipeline.settings import Settings
    from pipeline.submission import DeadFiles, Followed
    from pipeline.task import AssetKey, TaskId

#: Exit code where a task was not over in time; 1 is for one that is, without success.
TIME_IS_UP: Final = 3


def dead_files_of(settings: Settings) -> DeadFiles:
    """Give what looks for dead downloads on the broker of the settings.

    Where it cannot be asked, that is said once, and there are none to be seen.
    """
    from pipeline.bootstrap import open_parts
    from pipeline.dead_letters import find_dead_files
    from pipeline.errors import PipelineError

    is_told = False

    async def find(task_id: TaskId) -> frozenset[AssetKey]:
        nonlocal is_told
        try:
            async with open_parts(settings, must_exist=True) as parts:
                return await find_dead_files(parts.broker, task_id)
        except PipelineError as error:
            if not is_told:
                is_told = True
                render.warn(f"dead letters are not seen: {error}")
            return frozenset()

    return find


def replay_of(task_id: TaskId) -> str:
    """Write the command that replays the dead downloads of a task."""
    task = render.plain(task_id)
    return f"`pipeline dead-letters replay --queue download --task {task}`"


def what_is_wrong(followed: Followed) -> Iterator[str]:
    """Say why the files of a task that is over are not all there, and what to do."""
    from pipeline.task import AssetState, Stage

    task = render.plain(followed.task_id)
    if followed.is_given_up:
        yield f"task {task} is {GIVEN_UP}"
        return
    if followed.stage is Stage.FAILED:
        yield f"task {task} has failed: {render.plain(followed.message)}"
        return
    total = render.count_of(len(followed.assets), "file")
    if stuck := followed.stuck:
        yield (
            f"task {task} is complete, but {len(stuck)} of {total} will not come:"
            " their downloads are dead letters. See to the reason, then"
            f" {replay_of(followed.task_id)}"
        )
    if expired := followed.count(AssetState.EXPIRED):
        yield (
            f"task {task} is complete, but {expired} of {total} cannot be had: every"
            " link to them is dead, and the provider has no other. A callback with"
            " a new link has them fetched after all"
        )


def time_is_up(task_id: TaskId, within: timedelta) -> str:
    """Say that a task was not over in time, and how to go on."""
    task = render.plain(task_id)
    return (
        f"task {task} is not over after {within.total_seconds():g} s; go on with"
        f" `pipeline tasks show {task} --follow`"
    )
