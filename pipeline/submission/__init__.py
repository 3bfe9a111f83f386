"""Submit tasks to the provider: check, send, expect, follow.

    async with open_submitter(settings) as submitter:
        checked = await submitter.check("upload-extend", fields)
        submitted = await submitter.submit(checked)

``open_submitter`` is in ``pipeline.bootstrap``.
"""

from pipeline.submission.checker import Checked, Checker
from pipeline.submission.follow import DeadFiles, Followed, Watch, follow, look
from pipeline.submission.jobs import new_job_id, read_job_id
from pipeline.submission.source import SourceCheck
from pipeline.submission.submitter import Submitted, Submitter

__all__ = [
    "Checked",
    "Checker",
    "DeadFiles",
    "Followed",
    "SourceCheck",
    "Submitted",
    "Submitter",
    "Watch",
    "follow",
    "look",
    "new_job_id",
    "read_job_id",
]
