"""From a request to an expected task: checked first, paid for once."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from pipeline import failpoints
from pipeline.bootstrap import (
    callback_address_of,
    ledger_of,
    open_checker,
    open_submitter,
)
from pipeline.errors import (
    ConfigurationError,
    JobInProgress,
    JobTaken,
    LedgerUnavailable,
    OutcomeUnknown,
    ProviderRefused,
    SubmissionInvalid,
)
from pipeline.ledger.jobs import JobId, JobState, NamedJob
from pipeline.settings import load_settings
from pipeline.submission import Submitted, read_job_id
from pipeline.submission.batch import Batch
from pipeline.submission.journal import Journal, State
from pipeline.submission.lines import read_lines
from pipeline.submission.source import check_link
from pipeline.task import Stage
from tests.callbacks import TASK, make_claim, make_update
from tests.file_server import FileServer, answer, silent
from tests.submission import SOURCE_SECONDS, TOKEN, Surroundings, surroundings
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from pipeline.submission.batch import Report

BASE = "https://hooks.example.com"


@pytest.fixture
async def around(tmp_path: Path) -> AsyncIterator[Surroundings]:
    """A provider and source audio."""
    async with surroundings(tmp_path) as started:
        yield started


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.arm({})


async def wrong(around: Surroundings, fields: dict[str, Any], **changes: object) -> str:
    async with open_checker(around.settings(**changes)) as checker:
        checked = await checker.check("upload-extend", fields)
    with pytest.raises(SubmissionInvalid) as caught:
        checked.good()
    return str(caught.value)


async def test_task_is_accepted_and_expected(around: Surroundings) -> None:
    settings = around.settings()

    async with open_submitter(settings) as submitter:
        checked = await submitter.check("upload-extend", around.fields())
        submitted = await submitter.submit(checked, job_id=JobId("song-7"))
    async with ledger_of(settings) as ledger:
        expected = await ledger.find_expected(submitted.task_id)

    assert {around.link: pytest.approx(SOURCE_SECONDS, abs=0.1)} == checked.lengths
    assert f"http://127.0.0.1:9/callbacks/upload-extend/{TOKEN}" == checked.callback_url
    assert around.provider.details(submitted.task_id) is not None
    assert submitted.is_expected
    assert expected is not None
    assert ("song-7", 0) == (expected.job_id, expected.questions)
    assert expected.due_at is not None


async def test_mistakes_are_named_at_once_and_nothing_is_paid(
    around: Surroundings,
) -> None:
    """Those of fields, of the source and of the settings."""
    credits_before = around.provider.credits
    settings = around.settings(provider__callback_url=None)
    fields = around.fields(continueAt=100, title="x" * 101)

    async with open_submitter(settings) as submitter:
        checked = await submitter.check("upload-extend", fields)
        with pytest.raises(SubmissionInvalid) as caught:
            await submitter.submit(checked)

    message = str(caught.value)
    for name in ("title", "style", "prompt", "continueAt", "callBackUrl"):
        assert f"\n  {name}: " in message
    assert credits_before == around.provider.credits


@pytest.mark.parametrize(
    ("path", "how", "expected"),
    [
        ("/gone.wav", answer(status=404), "the link has expired"),
        ("/text.wav", answer(b"<html>no song here"), "got text"),
        ("/noise.wav", answer(b"ID3\x04" + b"\x55" * 9000), "cannot be decoded"),
        ("/slow.wav", silent(), "expected"),
    ],
)
async def test_source_that_cannot_be_decoded_is_a_mistake(
    around: Surroundings, path: str, how: Any, expected: str
) -> None:
    link = around.files.add(path, how)

    # Short only where it is waited out: it has to do for the disk as well.
    limits = {"submit__source_timeout": "500ms"} if path == "/slow.wav" else {}
    found = await wrong(around, around.fields(uploadUrl=link), **limits)

    assert "uploadUrl: " in found
    assert expected in found


async def test_source_of_silence_is_a_mistake(around: Surroundings) -> None:
    size = 8000
    head = b"RIFF%sWAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x40\x1f\0\0\x01\0\x08\0"
    wav = head % (36 + size).to_bytes(4, "little")
    wav += b"data" + size.to_bytes(4, "little") + b"\x80" * size
    link = around.files.add("/silence.wav", answer(wav))

    assert "of silence" in await wrong(around, around.fields(uploadUrl=link))


async def test_source_longer_than_the_door_takes_is_a_mistake(
    around: Surroundings,
) -> None:
    short = {"sunoapi-org": {"limits": {"upload": {"default": "1s"}}}}

    found = await wrong(around, around.fields(), doors=short)

    assert "uploadUrl: expected audio of at most 1 s at the door sunoapi-org" in found


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("http://files.example.com/a.mp3", "expected an https link"),
        ("https://user:password@files.example.com/a.mp3", "without a user name"),
        ("https://127.0.0.1/a.mp3", "expected a public address"),
        ("https://localhost/a.mp3", "expected a public address"),
        ("https://[::1]/a.mp3", "expected a public address"),
        ("ftp://files.example.com/a.mp3", "expected an https link"),
        ("song.mp3", "expected"),
    ],
)
@pytest.mark.parametrize("check_source", [True, False])
async def test_link_must_be_public_and_https(
    around: Surroundings, link: str, expected: str, *, check_source: bool
) -> None:
    """Whether it is fetched or not."""
    found = await wrong(
        around,
        around.fields(uploadUrl=link),
        submit__allow_private_addresses=False,
        submit__check_source=check_source,
    )

    assert expected in found
    assert "password" not in found.replace("user name and password", "")
    assert [] == around.files.requests


@pytest.mark.parametrize(
    ("base", "is_good"),
    [
        ("https://hooks.example.com", True),
        ("https://203.0.112.9", True),
        ("https://10.1.2.3", False),
        ("https://[fd00::1]", False),
        ("https://localhost:8443", False),
        ("http://127.0.0.1:8080", False),
    ],
)
async def test_callback_address_must_be_public(
    around: Surroundings, base: str, *, is_good: bool
) -> None:
    """Or nothing would ever come of what was paid for."""
    changes = {"provider__callback_url": base, "submit__allow_private_addresses": False}

    async with open_checker(around.settings(**changes)) as checker:
        found = checker.check_fields("wav", {"taskId": "t-1", "audioId": "a-1"})

    named = [mistake.field for mistake in found.mistakes]
    assert ([] if is_good else ["callBackUrl"]) == named


async def test_host_that_nobody_knows_is_a_mistake() -> None:
    with pytest.raises(Exception, match="name service knows"):
        await check_link(
            "https://nobody.invalid/a.mp3", private=False, within=timedelta(seconds=5)
        )


async def test_copy_on_this_machine_is_decoded_instead(
    around: Surroundings, tmp_path: Path
) -> None:
    copy = tmp_path / "noise.wav"
    copy.write_bytes(b"RIFF no wav at all")

    async with open_checker(around.settings()) as checker:
        bad = await checker.check("upload-extend", around.fields(), copy)
        missing = await checker.check(
            "upload-extend", around.fields(), tmp_path / "nowhere.wav"
        )

    assert ["uploadUrl"] == [mistake.field for mistake in bad.mistakes]
    assert "found none at" in str(missing.mistakes[0])
    assert [] == around.files.requests


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, f"{BASE}/callbacks/wav"),
        ({"ingress.tokens": [TOKEN]}, f"{BASE}/callbacks/wav/{TOKEN}"),
        (
            {"ingress.tokens": ["x" * 15 + "/?"]},
            f"{BASE}/callbacks/wav/{'x' * 15}%2F%3F",
        ),
        (
            {
                "ingress.tokens": [TOKEN],
                "ingress.operation_tokens": {"wav": [TOKEN[::-1]]},
            },
            f"{BASE}/callbacks/wav/{TOKEN[::-1]}",
        ),
    ],
)
def test_callback_address_has_operation_and_token(
    settings: dict[str, object], expected: str
) -> None:
    flags = {"provider.callback_url": f"{BASE}/"} | settings
    loaded = load_settings(environ={}, flags=flags).settings

    assert expected == callback_address_of(loaded, "wav")


def test_operation_that_the_ingress_is_closed_for_has_no_address() -> None:
    flags = {
        "provider.callback_url": BASE,
        "ingress.operation_tokens": {"wav": [TOKEN]},
    }
    loaded = load_settings(environ={}, flags=flags).settings

    with pytest.raises(ConfigurationError, match="a token for lyrics"):
        callback_address_of(loaded, "lyrics")


def test_who_has_no_public_address_is_told_what_to_set() -> None:
    """The provider insists on one, also where all is found out by asking."""
    settings = load_settings(environ={}, flags={}).settings
    with pytest.raises(ConfigurationError) as caught:
        callback_address_of(settings, "wav")
    way_out = "https://callbacks.invalid"

    assert f"for polling alone, set one that leads nowhere, such as {way_out}" in str(
        caught.value
    )
    flags = {"provider.callback_url": way_out}
    followed = load_settings(environ={}, flags=flags).settings
    assert f"{way_out}/callbacks/wav" == callback_address_of(followed, "wav")


async def test_nothing_is_sent_that_could_not_be_noted_before(
    around: Surroundings,
) -> None:
    before = around.provider.credits
    async with open_submitter(around.settings()) as submitter:
        checked = await submitter.check("upload-extend", around.fields())
        await submitter._ledger.__aexit__(None, None, None)

        with pytest.raises(LedgerUnavailable, match="nothing was sent"):
            await submitter.submit(checked)

    assert before == around.provider.credits


async def test_task_is_submitted_though_the_ledger_is_lost_meanwhile(
    around: Surroundings,
) -> None:
    """It is paid for by then: nobody may think that it has failed."""
    before = around.provider.credits
    failpoints.arm({failpoints.VARIABLE: "submit.before_note=sleep:0.5"})

    async def is_sent() -> bool:
        return around.provider.credits < before

    async with open_submitter(around.settings()) as submitter:
        checked = await submitter.check("upload-extend", around.fields())
        submitting = asyncio.create_task(submitter.submit(checked))
        await eventually(is_sent)
        await submitter._ledger.__aexit__(None, None, None)

        submitted = await submitting

    assert not submitted.is_expected
    assert around.provider.details(submitted.task_id) is not None


async def test_what_the_provider_has_made_before_is_asked_for_at_once(
    around: Surroundings,
) -> None:
    """No callback will tell of it: the earlier task has had its own."""
    said = {"code": 409, "msg": "exists", "data": {"taskId": "the-earlier-task"}}
    around.files.add("/api/v1/generate", answer(orjson.dumps(said)))
    url = around.files.url("")
    settings = around.settings(provider__base_url=url, provider__door="kie-ai")
    async with open_submitter(settings) as submitter:
        checked = await submitter.check(
            "generate", {"prompt": "copper", "customMode": False, "model": "V5"}
        )
        submitted = await submitter.submit(checked, job_id=JobId("order-9"))
        again = await submitter.submit(checked, job_id=JobId("order-9"))
        expected = await submitter._ledger.find_expected(submitted.task_id)

    assert ("the-earlier-task", True) == (submitted.task_id, submitted.was_there)
    assert ("the-earlier-task", True) == (again.task_id, again.is_repeat)
    assert expected is not None
    assert submitted.submitted_at == expected.due_at == expected.submitted_at


async def test_job_is_sent_once_whoever_asks_how_often(around: Surroundings) -> None:
    settings, before = around.settings(), around.provider.credits
    job_id = JobId("order-7")

    async with open_submitter(settings) as submitter, open_submitter(settings) as other:
        checked = await submitter.check("upload-extend", around.fields())
        first = await submitter.submit(checked, job_id=job_id)
        again = await other.submit(checked, job_id=job_id)
        # The same request in other words, and nothing of it fetched.
        spelled = {"upload_url": around.link, "model": "V5", "continue_at": "0.5"}
        found = await other.find_earlier(
            other.check_fields("upload-extend", spelled), job_id
        )
        free = await other.find_earlier(checked, JobId("order-8"))

    assert not first.is_repeat
    assert replace(first, is_repeat=True) == again == found
    assert free is None
    assert 1 == before - around.provider.credits


async def test_id_of_a_job_is_taken_for_another_request(around: Surroundings) -> None:
    before, job_id = around.provider.credits, JobId("order-7")
    async with open_submitter(around.settings()) as submitter:
        checked = await submitter.check("upload-extend", around.fields())
        other = await submitter.check("upload-extend", around.fields(continueAt=0.25))
        await submitter.submit(checked, job_id=job_id)

        with pytest.raises(JobTaken, match="give another id"):
            await submitter.submit(other, job_id=job_id)
        with pytest.raises(JobTaken, match="got another"):
            await submitter.find_earlier(other, job_id)

    assert 1 == before - around.provider.credits


async def test_of_two_who_send_a_job_at_the_same_time_one_does(
    around: Surroundings,
) -> None:
    settings, before = around.settings(), around.provider.credits
    async with open_submitter(settings) as submitter, open_submitter(settings) as other:
        checked = await submitter.check("upload-extend", around.fields())

        results = await asyncio.gather(
            *(
                one.submit(checked, job_id=JobId("order-7"))
                for one in (submitter, other, submitter)
            ),
            return_exceptions=True,
        )

    assert 1 == before - around.provider.credits
    sent = [one for one in results if isinstance(one, Submitted) and not one.is_repeat]
    assert 1 == len(sent)
    others = [one for one in results if one not in sent]
    assert all(
        isinstance(one, JobInProgress) or (isinstance(one, Submitted) and one.is_repeat)
        for one in others
    )


async def test_job_that_was_refused_can_be_sent_again(around: Surroundings) -> None:
    job_id = JobId("order-7")
    around.provider.credits = 0
    async with open_submitter(around.settings()) as submitter:
        checked = await submitter.check("upload-extend", around.fields())
        with pytest.raises(ProviderRefused):
            await submitter.submit(checked, job_id=job_id)
        around.provider.credits = 1
        refused = await submitter.find_job(job_id)

        submitted = await submitter.submit(checked, job_id=job_id)

    assert refused is not None
    assert (JobState.REFUSED, True) == (refused.state, "429" in refused.reason)
    assert not submitted.is_repeat


async def test_submission_without_an_answer_is_known_by_its_callback(
    around: Surroundings,
) -> None:
    """And not sent again before nor after."""
    path, job_id = "/api/v1/generate/upload-extend", JobId("order-7")
    around.files.add(path, silent())
    settings = around.settings(
        provider__base_url=around.files.url(""), submit__timeout="200ms"
    )
    async with open_submitter(settings) as submitter, ledger_of(settings) as ledger:
        checked = await submitter.check("upload-extend", around.fields())
        for _ in range(2):
            with pytest.raises(OutcomeUnknown):
                await submitter.submit(checked, job_id=job_id)
        (opened,) = await ledger.list_open_jobs()
        named = NamedJob(mark=opened.mark, operation="upload-extend")
        await ledger.record([make_claim(make_update(Stage.TEXT), job=named)])

        submitted = await submitter.submit(checked, job_id=job_id)

    assert (job_id, JobState.UNKNOWN) == (opened.job_id, opened.state)
    assert (TASK, True) == (submitted.task_id, submitted.is_repeat)
    assert 1 == sum(path == one.target for one in around.files.requests)


async def test_callback_may_come_though_the_answer_does_not(
    around: Surroundings,
) -> None:
    """Then the submission has succeeded, as far as anybody can tell."""
    path = "/api/v1/generate/upload-extend"
    is_told = asyncio.Event()

    async def break_off(_: asyncio.StreamWriter) -> None:
        await is_told.wait()

    around.files.add(path, break_off)
    settings = around.settings(provider__base_url=around.files.url(""))

    async def is_sent() -> bool:
        return any(path == one.target for one in around.files.requests)

    async with open_submitter(settings) as submitter, ledger_of(settings) as ledger:
        checked = await submitter.check("upload-extend", around.fields())
        submitting = asyncio.create_task(submitter.submit(checked))
        await eventually(is_sent)
        (opened,) = await ledger.list_open_jobs()
        named = NamedJob(mark=opened.mark, operation="upload-extend")
        await ledger.record([make_claim(make_update(Stage.TEXT), job=named)])
        is_told.set()

        submitted = await submitting

    assert (TASK, False, True) == (
        submitted.task_id,
        submitted.is_repeat,
        submitted.is_expected,
    )


async def test_callback_address_that_is_sent_ends_in_the_mark_of_the_job(
    around: Surroundings,
) -> None:
    """Which nobody can guess, whatever the job is called."""
    path = "/api/v1/generate/upload-extend"
    around.files.add(path, answer(b'{"code": 200, "data": {"taskId": "t-1"}}'))
    settings = around.settings(provider__base_url=around.files.url(""))
    async with open_submitter(settings) as submitter:
        checked = await submitter.check("upload-extend", around.fields())
        await submitter.submit(checked, job_id=JobId("order-7"))
        job = await submitter.find_job(JobId("order-7"))

    (sent,) = [one for one in around.files.requests if path == one.target]
    assert job is not None
    expected = f"{checked.callback_url}?job={job.mark}"
    assert expected == orjson.loads(sent.body)["callBackUrl"]
    assert re.fullmatch("[0-9a-f]{32}", job.mark)


@pytest.mark.parametrize("text", ["", " ", "a b", "a" * 201, "ä", "a\n", "a\0"])
def test_id_of_a_job_is_what_can_be_read(text: str) -> None:
    with pytest.raises(ValueError, match="expected 1 to 200 printable"):
        read_job_id(text)


def write_batch(folder: Path, *rows: str) -> Path:
    path = folder / "songs.csv"
    head = "uploadUrl,model,continueAt,title"
    path.write_text("\n".join((head, *rows)) + "\n", encoding="utf-8")
    return path


async def run_batch(
    around: Surroundings, path: Path, *, stop_after: int = 0, **options: Any
) -> Report:
    """Submit a batch; with ``stop_after`` somebody stops it after so many lines."""
    stopping = asyncio.Event()
    changes = options.pop("changes", {})

    def on_progress(what: str, done: int, _: int) -> None:
        if what == "submitting" and done == stop_after:
            stopping.set()

    async with open_submitter(around.settings(**changes), once=True) as submitter:
        with Journal.opened(path) as journal:
            batch = Batch(
                submitter,
                journal,
                on_progress=on_progress,
                stopping=stopping,
                **options,
            )
            return await batch.run(read_lines(path, operation="upload-extend"))


def states(report: Report) -> list[State]:
    return [entry.state for entry in report.entries]


async def test_batch_that_was_stopped_goes_on_behind_the_last_line(
    around: Surroundings, tmp_path: Path
) -> None:
    path = write_batch(tmp_path, *[f"{around.link},V5,{n / 10}," for n in range(1, 5)])
    before = around.provider.credits

    first = await run_batch(around, path, stop_after=2)
    second = await run_batch(around, path)
    third = await run_batch(around, path)

    done, left = State.SUBMITTED, State.NOT_TRIED
    assert [done, done, left, left] == states(first)
    assert ([done] * 4, 2) == (states(second), second.earlier)
    assert third.entries == second.entries
    assert 4 == third.earlier
    assert third.is_good
    assert 4 == before - around.provider.credits


async def test_line_that_was_cut_off_is_unknown_and_not_sent_again_unasked(
    around: Surroundings, tmp_path: Path
) -> None:
    path = write_batch(tmp_path, f"{around.link},V5,0.1,", f"{around.link},V5,0.2,")
    before = around.provider.credits
    failpoints.arm({failpoints.VARIABLE: "submit.before_note=raise"})
    with pytest.raises(failpoints.FailpointReached):
        await run_batch(around, path)
    failpoints.arm({})

    second = await run_batch(around, path)
    paid = before - around.provider.credits
    third = await run_batch(around, path, again=True)

    assert [State.UNKNOWN, State.SUBMITTED] == states(second)
    assert not second.is_good
    assert 2 == paid
    assert [State.SUBMITTED, State.SUBMITTED] == states(third)
    assert 3 == before - around.provider.credits


async def test_mistake_in_one_line_stops_all_unless_told_otherwise(
    around: Surroundings, tmp_path: Path
) -> None:
    path = write_batch(
        tmp_path,
        f"{around.link},V5,0.1,",
        f"{around.link},V5,500,",
        "https://127.0.0.1:1/a.mp3,,x,",
    )
    before = around.provider.credits

    first = await run_batch(around, path)
    second = await run_batch(around, path, keep_going=True)

    wrong = [State.MISTAKEN] * 2
    assert [State.NOT_TRIED, *wrong] == states(first)
    assert [State.SUBMITTED, *wrong] == states(second)
    assert all(name in second.entries[2].reason for name in ("model", "continueAt"))
    assert 1 == before - around.provider.credits


async def test_account_that_is_empty_stops_the_batch(
    around: Surroundings, tmp_path: Path
) -> None:
    path = write_batch(tmp_path, *[f"{around.link},V5,{n / 10}," for n in range(1, 4)])
    around.provider.credits = 1

    first = await run_batch(around, path)
    around.provider.credits = 5
    second = await run_batch(around, path)

    assert [State.SUBMITTED, State.REFUSED, State.NOT_TRIED] == states(first)
    assert "code 429" in first.entries[1].reason
    assert [State.SUBMITTED] * 3 == states(second)


async def test_provider_that_never_answers_stops_the_batch(
    around: Surroundings, tmp_path: Path
) -> None:
    """What it has taken has to be paid for, line by line."""
    path = write_batch(tmp_path, *[f"{around.link},V5,{n / 10}," for n in range(1, 7)])

    async def hang_up(writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with FileServer() as server:
        server.add("/api/v1/generate/upload-extend", hang_up)
        changes = {"provider__base_url": server.url("")}
        report = await run_batch(around, path, changes=changes)

    assert [State.UNKNOWN] * 3 + [State.NOT_TRIED] * 3 == states(report)


async def test_key_that_is_not_taken_is_the_operators_matter(
    around: Surroundings,
) -> None:
    settings = around.settings(provider__api_key="another")

    async with open_submitter(settings) as submitter:
        checked = await submitter.check("upload-extend", around.fields())
        with pytest.raises(ProviderRefused, match="code 401"):
            await submitter.submit(checked)


async def test_line_that_was_cut_off_is_known_by_its_callback(
    around: Surroundings, tmp_path: Path
) -> None:
    """Then it is submitted, and not sent again though that is asked for."""
    path = write_batch(tmp_path, f"{around.link},V5,0.1,", f"{around.link},V5,0.2,")
    before = around.provider.credits
    failpoints.arm({failpoints.VARIABLE: "submit.before_note=raise"})
    with pytest.raises(failpoints.FailpointReached):
        await run_batch(around, path)
    failpoints.arm({})
    async with ledger_of(around.settings()) as ledger:
        (opened,) = await ledger.list_open_jobs()
        named = NamedJob(mark=opened.mark, operation="upload-extend")
        await ledger.record([make_claim(make_update(Stage.TEXT), job=named)])

    second = await run_batch(around, path, again=True)

    assert [State.SUBMITTED] * 2 == states(second)
    first = second.entries[0]
    assert (TASK, opened.job_id, 1) == (first.task_id, first.job_id, second.earlier)
    assert 2 == before - around.provider.credits


async def test_link_that_many_lines_share_is_fetched_once(
    around: Surroundings, tmp_path: Path
) -> None:
    bad = around.files.add("/bad.wav", answer(b"<html>no song here"))
    rows = [f"{link},V5,0.{n}," for n in range(1, 5) for link in (around.link, bad)]
    path = write_batch(tmp_path, *rows)

    report = await run_batch(around, path, keep_going=True)

    assert [State.SUBMITTED, State.MISTAKEN] * 4 == states(report)
    fetched = sorted(one.target for one in around.files.requests)
    assert ["/bad.wav", "/source.wav"] == fetched


async def test_good_lines_do_not_wait_for_the_check_of_others(
    around: Surroundings, tmp_path: Path
) -> None:
    """Where they are to be sent whatever is wrong with those."""
    slow = around.files.add("/slow.wav", silent())
    path = write_batch(tmp_path, f"{around.link},V5,0.1,", f"{slow},V5,0.2,")
    before = around.provider.credits

    async def is_sent() -> bool:
        return around.provider.credits < before

    running = asyncio.create_task(
        run_batch(
            around, path, keep_going=True, changes={"submit__source_timeout": "1m"}
        )
    )
    await eventually(is_sent)
    is_done = running.done()
    running.cancel()
    await asyncio.wait({running})

    assert not is_done
    assert 1 == before - around.provider.credits


async def test_line_that_cannot_be_noted_is_not_tried(
    around: Surroundings, tmp_path: Path
) -> None:
    path = write_batch(tmp_path, f"{around.link},V5,0.1,", f"{around.link},V5,0.2,")
    before = around.provider.credits
    async with open_submitter(around.settings(), once=True) as submitter:
        await submitter._ledger.__aexit__(None, None, None)
        with Journal.opened(path) as journal:
            batch = Batch(
                submitter,
                journal,
                on_progress=lambda *_: None,
                stopping=asyncio.Event(),
            )
            first = await batch.run(read_lines(path, operation="upload-extend"))

    second = await run_batch(around, path)

    assert [State.NOT_TRIED] * 2 == states(first)
    assert "nothing was sent" in first.entries[0].reason
    assert second.is_good
    assert 2 == before - around.provider.credits
