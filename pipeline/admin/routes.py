"""Which address of the admin service is answered by whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pipeline.ingress.app import OTHER_VERSION, Routes, wrong_method

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from pipeline.admin.tasks import TasksView
    from pipeline.ingress.health import Get

TASKS_PATH: Final = "/tasks"


class AdminRoutes(Routes):
    """Takes submissions, and tells of its health.

    Args:
        gets: what is answered at which path.
        tasks: takes submissions.
    """

    def __init__(self, gets: Mapping[str, Get], tasks: TasksView) -> None:
        super().__init__(gets, None)
        self._tasks = tasks

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; every refusal is a problem document."""
        if request.path != TASKS_PATH or OTHER_VERSION in request:
            return await super().__call__(request)
        if request.method != "POST":
            return wrong_method(request, "POST")
        return await self._tasks.post(request)
