"""The HTTP service for other programs of ours: they submit tasks at it."""

from pipeline.admin.routes import TASKS_PATH, AdminRoutes
from pipeline.admin.tasks import TasksView

__all__ = ["TASKS_PATH", "AdminRoutes", "TasksView"]
