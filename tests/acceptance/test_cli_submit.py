"""``pipeline submit``, as its users start it, against the simulated provider."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import pty
import signal
import sqlite3
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import pytest
from typer.testing import CliRunner
from yarl import URL

from pipeline.bootstrap import open_checker
from pipeline.cli.main import app
from pipeline.failpoints import EXIT_CODE, VARIABLE
from pipeline.ledger import open_ledger
from pipeline.ledger.jobs import JobId
from pipeline.submission.lines import read_lines
from tests.command_line import WITHIN_SECONDS, until
from tests.file_server import silent
from tests.given_up import give_up
from tests.submission import TOKEN, Surroundings, surroundings
from tests.waiting import eventually

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator

    from tests.command_line import CommandLine

ADMIN_TOKEN = "an-admin-token-of-some-length"


def write_settings(around: Surroundings, **changes: object) -> None:
    lines = [
        f"{key} = {orjson.dumps(value).decode()}"
        for key, value in around.flags(**changes).items()
    ]
    text = "\n".join(sorted(lines, key=lambda line: "." in line.split(" ")[0]))
    (around.folder / "pipeline.toml").write_text(text, encoding="utf-8")


@pytest.fixture
async def around(tmp_path: Path) -> AsyncIterator[Surroundings]:
    """A provider, source audio, and settings for both."""
    async with surroundings(tmp_path) as started:
        write_settings(started)
        yield started


@asynccontextmanager
async def running_pipeline(
    cli: CommandLine, around: Surroundings, **changes: object
) -> AsyncIterator[str]:
    """Run everything; callbacks lead to it. Give the base address of the admin API."""
    with cli.running("run", "--port", "0") as run:
        address = await asyncio.to_thread(run.address)
        write_settings(around, provider__callback_url=address, **changes)
        yield address
        assert 0 == await asyncio.to_thread(run.stop)


async def called(
    cli: CommandLine, *arguments: str, **environ: str
) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(cli, *arguments, environ=environ)


def submission(around: Surroundings, *more: str) -> list[str]:
    return ["submit", around.link, "--model", "V5", "--continue-at", "0.5", *more]


async def test_submit_and_wait_ends_with_files_on_disk(
    cli: CommandLine, around: Surroundings
) -> None:
    """Submitted, called back, fetched: one command, and the files are there."""
    async with running_pipeline(cli, around):
        done = await called(cli, *submission(around, "--wait", "--json"))

        assert 0 == done.returncode, done.stderr
        found = json.loads(done.stdout)
        task = await asyncio.to_thread(cli.json, "tasks", "show", found["task_id"])
        plain = await called(cli, *submission(around, "--wait"))

    assert ("complete", True) == (found["stage"], found["is_good"])
    assert {"audio", "image"} == {file["kind"] for file in found["files"]}
    assert len(found["files"]) >= 2
    for file in found["files"]:
        content = await asyncio.to_thread(Path(file["location"]).read_bytes)
        assert hashlib.sha256(content).hexdigest() in file["location"]
        assert len(content) == file["size_bytes"]
    assert "upload-extend" == task["operation"]
    # And for people.
    assert 0 == plain.returncode, plain.stderr
    assert "files stored" in plain.stderr
    assert f"stored  audio  {around.folder}/assets/sha256/" in plain.stdout
    assert TOKEN not in done.stdout + done.stderr + plain.stdout + plain.stderr


async def make_before(around: Surroundings) -> str:
    """Have somebody else make a WAV file, who hears of it elsewhere."""
    fields = {"taskId": "t-1", "audioId": "a-1", "callBackUrl": "http://127.0.0.1:9"}
    key = {"Authorization": "Bearer simulated-key"}
    async with aiohttp.ClientSession(around.provider.url, headers=key) as session:
        path = "/api/v1/wav/generate"
        async with session.post(path, json=fields) as response:
            found = await response.json()
    return str(found["data"]["taskId"])


WAV = ("submit", "--operation", "wav", "--field", "taskId=t-1", "--field")


async def test_what_was_made_before_is_asked_for_until_its_file_is_on_disk(
    cli: CommandLine, tmp_path: Path
) -> None:
    """No callback comes to us, and it is not waited for one either."""
    async with surroundings(tmp_path, door="K", names_earlier=True) as around:
        changes = {"provider__door": "kie-ai", "poller__interval": "500ms"}
        write_settings(around, **changes)
        earlier = await make_before(around)
        async with running_pipeline(cli, around, **changes):
            done = await called(cli, *WAV, "audioId=a-1", "--wait", "--json")

    assert 0 == done.returncode, done.stderr
    found = json.loads(done.stdout)
    assert (earlier, True) == (found["task_id"], found["was_there"])
    assert ("complete", True) == (found["stage"], found["is_good"])
    (file,) = found["files"]
    content = await asyncio.to_thread(Path(file["location"]).read_bytes)
    assert hashlib.sha256(content).hexdigest() in file["location"]
    assert "made this before" in done.stderr


async def test_what_was_made_before_without_a_name_is_refused_with_what_to_do(
    cli: CommandLine, tmp_path: Path
) -> None:
    async with surroundings(tmp_path, door="K") as around:
        write_settings(around, provider__door="kie-ai")
        await make_before(around)
        done = await called(cli, *WAV, "audioId=a-1")
        tasks = await asyncio.to_thread(cli.json, "tasks", "list")

    assert 1 == done.returncode
    assert "got code 409" in done.stderr
    assert "look for it with `pipeline tasks list`" in done.stderr
    assert [] == tasks


async def test_job_that_was_killed_is_known_by_its_callback_and_not_sent_again(
    cli: CommandLine, around: Surroundings
) -> None:
    """The provider has taken it, and the process died before it could note that."""
    before = around.provider.credits
    arguments = submission(around, "--job-id", "order-7", "--json")
    async with running_pipeline(cli, around):
        killed = await called(cli, *arguments, **{VARIABLE: "submit.before_note=exit"})

        async with open_ledger(f"sqlite:///{around.folder}/ledger.db") as ledger:

            async def is_known() -> bool:
                job = await ledger.find_job(JobId("order-7"))
                return job is not None and job.task_id is not None

            await eventually(is_known)
        done = await called(cli, *arguments, "--wait")
        again = await called(cli, *arguments)

    found = json.loads(done.stdout)
    assert EXIT_CODE == killed.returncode
    assert 0 == done.returncode, done.stderr
    assert ("order-7", True, True) == (
        found["job_id"],
        found["is_repeat"],
        found["is_good"],
    )
    assert "job order-7 was submitted before; nothing was sent" in done.stderr
    assert around.provider.details(found["task_id"]) is not None
    assert 0 == again.returncode
    assert found["task_id"] == json.loads(again.stdout)["task_id"]
    assert 1 == before - around.provider.credits


async def test_job_of_which_nobody_knows_is_said_how_to_find(
    cli: CommandLine, around: Surroundings
) -> None:
    path = "/api/v1/generate/upload-extend"
    around.files.answers[path] = silent()
    server = str(URL(around.link).origin())
    write_settings(around, provider__base_url=server, submit__timeout="200ms")

    first = await called(cli, *submission(around, "--job-id", "order'7"))
    second = await called(cli, *submission(around, "--job-id", "order'7"))
    made = await called(cli, *submission(around))

    for done in (first, second, made):
        assert 1 == done.returncode
        assert "it may have been accepted all the same" in done.stderr
        assert "once a callback has told of it" in done.stderr
    assert """--job-id 'order'"'"'7' names the task""" in first.stderr
    assert "nothing was sent. A callback will tell" in second.stderr
    assert 2 == sum(path == one.target for one in around.files.requests)


async def test_wait_has_an_end(cli: CommandLine, around: Surroundings) -> None:
    """Nobody takes the callbacks here."""
    done = await called(cli, *submission(around, "--wait", "--timeout", "1s"))

    assert 3 == done.returncode
    assert "is not over yet" in done.stderr
    assert "pipeline tasks show" in done.stderr


async def test_task_is_named_though_ctrl_c_ends_the_waiting(
    cli: CommandLine, around: Surroundings
) -> None:
    """It is paid for, so its id is said before anybody waits, and in the end."""
    with cli.running(*submission(around, "--wait", "--json")) as run:
        await asyncio.to_thread(run.said, "is submitted")
        code = await asyncio.to_thread(run.stop, signal.SIGINT)

    found, errors = json.loads(run.log.read_bytes()), run.errors.read_text("utf-8")
    assert 130 == code, errors
    assert "Traceback" not in errors
    assert f"task {found['task_id']} is submitted" in errors
    assert around.provider.details(found["task_id"]) is not None
    assert not found["is_good"]


async def test_task_is_named_though_the_ledger_is_lost_while_it_is_waited_for(
    cli: CommandLine, around: Surroundings
) -> None:
    with cli.running(*submission(around, "--wait", "--json")) as run:
        await asyncio.to_thread(run.said, "is submitted")
        with closing(sqlite3.connect(around.folder / "ledger.db")) as ledger:
            ledger.execute("ALTER TABLE tasks RENAME TO taken_away")
        code = await asyncio.to_thread(run.process.wait, WITHIN_SECONDS)

    found, errors = json.loads(run.log.read_bytes()), run.errors.read_text("utf-8")
    assert 1 == code, errors
    assert "Traceback" not in errors
    assert "error: " in errors
    assert around.provider.details(found["task_id"]) is not None


async def test_wait_ends_when_the_task_is_given_up(
    cli: CommandLine, around: Surroundings
) -> None:
    write_settings(around, poller__quiet="1ms")

    with cli.running(*submission(around, "--wait", "--json")) as run:
        await asyncio.to_thread(run.said, "is submitted")
        async with open_ledger(f"sqlite:///{around.folder}/ledger.db") as ledger:
            await give_up(ledger)
        code = await asyncio.to_thread(run.process.wait, WITHIN_SECONDS)

    found, errors = json.loads(run.log.read_bytes()), run.errors.read_text("utf-8")
    assert 1 == code, errors
    assert (True, False) == (found["is_given_up"], found["is_good"])
    assert f"error: {found['task_id']}: " in errors
    assert "; given up: " in errors


async def test_mistakes_are_all_named_and_cost_nothing(
    cli: CommandLine, around: Surroundings
) -> None:
    before = around.provider.credits

    done = await called(
        cli,
        *("submit", around.link, "--model", "V4", "--continue-at", "99"),
        *("--style", "x" * 300, "--field", "vocalGendr=m"),
    )

    assert 1 == done.returncode
    for name in ("continueAt", "style", "title", "prompt", "vocalGendr"):
        assert f"\n  {name}: " in done.stderr
    assert "did you mean vocalGender?" in done.stderr
    assert before == around.provider.credits


async def test_dry_run_shows_what_would_be_sent_without_the_token(
    cli: CommandLine, around: Surroundings
) -> None:
    """It needs neither the key nor the ledger."""
    write_settings(around, provider__api_key=None)
    settings = around.folder / "pipeline.toml"
    lines = settings.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if "null" not in line)
    settings.write_text(text, encoding="utf-8")

    done = await called(cli, *submission(around, "--dry-run", "--json"))
    plain = await called(cli, *submission(around, "--dry-run"))

    assert 0 == done.returncode, done.stderr
    found = json.loads(done.stdout)
    assert around.link == found["fields"]["uploadUrl"]
    assert "http://127.0.0.1:9/callbacks/upload-extend/***" == found["callback_url"]
    assert 0 == plain.returncode
    assert "nothing was sent" in plain.stderr
    assert TOKEN not in done.stdout + plain.stdout
    assert not (around.folder / "ledger.db").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["submit", "--field", "x"], "expected NAME=VALUE, got 'x'"),
        (["submit", "-o", "wav", "https://a.example/b"], "it takes no single source"),
        (["submit", "--timeout", "soon"], "expected a duration"),
        (["submit", "--job-id", "a b"], "expected 1 to 200 printable ASCII"),
        (["submit-batch"], "Missing argument"),
        # It is off by default.
        (["admin"], "admin.port"),
    ],
)
def test_wrong_usage_is_said(arguments: list[str], expected: str) -> None:
    done = CliRunner().invoke(app, arguments)

    assert 2 == done.exit_code
    assert expected in " ".join(done.stderr.split())


def write_batch(folder: Path, link: str, count: int) -> Path:
    path = folder / "songs.csv"
    rows = [f"{link},V5,0.{n}" for n in range(1, count + 1)]
    text = "\n".join(["uploadUrl,model,continueAt", *rows])
    path.write_text(text, encoding="utf-8")
    return path


async def test_batch_that_was_killed_goes_on_and_pays_for_no_line_twice(
    cli: CommandLine, around: Surroundings
) -> None:
    """Of the line that was being sent it says that nobody knows."""
    write_batch(around.folder, around.link, 4)
    before = around.provider.credits
    arguments = ("submit-batch", "songs.csv", "--json")

    killed = await called(cli, *arguments, **{VARIABLE: "submit.before_note=exit@2"})
    second = await called(cli, *arguments)
    third = await called(cli, *arguments)

    assert EXIT_CODE == killed.returncode
    assert 1 == second.returncode, second.stderr
    report = json.loads(second.stdout)
    states = [line["state"] for line in report["lines"]]
    assert ["submitted", "unknown", "submitted", "submitted"] == states
    assert (3, 1, 1) == (report["submitted"], report["unknown"], report["earlier"])
    assert report["lines"] == json.loads(third.stdout)["lines"]
    assert 4 == before - around.provider.credits


async def test_batch_is_reported_once_and_waited_for(
    cli: CommandLine, around: Surroundings
) -> None:
    write_batch(around.folder, around.link, 3)

    async with running_pipeline(cli, around):
        done = await called(cli, "submit-batch", "songs.csv", "--wait")

    assert 0 == done.returncode, done.stderr
    assert 3 == done.stdout.count("complete")
    assert "3 lines: 3 submitted" in done.stdout


async def test_terminal_shows_bars_and_the_first_ctrl_c_ends_after_the_line(
    cli: CommandLine, around: Surroundings
) -> None:
    """What is being sent is paid for."""
    write_batch(around.folder, around.link, 3)
    ours, theirs = pty.openpty()
    before = around.provider.credits
    with cli.running(
        "submit-batch",
        "songs.csv",
        environ={VARIABLE: "submit.before_note=sleep:2"},
        errors=theirs,
    ) as run:
        os.close(theirs)
        reading = asyncio.create_task(asyncio.to_thread(read_terminal, ours))
        while around.provider.credits == before:  # noqa: ASYNC110  a process does it
            await asyncio.sleep(0.02)
        code = await asyncio.to_thread(run.stop, signal.SIGINT)
    shown = await reading

    printed = run.log.read_text(encoding="utf-8")
    assert 1 == code
    assert "3 lines: 1 submitted, 2 not tried" in printed
    assert "checking" in shown
    assert 1 == before - around.provider.credits


async def test_ctrl_c_while_a_batch_is_waited_for_ends_with_its_report(
    cli: CommandLine, around: Surroundings
) -> None:
    """Nobody takes the callbacks here."""
    write_batch(around.folder, around.link, 2)
    ours, theirs = pty.openpty()
    with cli.running("submit-batch", "songs.csv", "--wait", errors=theirs) as run:
        os.close(theirs)
        shown = b""
        while b"waiting" not in shown:
            shown += await asyncio.to_thread(os.read, ours, 4096)
        reading = asyncio.create_task(asyncio.to_thread(read_terminal, ours))
        code = await asyncio.to_thread(run.stop, signal.SIGINT)
    errors = await reading

    printed = run.log.read_text(encoding="utf-8")
    assert 1 == code
    assert "2 lines: 2 submitted" in printed
    assert "0 of 2 tasks over: start the same again" in " ".join(errors.split())
    assert "Traceback" not in errors


@pytest.mark.parametrize("command", ["submit", "submit-batch"])
async def test_second_ctrl_c_leaves_the_outcome_unknown(
    cli: CommandLine, around: Surroundings, command: str
) -> None:
    """The first has what is being sent end; the provider does not answer here."""
    write_batch(around.folder, around.link, 2)
    path = "/api/v1/generate/upload-extend"
    around.files.answers[path] = silent()
    server = URL(around.link).origin()
    write_settings(around, provider__base_url=str(server))
    arguments = submission(around) if command == "submit" else [command, "songs.csv"]

    with cli.running(*arguments) as run:
        await asyncio.to_thread(
            until, lambda: any(path == one.target for one in around.files.requests)
        )
        run.process.send_signal(signal.SIGINT)
        await asyncio.to_thread(run.said, "after another signal nobody knows")
        code = await asyncio.to_thread(run.stop, signal.SIGINT)

    errors = run.errors.read_text(encoding="utf-8")
    assert 1 == code, errors
    assert "Traceback" not in errors
    assert "it may have been accepted all the same" in errors
    assert 1 == sum(path == one.target for one in around.files.requests)


def read_terminal(descriptor: int) -> str:
    """Read what is shown until nobody shows anything any more."""
    shown = b""
    with contextlib.suppress(OSError):
        while piece := os.read(descriptor, 4096):
            shown += piece
    os.close(descriptor)
    return shown.decode()


async def test_dry_run_of_a_batch_names_the_lines_with_mistakes(
    cli: CommandLine, around: Surroundings
) -> None:
    path = write_batch(around.folder, around.link, 2)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\n{around.link},,7777\n")
    before = around.provider.credits

    done = await called(cli, "submit-batch", "songs.csv", "--dry-run")

    assert 1 == done.returncode
    assert "line 4: model: expected a value, got none" in done.stdout
    assert "line 4: continueAt: expected a place in the source" in done.stdout
    assert "2 of 3 lines can be submitted" in done.stdout
    assert before == around.provider.credits
    assert [path] == [*around.folder.glob("songs.csv*")]


async def test_example_can_be_submitted(around: Surroundings) -> None:
    """But for its links, which lead nowhere."""
    example = Path(__file__).parents[2] / "examples" / "songs.csv"
    async with open_checker(around.settings(submit__check_source=False)) as checker:
        for line in read_lines(example, operation="upload-extend"):
            fields = dict(line.fields)
            if "uploadUrl" in fields:
                fields["uploadUrl"] = around.link

            checked = await checker.check(line.operation, fields, line.source_file)

            assert () == checked.mistakes


async def test_other_programs_submit_at_the_admin_service(
    cli: CommandLine, around: Surroundings
) -> None:
    write_settings(around, admin__port=0, admin__tokens=[ADMIN_TOKEN])

    async with admin_service(cli) as base, aiohttp.ClientSession(base) as session:
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        async with session.post(
            "/tasks", json=around.fields(), headers=headers
        ) as response:
            created: dict[str, Any] = await response.json()
            assert 201 == response.status, created

    assert around.provider.details(created["task_id"]) is not None


@asynccontextmanager
async def admin_service(cli: CommandLine) -> AsyncIterator[str]:
    with cli.running("admin") as admin:
        yield await asyncio.to_thread(admin.address)
        assert 0 == await asyncio.to_thread(admin.stop)
