"""Options of ``pipeline simulate``, and what its help says of them.

What there is much of is given as ``NAME=VALUE``: shares of all tasks or callbacks,
spans of time, and numbers that the provider allows.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import typer


class DoorName(StrEnum):
    """The sites that the product is sold at, as the setting ``provider.door``."""

    SUNOAPI_ORG = "sunoapi-org"
    API_BOX = "api-box"
    KIE_AI = "kie-ai"
    MUSICAPI_AI = "musicapi-ai"
    SUNOAPI_COM = "sunoapi-com"


EPILOG: Final = (
    "\b\nExamples\n"
    "  pipeline simulate --port 8300\n"
    "  pipeline simulate --port 8300 --share losses=0.3 --share failures=0.1\n"
    "  pipeline simulate --port 8300 --door kie-ai --webhook-key secret"
    " --span links=20m\n"
    "  pipeline simulate http://127.0.0.1:8080/callbacks/{operation} --tasks 20\n"
    "  pipeline simulate http://127.0.0.1:8080/callbacks/{operation} -o wav -o midi\n\n"
    "Without a URL it waits for submissions, such as those of `pipeline submit`, and"
    " calls back at the address that comes with each. It prints its address and its"
    " key, for provider.base_url and provider.api_key, and a link to audio that can be"
    " submitted. With a URL it plays tasks of its own, and takes submissions beside"
    " that.\n\n"
    "\b\nShares, each from 0 to 1 (--share NAME=NUMBER)\n"
    "  losses       callbacks that never come, though the provider thinks they did\n"
    "  unreachable  tasks whose callbacks reach nobody: after three more tries the\n"
    "               details say CALLBACK_EXCEPTION\n"
    "  duplicates   repeats among all callbacks; below 1\n"
    "  reordered    tasks whose callbacks come in another order\n"
    "  missing      tasks with a stage that no callback tells of\n"
    "  failures     tasks that fail\n"
    "  oddities     callbacks and tracks of another shape than documented\n"
    "  dead-links   finished tasks with a link that is dead from the beginning\n"
    "  renewable    of these, files that are there under a fresh link\n"
    "  recoverable  of the rest, files that come back when they are recovered\n\n"
    "Its own tasks have some of duplicates, reordered, missing, failures, oddities and"
    " dead-links unless told otherwise; submitted ones have only what is given.\n\n"
    "\b\nSpans on its own clock, see --time-scale (--span NAME=DURATION)\n"
    "  links     how long links to files work: 14d\n"
    "  recovery  how long it takes to bring lost files back: 20s\n"
    "  answer    how long a receiver may take to answer a callback: 15s\n"
    "  retries   the waits before each further try: 1m,5m,15m\n\n"
    "\b\nWhat it allows (--limit NAME=NUMBER)\n"
    "  submissions  new tasks within ten seconds: 20\n"
    "  questions    questions about one task within a second: 3\n"
    "  credits      submissions until the account is empty: 10000\n\n"
    "The pipeline must be allowed to fetch from this machine:"
    " download.allow_private_addresses, and to submit links of this machine:"
    " submit.allow_private_addresses. examples/simulated-provider.toml has all"
    " settings that it takes."
)

CallbackUrl = Annotated[
    str | None,
    typer.Argument(
        metavar="URL",
        help="Where to post tasks of its own; {operation} is replaced by each task's"
        " operation. Without one it waits for submissions.",
        show_default=False,
    ),
]
Tasks = Annotated[
    int | None,
    typer.Option(min=1, help="How many tasks of its own.", show_default="6"),
]
Operations = Annotated[
    list[str] | None,
    typer.Option(
        "--operation",
        "-o",
        metavar="NAME",
        help="What its own tasks are, such as wav or lyrics, or all. Can be repeated:"
        " then they take turns.",
        show_default="upload-extend",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        help="The same seed makes the same tasks, with the same ids: a pipeline that"
        " has seen them takes them for repeats.",
        show_default="1 for its own tasks; another one each time for submitted ones",
    ),
]
Door = Annotated[DoorName, typer.Option(help="Which of the provider's sites to be.")]
ApiKey = Annotated[
    str, typer.Option(help="The key that calls must bring; empty lets everybody in.")
]
WebhookKey = Annotated[
    str | None,
    typer.Option(
        help="Sign callbacks with this key, as the door does; not every one does.",
        show_default=False,
    ),
]
Shares = Annotated[
    list[str] | None,
    typer.Option(
        "--share", metavar="NAME=NUMBER", help="How often something goes wrong."
    ),
]
Spans = Annotated[
    list[str] | None,
    typer.Option("--span", metavar="NAME=DURATION", help="How long something takes."),
]
Limits = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="NAME=NUMBER", help="What it allows."),
]
RealTime = Annotated[
    bool,
    typer.Option(
        "--real-time-limits",
        help="Count calls in real time, not on its own clock: to see whether a client"
        " keeps to the limits.",
    ),
]
Host = Annotated[str, typer.Option(help="Where its API and files are.")]
Port = Annotated[int, typer.Option(help="0 takes a free one.")]
PublicUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Base address in links, if others reach it under another one.",
        show_default=False,
    ),
]
Stay = Annotated[
    bool,
    typer.Option(
        help="Keep offering the files when all callbacks are sent, until Ctrl-C."
    ),
]
