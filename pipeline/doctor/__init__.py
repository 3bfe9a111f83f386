"""Look at everything a pipeline needs, and say what is wrong and what to do."""

from pipeline.doctor.diagnosis import PARTS, diagnose
from pipeline.doctor.finding import Finding, Level
from pipeline.doctor.queues import left_over

__all__ = ["PARTS", "Finding", "Level", "diagnose", "left_over"]
